"""Weights that are more than one array: frozen matrices and what is beside.

Where a parameter tree has an array, it may have a node:

  Int8, NF4  a frozen matrix in few bits
  Adapted    a frozen matrix, and the adapter that is trained in its place

`layers.product` multiplies by any of them, and everything else sees a tree of
arrays: stacked over layers they are scanned, sliced, split over a mesh and
rematerialised as others are.

  I the input axes of a matrix  O its output axes  R rank of an adapter
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from posttrain_jax.core.types import Array, Derived, PyTree
from posttrain_jax.models.quantized import (
  BLOCK,
  NF4,
  Int8,
  Quantized,
  Weight,
  dense_product,
)

__all__ = ['BLOCK', 'NF4', 'Adapted', 'Held', 'Int8', 'Off', 'Weight',
           'dense_product', 'has_adapters', 'join', 'merged', 'off', 'settled',
           'trained']  # fmt: skip

# Parts of a tree that are trained as they are, beside adapters: heads that a
# model gets anew for a method.
WHOLE = ('value_head',)


def _wide(dtype: Any) -> Any:
  return jnp.promote_types(dtype, jnp.float32)


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
    gain = self.gain(base.ndim).astype(x.dtype)
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

  def gain(self, rank: int) -> Array:
    """[1, ..., *O] of `rank` axes: what each output is multiplied by, the
    magnitude over the column's length. Only where there is a magnitude."""
    assert self.magnitude is not None
    norm = self.column_norm() if self.norm is None else self.norm
    gain = self.magnitude / jax.lax.stop_gradient(norm)
    return gain.reshape((1,) * (rank - gain.ndim) + gain.shape)

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
