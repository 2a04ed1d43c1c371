"""What a decode loop is given, whichever way it goes about it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.stops import Ends, reached
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import transformer
from posttrain_jax.models.cache import by_rows
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout
from posttrain_jax.rollout.guide import Guide

__all__ = ['Drawn', 'Work', 'over_parts', 'prefill']


class Drawn(NamedTuple):
  """One token of R completions.

  token, logp  [R]; logp 0.0 of a token that a guide forced
  forced       [R] bool
  stopped      [R] bool, the completion is complete with it
  state        the guide's states after it
  """

  token: Array
  logp: Array
  forced: Array
  stopped: Array
  state: PyTree


@dataclasses.dataclass(frozen=True)
class Work:
  """What is to be decoded: N = B * group_size completions.

  prefix          a filled cache of the B prompts
  first_logits    [B, V] of each prompt's first new token
  prompt_size     P, tokens that a prompt may have
  prompt_lengths  [B]
  keys            [N] one key a completion
  max_new_tokens  C
  stages          steps in which the cache grows to C
  guide_state     the guide's states [N, ...] before the first token
  """

  params: PyTree
  config: ModelConfig
  prefix: transformer.Cache
  first_logits: Array
  prompt_size: int
  prompt_lengths: Array
  keys: Array
  group_size: int
  max_new_tokens: int
  decoder: Callable
  eos_id: Ends
  pad_id: int
  stages: int
  guide: Guide
  guide_state: PyTree

  @property
  def count(self) -> int:
    """N."""
    return self.keys.shape[0]

  def draw(self, logits: Array, rows: Array, t: Array, state: PyTree) -> Drawn:
    """Tokens number t [R] of completions `rows` [R] from logits [R, V]."""
    guide = self.guide
    logits = sharding.constrain(logits, 'rows', 'vocab')
    if guide.adjusts:
      logits = jax.vmap(guide.adjust)(state, logits)
    keys = jax.vmap(jax.random.fold_in)(self.keys[rows], t)
    token, logp = self.decoder(logits, keys)
    forced = jnp.zeros(token.shape, bool)
    if guide.forces:
      given = jax.vmap(guide.forced)(state)
      forced = given >= 0
      token = jnp.where(forced, given, token)
      logp = jnp.where(forced, 0.0, logp)
    state = jax.vmap(guide.read)(state, token)
    stopped = ~forced & reached(token, self.eos_id) & guide.eos_ends
    if jax.tree.leaves(state):
      stopped |= jax.vmap(guide.ended)(state)
    return Drawn(token, logp, forced, stopped, state)


def over_parts(
  function: Callable[[Work], dict[str, Array]], work: Work
) -> dict[str, Array]:
  """`function` of each part's own completions, on the mesh here.

  Weights are the same for all parts of the rows; a part waits for no other but
  where a loop asks all of them (`runs.any_run`). Returns arrays [N, ...].
  """
  axes = tuple(a for a in sharding.over('rows') if sharding.size(a) > 1)
  own = lambda x, axis=0: P(*(None,) * axis, axes)
  fields = {
    'params': P(),
    'prefix': by_rows(own, work.prefix).replace(length=P()),
    'first_logits': own(None),
    'prompt_lengths': own(None),
    'keys': own(None),
    'guide_state': own(None),
  }

  def part(arrays):
    return function(dataclasses.replace(work, **arrays))

  return jax.shard_map(
    part,
    in_specs=(fields,),
    out_specs=own(None),
    axis_names=set(axes),
    check_vma=False,
  )({name: getattr(work, name) for name in fields})


def prefill(
  reading: PyTree,
  params: PyTree,
  config: ModelConfig,
  prompts: Array,
  prompt_mask: Array,
) -> tuple[Array, transformer.Cache]:
  """Reads prompts [B, P]: (logits of the first new token [B, V], cache).

  reading, params  of `layout.weights`
  """
  rows, length = prompts.shape
  hidden, cache = transformer.hidden_states(
    reading,
    config,
    prompts,
    mask=prompt_mask,
    cache=transformer.init_cache(config, rows, length),
  )
  assert cache is not None  # One was given.
  index = prompt_mask.astype(jnp.int32).sum(axis=1)[:, None, None] - 1
  last = jnp.take_along_axis(hidden, index, axis=1)
  with layout.decoding(config):
    last = sharding.constrain(last[:, 0], 'rows')
    logits = transformer.unembed(params, config, last)
    return sharding.constrain(logits, 'rows', 'vocab'), layout.cache(cache)
