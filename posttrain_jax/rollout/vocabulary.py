"""Order and picks over a vocabulary that a mesh may have in parts.

Every function takes scores over tokens in the last axis, and gives to the bit
what the plain form gives. Where axis tensor splits the vocabulary nothing as
large as the scores travels to every device: largest ones are found in each part
first, and what needs all tokens in order gets a share of the rows each.

  V tokens  k how many
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array

__all__ = ['kth_largest', 'parts', 'taken', 'to_order', 'top_k']


def parts(size: int) -> int:
  """How many parts a vocabulary of so many tokens is in; 1 where the mesh does
  not divide it."""
  count = sharding.size(*sharding.LOGICAL['vocab'])
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
  names: list[str | None] = ['rows', *(None,) * (scores.ndim - 1)]
  for axis in range(scores.ndim - 1):
    share = sharding.size(*sharding.LOGICAL['rows']) if axis == 0 else 1
    if scores.shape[axis] % (share * count) == 0:
      names[axis] = 'rows_and_vocab' if axis == 0 else 'vocab'
      break
  return sharding.constrain(scores, *names)


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
  """The k largest of scores [..., V] and their tokens, as `jax.lax.top_k`:
  the largest first, equal ones in the order of their tokens."""
  size = scores.shape[-1]
  count = parts(size)
  if count == 1:
    return jax.lax.top_k(scores, k)
  lead, own = scores.shape[:-1], size // count
  split = scores.reshape(*lead, count, own)
  names = 'rows', *(None,) * (len(lead) - 1), 'vocab'
  best, where = jax.lax.top_k(sharding.constrain(split, *names), min(k, own))
  part = jax.lax.broadcasted_iota(where.dtype, where.shape, len(lead))
  where = where + own * part
  flat = lambda x: sharding.constrain(x.reshape(*lead, -1), 'rows')
  # Parts stand in the order of their tokens, so equal ones do, too.
  best, place = jax.lax.top_k(flat(best), k)
  return best, jnp.take_along_axis(flat(where), place, axis=-1)


def kth_largest(scores: Array, k: int) -> Array:
  """The k-th largest of scores [..., V], [..., 1]."""
  if parts(scores.shape[-1]) == 1:
    ranked = -jnp.sort(-scores, axis=-1)
    return ranked[..., k - 1][..., None]
  return top_k(scores, k)[0][..., -1:]
