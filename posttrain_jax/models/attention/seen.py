"""What a token may see: as masks for the plain form, by structure for kernels.

Suffix letters as in `plain`; G completions of each of B prompts, R = B * G
rows, P and C tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Record
from posttrain_jax.models import remat
from posttrain_jax.models.attention import plain
from posttrain_jax.models.attention.kernels import Sight, attend_ids
from posttrain_jax.models.config import ModelConfig

__all__ = [
  'Groups',
  'Rows',
  'Structure',
  'by_structure',
  'over_groups',
  'over_rows',
]


class Structure(Record):
  """What is seen, by ids. A layer is of a `kind`, 'full' or 'window', or in a
  loop over layers of both has a window where `near`."""

  near: Array | None
  kind: str

  def in_loop(self, near: Array) -> 'Structure':
    """For a layer of a loop over both kinds."""
    return self.replace(near=near, kind='')

  def each(self, make: Callable[[int], Any], config: ModelConfig) -> Any:
    """`make(window)` for the layer's window, 0 for none."""
    if self.near is None:
      return make(config.sliding_window if self.kind == 'window' else 0)
    return jax.lax.cond(
      self.near, lambda: make(config.sliding_window), lambda: make(0)
    )


@struct.dataclass
class Rows(Structure):
  """Tokens see those of their id before them. ids [B, T]; 0: padding."""

  ids: Array
  near: Array | None = None
  kind: str = struct.field(pytree_node=False, default='full')


@struct.dataclass
class Groups(Structure):
  """Completions see their prompt and themselves.

  prompts      [B, P] bool, real tokens; right-padded
  completions  [R, C]
  """

  prompts: Array
  completions: Array
  near: Array | None = None
  kind: str = struct.field(pytree_node=False, default='full')


def by_structure(config: ModelConfig) -> bool:
  """Whether attention over whole rows is told what is seen by a `Structure`:
  kernels want it so, and queries that lie on several devices."""
  return config.attention != 'plain' or sharding.size('sequence') > 1


def over_rows(
  q: Array, k: Array, v: Array, seen: Array | Rows, config: ModelConfig
) -> Array:
  """Causal attention of q [B, N, R, T, K] over k, v [B, N, T, K].

  seen  `Rows`, or [B, T, T] bool
  """
  if isinstance(seen, Rows):
    make = lambda window: attend_ids(
      q, k, v, seen.ids, seen.ids, Sight(0, window), config
    )
    return seen.each(make, config)
  out = plain.attend_causal(
    q, k, v, seen, config.attention_chunk, plain.scores_of(config)
  )
  return remat.mark(out, remat.ATTENTION)


Heads = tuple[Array, Array, Array]


def over_groups(
  prompts: Heads,
  completions: Heads,
  seen: tuple[Array, Array, Array] | Groups,
  config: ModelConfig,
) -> tuple[Array, Array]:
  """Causal attention in prompts, and in completions that read their prompt.

  prompts      q [B, N, R, P, K], k, v [B, N, P, K]
  completions  q [B * G, N, R, C, K], k, v [B * G, N, C, K]; rows of one prompt
               next to each other
  seen         `Groups`, or what a completion sees of itself, a prompt of itself
               and a completion of its prompt

  A kernel reads prompt and completion as one row of keys: that row is made for
  each completion, the products with weights are not.
  """
  if isinstance(seen, Groups):
    return _groups(prompts, completions, seen, config)
  own, of_prompt, shared = seen
  how = config.attention_chunk, plain.scores_of(config)
  first = plain.attend_causal(*prompts, of_prompt, *how)
  second = plain.attend_causal_with_prefix(
    *completions, own, *prompts[1:], shared, *how
  )
  return first, second


def _groups(
  prompts: Heads, completions: Heads, seen: Groups, config: ModelConfig
) -> tuple[Array, Array]:
  real = seen.prompts
  ids = real.astype(jnp.int32)
  group = completions[0].shape[0] // real.shape[0]
  each = lambda x: jnp.repeat(x, group, axis=0)
  first = seen.each(
    lambda window: attend_ids(*prompts, ids, ids, Sight(0, window), config),
    config,
  )

  def second(window: int) -> Array:
    _, k, v = prompts
    there = real
    if window:
      # Distances are those of columns once the padding comes first.
      shift = jnp.sum(~real, axis=1)
      right = jax.vmap(lambda x, by: jnp.roll(x, by, axis=-2))
      k, v = right(k, shift), right(v, shift)
      there = right(real[..., None], shift)[..., 0]
    q, own_k, own_v = completions
    join = lambda before, own: jnp.concatenate([each(before), own], axis=2)
    own_ids = seen.completions.astype(jnp.int32)
    # Padding of a prompt has an id of its own, which no query has.
    before = jnp.where(there, 1, 2)
    k_ids = jnp.concatenate([each(before), own_ids], axis=1)
    sight = Sight(real.shape[1], window)
    keys = join(k, own_k), join(v, own_v)
    return attend_ids(q, *keys, own_ids, k_ids, sight, config)

  return first, seen.each(second, config)
