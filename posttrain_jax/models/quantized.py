"""Frozen matrices in few bits, and what a product takes in place of an array.

I the input axes of a matrix  O its output axes
"""

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Record
from posttrain_jax.models.nf4 import NF4_LEVELS

__all__ = ['BLOCK', 'NF4', 'Int8', 'Quantized', 'Weight', 'dense_product']

BLOCK = 64  # numbers of one scale in NF4, at most
TINY = 1e-30


def dense_product(x: Array, weight: Array, axes: int = 1) -> Array:
  """`layers.product` with a weight that is one array."""
  if sharding.size('sequence') > 1:  # tokens of a row lie on several devices
    meet = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    return jax.lax.dot_general(x, weight.astype(x.dtype), (meet, ((), ())))
  size = math.prod(weight.shape[:axes])
  flat = x.reshape(-1, size) @ weight.astype(x.dtype).reshape(size, -1)
  return flat.reshape(*x.shape[: x.ndim - axes], *weight.shape[axes:])


class Weight(Record):
  """What `layers.product` takes in place of an array [*I, *O]."""

  def product(self, x: Array, axes: int) -> Array:
    """x [..., *I] times the matrix, whose first `axes` axes are I."""
    raise NotImplementedError


class Quantized(Weight):
  """A frozen matrix that is made dense where it is used.

  dtype  of the matrix that it was
  """

  if TYPE_CHECKING:  # a field of those that are one
    dtype: str

  def dense(self, dtype: Any) -> Array:
    """[*I, *O] in a dtype."""
    raise NotImplementedError

  def product(self, x: Array, axes: int) -> Array:
    return _frozen_product(x, self, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _frozen_product(x: Array, weight: Quantized, axes: int) -> Array:
  """The backward pass makes the matrix anew: what is kept for it is the few
  bits, not one dense matrix a layer."""
  return dense_product(x, weight.dense(x.dtype), axes)


def _frozen_forward(x, weight, axes):
  return _frozen_product(x, weight, axes), weight


def _frozen_back(axes, weight, gradient):
  matrix = weight.dense(gradient.dtype)
  inside, outside = matrix.shape[:axes], matrix.shape[axes:]
  if sharding.size('sequence') > 1:
    turned = (*range(axes, matrix.ndim), *range(axes))
    return dense_product(gradient, matrix.transpose(turned), len(outside)), None
  flat = gradient.reshape(-1, math.prod(outside))
  back = flat @ matrix.reshape(-1, math.prod(outside)).T
  shape = gradient.shape[: gradient.ndim - len(outside)]
  return back.reshape(*shape, *inside), None


_frozen_product.defvjp(_frozen_forward, _frozen_back)


@struct.dataclass
class Int8(Quantized):
  """Whole numbers with a scale for each output.

  values  [*I, *O] int8
  scale   [*O] float32, the largest magnitude of the output's column / 127
  dtype   of the matrix that it was
  """

  values: Array
  scale: Array
  dtype: str = struct.field(pytree_node=False, default='float32')

  @classmethod
  def of(cls, weight: Array, axes: int) -> 'Int8':
    numbers = weight.astype(jnp.float32)
    over = tuple(range(axes))
    scale = jnp.max(jnp.abs(numbers), axis=over) / 127.0
    wide = jnp.maximum(scale, TINY).reshape((1,) * axes + scale.shape)
    values = jnp.round(numbers / wide).astype(jnp.int8)
    return cls(values, scale, str(weight.dtype))

  def dense(self, dtype: Any) -> Array:
    lead = (1,) * (self.values.ndim - self.scale.ndim)
    scale = self.scale.reshape(lead + self.scale.shape)
    return (self.values.astype(jnp.float32) * scale).astype(dtype)


@struct.dataclass
class NF4(Quantized):
  """Four bits a number, with a scale for each block of the last input axis.

  codes  [*I, *O] uint8 with the last axis of I halved: two neighbours a byte
  scale  [*I, *O] float32 with the last axis of I in blocks: the largest
         magnitude of each
  axes   input axes
  dtype  of the matrix that it was

  Dettmers et al. (2023), https://arxiv.org/abs/2305.14314; the scales are not
  quantised again.
  """

  codes: Array
  scale: Array
  axes: int = struct.field(pytree_node=False, default=1)
  dtype: str = struct.field(pytree_node=False, default='float32')

  @staticmethod
  def block(size: int) -> int:
    """Numbers of a block along an axis of `size`: the largest power of two up
    to BLOCK that divides it; 1 where that is odd, which cannot be stored."""
    return math.gcd(size, BLOCK)

  @classmethod
  def of(cls, weight: Array, axes: int) -> 'NF4':
    axis = axes - 1
    before, size, after = weight.shape[:axis], *_around(weight.shape, axis)
    block = cls.block(size)
    numbers = weight.astype(jnp.float32)
    parts = numbers.reshape(*before, size // block, block, *after)
    scale = jnp.max(jnp.abs(parts), axis=axes)
    unit = parts / jnp.expand_dims(jnp.maximum(scale, TINY), axes)
    codes = jnp.zeros(unit.shape, jnp.uint8)
    for below, above in zip(NF4_LEVELS, NF4_LEVELS[1:]):
      codes += (unit > (below + above) / 2).astype(jnp.uint8)
    pairs = codes.reshape(*before, size // 2, 2, *after)
    low, high = (jnp.take(pairs, i, axis=axes) for i in (0, 1))
    return cls(low | (high << 4), scale, axes, str(weight.dtype))

  def dense(self, dtype: Any) -> Array:
    axis = self.axes - 1
    before, half, after = (
      self.codes.shape[:axis],
      *_around(self.codes.shape, axis),
    )
    pairs = jnp.stack([self.codes & 15, self.codes >> 4], axis=self.axes)
    levels = jnp.asarray(NF4_LEVELS, jnp.float32)
    blocks = self.scale.shape[axis]
    unit = levels[pairs].reshape(*before, blocks, 2 * half // blocks, *after)
    numbers = unit * jnp.expand_dims(self.scale, self.axes)
    return numbers.reshape(*before, 2 * half, *after).astype(dtype)


def _around(shape: tuple[int, ...], axis: int) -> tuple[int, tuple[int, ...]]:
  """(size of an axis, the sizes after it)."""
  return shape[axis], tuple(shape[axis + 1 :])
