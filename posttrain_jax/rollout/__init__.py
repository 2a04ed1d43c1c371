"""Group rollouts inside one compiled program.

`generate` reads each prompt once, shares its keys and values among the group's
completions, and decodes until every row has stopped. A completion depends only
on (key, prompt id, sample id, position): never on the batch it sits in.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import slots as slots_lib
from posttrain_jax.rollout.assemble import assemble, assemble_groups, place
from posttrain_jax.types import Array, PyTree, Rollout

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
  eos_id: int,
  pad_id: int = 0,
  prompt_ids: Array | None = None,
  slots: int = 0,
) -> Rollout:
  """Completions of B prompts, `group_size` each.

  prompts      [B, P] int32, right-padded, at least one real token a row
  prompt_mask  [B, P], 1 on real tokens
  key          the randomness of this call (fold the step into it)
  decoder      from `rollout.decoders`: (logits [R, V], keys [R]) -> draws
  eos_id       the token that ends a completion; it is kept and counted
  prompt_ids   [B] identities that key the randomness; default 0 .. B - 1
  slots        completions that are decoded at a time; a finished one makes room
               for the next (`rollout.slots`). 0: all of them at once

  Returns a Rollout of [B, G, C] arrays with C = max_new_tokens.
  """
  b, rows = prompts.shape[0], prompts.shape[0] * group_size
  if prompt_ids is None:
    prompt_ids = jnp.arange(b, dtype=jnp.uint32)
  keys = row_keys(key, prompt_ids, group_size)
  params = transformer.unstack(params, config)
  with jax.named_scope('prefill'):
    logits, prefix = _prefill(params, config, prompts, prompt_mask)
  shape = (b, group_size, max_new_tokens)
  if 0 < slots < rows:
    with jax.named_scope('decode'):
      done = slots_lib.decode(
        params,
        config,
        prefix,
        logits,
        _lengths(prompt_mask),
        keys,
        slots=slots,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        decoder=decoder,
        eos_id=eos_id,
        pad_id=pad_id,
      )
    return Rollout(
      completion=done['completion'].reshape(shape),
      mask=done['mask'].reshape(shape),
      logps=done['logps'].reshape(shape),
      finished=done['finished'].reshape(shape[:2]),
    )
  with jax.named_scope('prefill'):
    logits = jnp.repeat(logits, group_size, axis=0)
    starts = jnp.repeat(_lengths(prompt_mask), group_size)

  def draw(logits, t):
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
    return decoder(logits, step_keys)

  carry = {
    't': jnp.int32(1),
    'token': jnp.zeros((rows,), jnp.int32),
    'done': jnp.zeros((rows,), bool),
    'completion': jnp.full((rows, max_new_tokens), pad_id, jnp.int32),
    'mask': jnp.zeros((rows, max_new_tokens), jnp.float32),
    'logps': jnp.zeros((rows, max_new_tokens), jnp.float32),
    'cache': _own(transformer.init_cache(config, rows, max_new_tokens)),
  }
  carry = _record(carry, 0, *draw(logits, 0), eos_id, pad_id)

  def advance(carry):
    t = carry['t']
    # The prefix stays outside the loop's carry: it is read, never written.
    cache = carry['cache'].replace(
      prefix_keys=prefix.keys,
      prefix_values=prefix.values,
      prefix_mask=prefix.mask,
    )
    logits, cache = transformer.apply(
      params,
      config,
      carry['token'][:, None],
      positions=(starts + t - 1)[:, None],
      cache=cache,
    )
    carry = carry | {'t': t + 1, 'cache': _own(cache)}
    return _record(carry, t, *draw(logits[:, 0], t), eos_id, pad_id)

  with jax.named_scope('decode'):
    carry = jax.lax.while_loop(
      lambda c: (c['t'] < max_new_tokens) & ~jnp.all(c['done']), advance, carry
    )
  return Rollout(
    completion=carry['completion'].reshape(shape),
    mask=carry['mask'].reshape(shape),
    logps=carry['logps'].reshape(shape),
    finished=carry['done'].reshape(shape[:2]).astype(jnp.float32),
  )


def _lengths(mask: Array) -> Array:
  return mask.astype(jnp.int32).sum(axis=1)


def _prefill(params, config, prompts, prompt_mask):
  """Reads the prompts: (logits of the first new token [B, V], cache)."""
  prefix = transformer.init_cache(config, *prompts.shape)
  hidden, prefix = transformer.hidden_states(
    params, config, prompts, mask=prompt_mask, cache=prefix
  )
  index = _lengths(prompt_mask)[:, None, None] - 1
  last = jnp.take_along_axis(hidden, index, axis=1)
  return transformer.unembed(params, config, last[:, 0]), prefix


def _record(carry, t, token, logp, eos_id: int, pad_id: int):
  """Writes column t of the rows that are still running."""
  running = ~carry['done']
  start = (jnp.int32(0), jnp.int32(t))
  column = lambda buffer, x: jax.lax.dynamic_update_slice(
    buffer, x[:, None].astype(buffer.dtype), start
  )
  token = jnp.where(running, token, pad_id)
  return carry | {
    'token': token,
    'done': carry['done'] | (token == eos_id) & running,
    'completion': column(carry['completion'], token),
    'mask': column(carry['mask'], running),
    'logps': column(carry['logps'], jnp.where(running, logp, 0.0)),
  }


def _own(cache: transformer.Cache) -> transformer.Cache:
  return cache.replace(prefix_keys=None, prefix_values=None, prefix_mask=None)
