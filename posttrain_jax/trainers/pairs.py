"""Rows of pairs: row 2i is the chosen answer, row 2i + 1 the rejected one.

Packed rows hold several: segment s of a chosen row and segment s of the
rejected row beside it are one pair. A model reads them as they are; what it
says of each token is then laid out with one answer a row (`apart`), so that an
objective sees the rows that it would see without packing, and padding pairs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, SequenceSignals
from posttrain_jax.data.packing import PAIRS

__all__ = ['apart', 'laid_out', 'live', 'sequence', 'side']


def side(tree: Any, which: int) -> Any:
  """Rows 0, 2, 4, ... (which 0: chosen) or 1, 3, 5, ... of every array."""
  return jax.tree.map(lambda x: x[which::2], tree)


def sequence(logps: Array, mask: Array) -> SequenceSignals:
  """Row sums of token log-probabilities, in the rooms' record."""
  logps = masked.select(logps, mask)
  return SequenceSignals(
    logps=jnp.sum(logps, axis=1),
    length=jnp.sum(mask, axis=1),
    token_logps=logps,
    mask=mask,
  )


def live(mask: Array) -> Array:
  """[R / 2] 1.0 on pairs of which neither side is empty; mask [R, T]."""
  tokens = jnp.sum(mask, axis=1)
  return ((side(tokens, 0) > 0) & (side(tokens, 1) > 0)).astype(jnp.float32)


def apart(x: Array, segment_ids: Array, most: int = PAIRS) -> Array:
  """[R * most, T] with one answer a row, of packed rows x [R, T].

  Each answer begins in column 0; what is beyond it is 0. Rows are those of
  pairs again: the first pair of the first two packed rows, the second, ...

  segment_ids  [R, T] of the packed rows, 1, 2, .. in each
  most         segments that a row may have
  """
  rows, width = x.shape
  numbers = jnp.arange(1, most + 1)[None, :, None]
  here = segment_ids[:, None, :] == numbers
  sizes = jnp.sum(here, axis=-1, keepdims=True)
  columns = jnp.arange(width)[None, None]
  index = jnp.argmax(here, axis=-1)[..., None] + columns
  every = jnp.broadcast_to(x[:, None, :], here.shape)
  taken = jnp.take_along_axis(every, jnp.minimum(index, width - 1), axis=-1)
  taken = jnp.where(columns < sizes, taken, jnp.zeros_like(taken))
  paired = taken.reshape(rows // 2, 2, most, width)
  return paired.swapaxes(1, 2).reshape(rows * most, width)


def laid_out(packed: bool) -> Callable[[Array, Batch], Array]:
  """`layout(x [R, T], batch)`: x with one answer a row."""
  if packed:
    return lambda x, batch: apart(x, batch.segment_ids)
  return lambda x, batch: x
