"""Constraints inside a program: on activations, weights and their gradients.

They read the mesh from the context (`jax.set_mesh`) and do nothing without one,
or where the devices have a run each (`sweep`).
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.sharding.mesh import LOGICAL
from posttrain_jax.core.sharding.specs import by_path, fit, names_of
from posttrain_jax.core.types import Array, PyTree

GATHERED = 'gathered'  # name of what a backward pass gathers anew
# Operations whose result is what was gathered, or the whole of it.
_SAME = ('all_gather', 'reshape', 'sharding_constraint', 'squeeze', 'transpose')
_AT_HAND = contextvars.ContextVar('at_hand', default=False)
_LAID: contextvars.ContextVar[Mapping[str, tuple[str, ...]]] = (
  contextvars.ContextVar('laid', default=LOGICAL)
)


class _Sizes(dict):
  """{axis: size} of the axes that may be named here."""

  @property
  def shape(self) -> Mapping[str, int]:
    return self


def _here() -> _Sizes:
  """The axes of the mesh of the context (`jax.set_mesh`); none without one, or
  where the devices have a run each (`sweep`). Inside `shard_map` those are left
  out that it has taken."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or 'data' not in mesh.shape:
    return _Sizes()
  taken = mesh.manual_axes
  return _Sizes({a: n for a, n in mesh.shape.items() if a not in taken})


def size(*names: str) -> int:
  """How many parts axes of the mesh here have together; 1 without a mesh."""
  here = _here()
  return math.prod(here.get(name, 1) for name in names)


def split() -> bool:
  """Whether there is a mesh here of more than one device."""
  return math.prod(_here().values()) > 1


def over(*names: str) -> tuple[str, ...]:
  """The axes that a dimension of these names is split over here."""
  laid = _LAID.get()
  return tuple(axis for name in names for axis in laid[name])


@contextlib.contextmanager
def laid_out(**axes: tuple[str, ...]) -> Iterator[None]:
  """Inside, dimensions are split over these axes in place of LOGICAL's.

  What is traced inside must not be traced outside too: JAX may keep it.
  """
  token = _LAID.set({**_LAID.get(), **axes})
  try:
    yield
  finally:
    _LAID.reset(token)


def rows(tree: PyTree) -> PyTree:
  """Constrains every array's leading axis to be split as rows are.

  Without a mesh, or where rows do not divide, arrays stay as they are.
  """
  here = _here()
  if not here:
    return tree
  axes = tuple(axis for axis in over('rows') if axis in here)
  parts, spec = size(*axes), P(axes)
  place = lambda x: (
    jax.lax.with_sharding_constraint(x, spec)
    if x.ndim > 0 and x.shape[0] % parts == 0
    else x
  )
  return jax.tree.map(place, tree)


def constrain(x: Array, *names: str | tuple[str, ...] | None) -> Array:
  """x with each dimension split as its name in LOGICAL says.

  names  one a dimension, or several, by all of whose axes it is split; None,
         and where the axes do not divide the dimension (`unsplit`, which
         `run.notes` tells): whole. Dimensions beyond are whole
  """
  if not split():
    return x
  return jax.lax.with_sharding_constraint(x, placed(x.shape, *names))


def constrain_first(x: Array, *names: str | tuple[str, ...] | None) -> Array:
  """`constrain` of the first dimensions alone: those beyond stay as they are,
  of heads or of a vocabulary in parts."""
  if not split():
    return x
  rest = (P.UNCONSTRAINED,) * (x.ndim - len(names))
  spec = P(*placed(x.shape[: len(names)], *names), *rest)
  return jax.lax.with_sharding_constraint(x, spec)


def placed(shape: tuple[int, ...], *names: str | tuple[str, ...] | None) -> P:
  """The spec that `constrain` gives an array of that shape."""
  spec = P(*(over(*names_of(name)) if name else None for name in names))
  return fit(spec, shape, _here())


def as_declared(tree: PyTree, specs: PyTree) -> PyTree:
  """Gradients, moments or parameters, split as the parameters are (`by_path`);
  what is none of a parameter stays as it is."""
  if not split():
    return tree
  find, here = by_path(specs), _here()

  def place(path: str, leaf: Array) -> Array:
    spec = find(path, leaf.shape)
    if spec is None:
      return leaf
    return jax.lax.with_sharding_constraint(leaf, fit(spec, leaf.shape, here))

  return trees.map_by_path(place, tree)


def divides(count: int, name: str) -> bool:
  """Whether a dimension of that size is split here by a name of LOGICAL."""
  parts = size(*over(name))
  return parts > 1 and count % parts == 0


def apart(x: Array) -> Array:
  """[B, T, ...] as [parts, B / n, T / s, ...]: what each device has of it.

  n, s  parts of the rows, and of the positions of a row, where they divide
        (`comes_apart`)

  What is summed over B and T in a loop is then summed by each device alone, and
  over the devices once.
  """
  n, s = size(*LOGICAL['rows']), size(*LOGICAL['length'])
  b, t = x.shape[:2]
  x = x.reshape(n, b // n, s, t // s, *x.shape[2:])
  x = jnp.moveaxis(x, 2, 1).reshape(n * s, b // n, t // s, *x.shape[4:])
  return constrain(x, 'parts')


def together(x: Array) -> Array:
  """[B, T, ...] of what `apart` gave, [parts, B / n, T / s, ...].

  Further dimensions stay as they are: of logits, a vocabulary in parts.
  """
  n, s = size(*LOGICAL['rows']), size(*LOGICAL['length'])
  b, t = x.shape[1:3]
  x = jnp.moveaxis(x.reshape(n, s, b, t, *x.shape[3:]), 1, 2)
  x = x.reshape(n * b, s * t, *x.shape[4:])
  return constrain_first(x, 'rows', 'length')


def comes_apart(x: Array) -> bool:
  """Whether [B, T, ...] lies on several devices that divide B and T."""
  n, s = size(*LOGICAL['rows']), size(*LOGICAL['length'])
  return n * s > 1 and x.shape[0] % n == 0 and x.shape[1] % s == 0


@contextlib.contextmanager
def at_hand() -> Iterator[None]:
  """Inside, weights lie where they are needed: `gathered` returns them."""
  token = _AT_HAND.set(True)
  try:
    yield
  finally:
    _AT_HAND.reset(token)


def _used(spec: P, shape: tuple[int, ...]) -> P:
  """`spec` without the dimensions that are split for storage alone.

  Where weights are `laid_out` over more axes than tensor, the dimension that
  tensor splits has them all; one that they do not divide stays as it is stored,
  but for experts, which are gathered.
  """
  wide = over('weights')
  of_tensor = ['tensor' in names_of(axes) for axes in spec]
  divides = [
    own and count % size(*wide) == 0 for own, count in zip(of_tensor, shape)
  ]
  alone = any(of_tensor) and not any(divides) and 'expert' not in spec
  if wide != LOGICAL['weights'] and alone:
    return fit(spec, shape, _here())
  used = (
    wide if own else None if 'fsdp' in names_of(axes) else axes
    for own, axes in zip(divides, spec)
  )  # fmt: skip
  return fit(P(*used), shape, _here())


def lies(spec: P, shape: tuple[int, ...]) -> P:
  """How a weight of that spec lies here: without what does not divide it, or
  `at_hand` without what it is gathered over."""
  return _used(spec, shape) if _AT_HAND.get() else fit(spec, shape, _here())


def held(weight: Array, spec: P) -> Array:
  """A weight where it lies; its gradient will lie there too."""
  if not split():
    return weight
  return jax.lax.with_sharding_constraint(weight, lies(spec, weight.shape))


def _sent(weight: Array, stored: P, used: P, dtype: str) -> Array:
  # Converted where it is stored: what travels is in the dtype of its use.
  own = jax.lax.with_sharding_constraint(weight.astype(dtype), stored)
  own = jax.lax.with_sharding_constraint(own, used)
  return checkpoint_name(own, GATHERED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(weight: Array, stored: P, used: P, was: str, dtype: str) -> Array:
  del was
  return _sent(weight, stored, used, dtype)


def _gather_forward(weight, stored, used, was, dtype):
  del was
  # Not `_gather`: a policy of `jax.checkpoint` has to see the name.
  return _sent(weight, stored, used, dtype), None


def _gather_back(stored, used, was, dtype, _, gradient):
  # Each device's own rows have given a part of the sum: it is scattered.
  own = jax.lax.with_sharding_constraint(gradient, stored)
  return (own.astype(was),)


_gather.defvjp(_gather_forward, _gather_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def copies(weight: Array, spec: P) -> Array:
  """[parts, ...] a gathered weight once for each of the `apart` parts.

  spec  of the weight as it is stored

  Where a loop reads it, each device adds up the gradient of its own copy; the
  parts are then added where they are stored.
  """
  stored = fit(spec, weight.shape, _here())
  used = (None if 'fsdp' in names_of(axes) else axes for axes in stored)
  count = size(*LOGICAL['parts'])
  own = jnp.broadcast_to(weight[None], (count, *weight.shape))
  axes = tuple(axis for axis in LOGICAL['parts'] if axis in _here())
  return jax.lax.with_sharding_constraint(own, P(axes, *used))


def _copies_forward(weight, spec):
  return copies(weight, spec), None


def _copies_back(spec, _, gradient):
  stored = fit(spec, gradient.shape[1:], _here())
  if not any('fsdp' in names_of(axes) for axes in stored):
    return (jnp.sum(gradient, axis=0),)
  each = gradient.reshape(size('data'), -1, *gradient.shape[1:])
  # A column of all parts to each device: a reduce-scatter, with a sum in full.
  each = jax.lax.with_sharding_constraint(each, P('data', None, *stored))
  wide = jnp.promote_types(gradient.dtype, jnp.float32)
  own = jnp.sum(each, axis=1, dtype=wide).astype(gradient.dtype)
  return (jax.lax.with_sharding_constraint(jnp.sum(own, axis=0), stored),)


copies.defvjp(_copies_forward, _copies_back)


def gathered(weight: Array, spec: P, dtype: Any = None) -> Array:
  """A weight as a product needs it: whole but for axes tensor and expert.

  spec   of the weight as it is stored
  dtype  of the products that read it, in which it travels; None: its own

  Its gradient is reduced straight into the shards that are stored. Under
  `jax.checkpoint` (`keep_all_but_gathered`) the backward pass gathers anew.
  """
  stored, used = lies(spec, weight.shape), _used(spec, weight.shape)
  if stored == used:
    return weight
  if not jnp.issubdtype(weight.dtype, jnp.floating):
    weight = jax.lax.with_sharding_constraint(weight, used)
    return checkpoint_name(weight, GATHERED)
  was = str(weight.dtype)
  to = was if dtype is None else str(jnp.dtype(dtype))
  return _gather(weight, stored, used, was, to)


def keep_all_but_gathered(primitive: Any, *_: Any, **params: Any) -> bool:
  """A policy of `jax.checkpoint`: what a layer computes is kept for the
  backward pass; the weights that it gathered are not, in whatever shape."""
  if str(primitive) == 'name':
    return params['name'] != GATHERED
  return str(primitive) not in _SAME
