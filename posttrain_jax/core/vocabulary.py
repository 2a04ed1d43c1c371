"""Order and picks over a vocabulary that a mesh may have in parts.

Every function takes scores over tokens in the last axis, and gives to the bit
what the plain form gives. Where axis tensor splits the vocabulary nothing as
large as the scores travels to every device: largest ones are found in each part
first, and what needs all tokens in order gets a share of the rows each.

  V tokens  k how many
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array

__all__ = ['kth_largest', 'parts', 'taken', 'to_order', 'top_k']


def parts(size: int) -> int:
  """How many parts a vocabulary of so many tokens is in; 1 where the mesh does
  not divide it."""
  count = sharding.size(*sharding.over('vocab'))
  return count if size % count == 0 else 1


def taken(scores: Array, tokens: Array) -> Array:
  """scores [..., V] of tokens [...]."""
  if parts(scores.shape[-1]) == 1:
    return jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
  # Each device looks into its own part: one number a row is summed.
  ids = jnp.arange(scores.shape[-1], dtype=tokens.dtype)
  here = tokens[..., None] == ids.reshape((1,) * tokens.ndim + (-1,))
  return jnp.sum(jnp.where(here, scores, 0.0), axis=-1)


def to_order(scores: Array) -> Array:
  """scores [..., V] where a sort over V needs no other device: parts of the
  vocabulary change places with parts of the rows."""
  count = parts(scores.shape[-1])
  if count == 1:
    return scores
  names: list[Any] = ['rows', *(None,) * (scores.ndim - 1)]
  for axis in range(scores.ndim - 1):
    share = sharding.size(*sharding.over('rows')) if axis == 0 else 1
    if scores.shape[axis] % (share * count) == 0:
      names[axis] = 'vocab' if axis else ('rows', 'vocab')
      break
  return sharding.constrain(scores, *names)


def _names(scores: Array) -> list[str | None]:
  """Of the dimensions before the last: rows, and positions of a row."""
  names = ['rows', 'length', *(None,) * scores.ndim]
  return names[: scores.ndim - 1]


def _best(scores: Array, k: int) -> tuple[Array, Array]:
  """The k largest of scores [..., V], and their tokens, V in parts: [..., k].

  Each device looks into what it has: compilers would gather all of it first.
  """
  size = scores.shape[-1]
  own = size // parts(size)
  spec = sharding.placed(scores.shape, *_names(scores), 'vocab')
  axes = sharding.names_of(spec[-1])

  def one(part):
    best, where = jax.lax.top_k(part, min(k, own))
    first = own * jax.lax.axis_index(axes)
    found = best, where + first.astype(where.dtype)
    # Parts stand in the order of their tokens, so equal ones do, too.
    best, where = (
      jax.lax.all_gather(x, axes, axis=x.ndim - 1, tiled=True) for x in found
    )
    best, place = jax.lax.top_k(best, k)
    return best, jnp.take_along_axis(where, place, axis=-1)

  whole = P(*spec[:-1], None)
  taken = {axis for part in spec for axis in sharding.names_of(part)}
  return jax.shard_map(
    one, in_specs=spec, out_specs=(whole, whole), axis_names=taken,
    check_vma=False,
  )(scores)  # fmt: skip


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
  """The k largest of scores [..., V] and their tokens, as `jax.lax.top_k`:
  the largest first, equal ones in the order of their tokens."""
  if parts(scores.shape[-1]) == 1:
    return jax.lax.top_k(scores, k)
  return _best(scores, k)


def kth_largest(scores: Array, k: int) -> Array:
  """The k-th largest of scores [..., V], [..., 1]."""
  if parts(scores.shape[-1]) > 1:
    return _best(scores, k)[0][..., k - 1][..., None]
  ranked = -jnp.sort(-scores, axis=-1)
  return ranked[..., k - 1][..., None]
