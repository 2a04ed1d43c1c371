"""Weights that are more than one array: frozen matrices and what is beside.

Where a parameter tree has an array, it may have a node:

  Int8, NF4  a frozen matrix in few bits
  Adapted    a frozen matrix, and the adapter that is trained in its place

`layers.product` multiplies by any of them, and everything else sees a tree of
arrays: stacked over layers they are scanned, sliced, split over a mesh and
rematerialised as others are.

  I the input axes of a matrix  O its output axes  R rank of an adapter
"""

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Derived, PyTree, Record
from posttrain_jax.models.nf4 import NF4_LEVELS

__all__ = ['BLOCK', 'NF4', 'Adapted', 'Held', 'Int8', 'Off', 'Weight',
           'dense_product', 'has_adapters', 'join', 'merged', 'off', 'settled',
           'trained']  # fmt: skip

# Parts of a tree that are trained as they are, beside adapters: heads that a
# model gets anew for a method.
WHOLE = ('value_head',)
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


def _wide(dtype: Any) -> Any:
  return jnp.promote_types(dtype, jnp.float32)


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


@struct.dataclass
class Adapted(Weight):
  """x W + scale (x A) B, and with a magnitude m times m / |W + scale A B|.

  base       [*I, *O], or Quantized; it never moves
  a          [*I, R], b [R, *O]; both are trained
  scale      []
  magnitude  [*O], trained, or None. The norm that it stands against, of each
             output's column, takes no part in the gradient: Liu et al. (2024),
             DoRA, https://arxiv.org/abs/2402.09353, section 4.3
  norm       [*O] that norm, where it is known already (`settled`)
  axes       input axes
  keep       [2] uint32, by which inputs of A are dropped; None: none are
  dropout    share of them that is

  Hu et al. (2021), LoRA, https://arxiv.org/abs/2106.09685
  """

  base: Array | Quantized
  a: Array
  b: Array
  scale: Array
  magnitude: Array | None = None
  norm: Array | None = None
  keep: Array | None = None
  axes: int = struct.field(pytree_node=False, default=1)
  dropout: float = struct.field(pytree_node=False, default=0.0)

  def product(self, x: Array, axes: int) -> Array:
    if axes != self.axes:
      raise ValueError(f'a product over {axes} axes, not {self.axes}')
    base = self._on_base(x)
    shown = self._dropped(x)
    low = dense_product(shown, self.a, axes)
    beside = dense_product(low, self.b) * self.scale.astype(x.dtype)
    if self.magnitude is None:
      return base + beside
    norm = self.column_norm() if self.norm is None else self.norm
    gain = (self.magnitude / jax.lax.stop_gradient(norm)).astype(x.dtype)
    gain = gain.reshape((1,) * (base.ndim - gain.ndim) + gain.shape)
    if self.keep is None:
      return (base + beside) * gain
    # The base stands on all inputs, what is trained beside it on those kept:
    # x W + (m / |..| - 1) x' W + m / |..| scale (x' A) B, as PEFT has it.
    return base + (gain - 1) * self._on_base(shown) + gain * beside

  def _on_base(self, x: Array) -> Array:
    if isinstance(self.base, Quantized):
      return self.base.product(x, self.axes)
    return dense_product(x, self.base, self.axes)

  def _dropped(self, x: Array) -> Array:
    if self.keep is None:
      return x
    kept = 1.0 - self.dropout
    key = jax.random.wrap_key_data(self.keep)
    chosen = jax.random.bernoulli(key, kept, x.shape)
    return jnp.where(chosen, x / kept, 0.0).astype(x.dtype)

  def _whole(self) -> Array:
    """[*I, *O] W + scale A B in float32, or wider."""
    rank = self.a.shape[-1]
    delta = self.a.reshape(-1, rank) @ self.b.reshape(rank, -1) * self.scale
    if isinstance(self.base, Quantized):
      base = self.base.dense(_wide(self.base.dtype))
    else:
      base = self.base.astype(_wide(self.base.dtype))
    return base + delta.reshape(base.shape)

  def column_norm(self) -> Array:
    """[*O] length of each output's column; not to be differentiated."""
    held = jax.lax.stop_gradient(self)
    squares = jnp.square(held._whole())
    return jnp.sqrt(jnp.sum(squares, axis=tuple(range(self.axes))))

  def merged(self) -> Array:
    """[*I, *O] the matrix that this is, in the dtype that its base has."""
    made = self._whole()
    if self.magnitude is not None:
      gain = self.magnitude / self.column_norm()
      made = made * gain.reshape((1,) * self.axes + gain.shape)
    return made.astype(self.base.dtype)

  def parts(self) -> dict[str, Array]:
    """What is trained, by name."""
    out = {'a': self.a, 'b': self.b}
    if self.magnitude is not None:
      out['magnitude'] = self.magnitude
    return out


@struct.dataclass
class Off(Derived):
  """A frozen model that is the policy with its adapters switched off."""

  def of(self, params: PyTree) -> PyTree:
    return off(params)


@struct.dataclass
class Held(Derived):
  """A frozen model on the policy's base, with an adapter of its own.

  parts  as `trained` gives them
  """

  parts: PyTree

  def of(self, params: PyTree) -> PyTree:
    return join(self.parts, params)


def _map(function: Any, params: PyTree) -> PyTree:
  """`function` of every Adapted node; what else there is stays."""
  is_adapted = lambda x: isinstance(x, Adapted)
  change = lambda x: function(x) if is_adapted(x) else x
  return jax.tree.map(change, params, is_leaf=is_adapted)


def has_adapters(params: PyTree) -> bool:
  """Whether a tree has an Adapted weight."""
  is_adapted = lambda x: isinstance(x, Adapted)
  return any(map(is_adapted, jax.tree.leaves(params, is_leaf=is_adapted)))


def off(params: PyTree, dense: bool = False) -> PyTree:
  """The tree on its base alone; no array is copied.

  dense  bases in few bits are made arrays, in the dtype that they had
  """

  def one(node: Adapted) -> Any:
    if not dense or not isinstance(node.base, Quantized):
      return node.base
    function: Any = lambda base: base.dense(base.dtype)
    for _ in range(node.scale.ndim):
      function = jax.vmap(function)
    return function(node.base)

  return _map(one, params)


def merged(params: PyTree) -> PyTree:
  """The tree with one array in place of every adapted weight.

  Leading axes (of layers, of runs) are those that `scale` has.
  """

  def one(node: Adapted) -> Array:
    function = Adapted.merged
    for _ in range(node.scale.ndim):
      function = jax.vmap(function)
    return function(node)

  return _map(one, params)


def settled(layer: PyTree) -> PyTree:
  """Layers for many products with the same weights: norms are computed once.

  A decode loop would compute them at every token.
  """

  def one(node: Adapted) -> Adapted:
    if node.magnitude is None or node.norm is not None:
      return node
    function = Adapted.column_norm
    for _ in range(node.scale.ndim):
      function = jax.vmap(function)
    return node.replace(norm=function(node))

  return _map(one, layer)


def trained(params: PyTree) -> PyTree:
  """What is trained of a tree: {'layers': {'query': {'a', 'b'}}, ...}.

  A tree without adapters is trained as it is, and returned itself.
  """
  return _trained(params, WHOLE) if has_adapters(params) else params


def _trained(tree: PyTree, whole: Iterable[str] = ()) -> dict[str, PyTree]:
  out = {}
  for key, item in tree.items():
    if isinstance(item, Adapted):
      out[key] = item.parts()
    elif key in whole:
      out[key] = item
    elif isinstance(item, dict) and (inside := _trained(item)):
      out[key] = inside
  return out


def join(parts: PyTree, params: PyTree) -> PyTree:
  """`params` with what `trained` gave of it replaced by `parts`.

  Whole parts that `params` does not have come in too.
  """
  if not has_adapters(params):
    return parts
  heads = {key: parts[key] for key in WHOLE if key in parts}
  return {**_joined(parts, params), **heads}


def _joined(parts: PyTree, tree: PyTree) -> PyTree:
  out = dict(tree)
  for key, item in tree.items():
    if isinstance(item, Adapted):
      out[key] = item.replace(**parts[key], norm=None)
    elif isinstance(item, dict) and key in parts:
      out[key] = _joined(parts[key], item)
  return out
