"""Group rollouts inside one compiled program.

`generate` reads each prompt once, shares its keys and values among the group's
completions, and decodes until every row has stopped. A completion depends only
on (key, prompt id, sample id, position): never on the batch it sits in.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout, together
from posttrain_jax.rollout import slots as in_slots
from posttrain_jax.rollout.assemble import assemble, assemble_groups, place
from posttrain_jax.rollout.guide import Guide, start_rows
from posttrain_jax.rollout.work import Work, prefill

__all__ = ['assemble', 'assemble_groups', 'generate', 'place', 'row_keys']


def row_keys(key: Array, prompt_ids: Array, group_size: int) -> Array:
  """One key per completion [B * G], from the identities alone."""
  samples = jnp.arange(group_size, dtype=jnp.uint32)
  per_prompt = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_ids)
  keys = jax.vmap(
    lambda k: jax.vmap(jax.random.fold_in, (None, 0))(k, samples)
  )(per_prompt)
  return keys.reshape(-1)


def generate(
  params: PyTree,
  config: ModelConfig,
  prompts: Array,
  prompt_mask: Array,
  key: Array,
  *,
  group_size: int,
  max_new_tokens: int,
  decoder: Callable,
  eos_id: Ends,
  pad_id: int = 0,
  prompt_ids: Array | None = None,
  slots: int = 0,
  stages: int = 1,
  guide: Guide | None = None,
  guide_state: PyTree | None = None,
) -> Rollout:
  """Completions of B prompts, `group_size` each.

  prompts      [B, P] int32, right-padded, at least one real token a row
  prompt_mask  [B, P], 1 on real tokens
  key          the randomness of this call (fold the step into it)
  decoder      from `rollout.decoders`: (logits [R, V], keys [R]) -> draws
  eos_id       the token, or tokens, that end a completion; kept and counted
  prompt_ids   [B] identities that key the randomness; default 0 .. B - 1
  slots        completions that are decoded at a time; a finished one makes room
               for the next (`rollout.slots`). 0: all of them at once
  stages       steps in which the cache grows to C: completions that all end
               early then pay for a part of it (programs compile for longer).
               Slots have a cache of C from the beginning
  guide        what steers the completions besides the model (`rollout.guides`)
  guide_state  its states [B, G, ...] before the first token; default: what it
               starts with on each prompt

  Returns a Rollout of [B, G, C] arrays with C = max_new_tokens.
  """
  b, rows = prompts.shape[0], prompts.shape[0] * group_size
  if prompt_ids is None:
    prompt_ids = jnp.arange(b, dtype=jnp.uint32)
  if guide is None:
    guide_state = ()
  elif guide_state is None:
    guide_state = start_rows(guide, prompts, prompt_mask, group_size)
  guide_state = jax.tree.map(
    lambda x: x.reshape(rows, *x.shape[2:]), guide_state
  )
  there = layout.rows_of(b, group_size, config)
  prompts, prompt_mask = there.of_prompts((prompts, prompt_mask))
  reading, params = layout.weights(params, config)
  with jax.named_scope('prefill'):
    logits, prefix = prefill(reading, params, config, prompts, prompt_mask)
  work = Work(
    params=params,
    config=config,
    prefix=prefix,
    first_logits=logits,
    prompt_size=prompts.shape[1],
    prompt_lengths=prompt_mask.astype(jnp.int32).sum(axis=1),
    keys=there.of_rows(row_keys(key, prompt_ids, group_size)),
    group_size=there.group,
    max_new_tokens=max_new_tokens,
    decoder=decoder,
    eos_id=eos_id,
    pad_id=pad_id,
    stages=stages,
    guide=guide or Guide(),
    guide_state=there.of_rows(guide_state),
  )
  with jax.named_scope('decode'), layout.decoding(config):
    if 0 < slots < work.count:
      done = in_slots.decode(work, slots)
    else:
      done = together.decode(work)
  if there.moved:
    done = {name: x[:rows] for name, x in done.items()}
  return _in_groups(done, (b, group_size, max_new_tokens), work.guide.forces)


def _in_groups(
  done: dict[str, Array], shape: tuple[int, int, int], forces: bool
) -> Rollout:
  """Rows [B * G, C] as groups of `shape` [B, G, C]."""
  return Rollout(
    completion=done['completion'].reshape(shape),
    mask=done['mask'].reshape(shape),
    logps=done['logps'].reshape(shape),
    finished=done['finished'].reshape(shape[:2]),
    given=done['given'].reshape(shape) if forces else None,
  )
