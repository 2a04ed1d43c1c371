"""Rows of a table of embeddings that a mesh has in parts.

V tokens  D width  B rows  T positions  R rank of an adapter
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import SHARDS
from posttrain_jax.core.types import Array
from posttrain_jax.models import placed
from posttrain_jax.models.adapted import Adapted
from posttrain_jax.models.config import ModelConfig

__all__ = ['TABLE', 'looked_up']

TABLE = P('tensor', SHARDS)  # of embeddings [V, D], as it is stored


def looked_up(
  table: Array | Adapted, tokens: Array, config: ModelConfig
) -> Array:
  """[B, T, D] rows of a table [V, D], in the dtype of the model.

  Where its width is split, each device looks up its columns for all rows: what
  travels is then the rows, not the table, and there and back alike. Where its
  tokens are split, each looks up those that it has, and the rest are zeros that
  the sum over devices fills.

  A table with an adapter is W + scale A B, of which rows of A are looked up.
  """
  if isinstance(table, Adapted):
    return _adapted(table, tokens, config)
  table = sharding.held(table, TABLE)
  many = tokens.shape[1] > 1  # a decode loop has a layout of its own
  if many and _comes_in_parts(table, TABLE):
    x = _over_parts(table, tokens, TABLE, config.dtype)
  else:
    x = table[tokens].astype(config.dtype)
  if many and sharding.divides(x.shape[-1], 'width'):
    x = _to_rows(sharding.constrain(x, 'copies', None, 'width'))
  return x


def _adapted(table: Adapted, tokens: Array, config: ModelConfig) -> Array:
  own = placed.specs(TABLE, 1, 1)
  a = sharding.held(table.a, own['a'])
  if tokens.shape[1] > 1 and _comes_in_parts(a, own['a']):
    low = _over_parts(a, tokens, own['a'], config.dtype)
  else:
    low = a[tokens].astype(config.dtype)
  low = sharding.constrain(low, 'rows', 'length', None)
  b = sharding.gathered(table.b, own['b'])
  beside = jnp.einsum('btr,rd->btd', low, b.astype(low.dtype))
  base: Any = table.base  # never in few bits
  x = looked_up(base, tokens, config)
  x = x + beside * table.scale.astype(x.dtype)
  if table.magnitude is None:
    return x
  return x * table.gain(x.ndim).astype(x.dtype)


def _to_rows(x: Array) -> Array:
  """[B, T, D] with D split, as rows split: rows of the devices that have rows,
  then positions of those that have positions of a row."""
  s = sharding.size(*sharding.over('length'))
  if s == 1:
    return x
  # The parts of D by axis, else they would have to change places.
  n = sharding.size(*sharding.over('width')) // s
  y = x.reshape(*x.shape[:-1], n, s, -1)
  y = sharding.constrain(y, 'copies', None, 'row_width', 'length')
  y = sharding.constrain(y, 'rows', None, None, 'length')
  return sharding.constrain(y, 'rows', 'length').reshape(x.shape)


def _comes_in_parts(table: Array, spec: P) -> bool:
  """Whether devices look up their parts of a table by themselves."""
  tokens, width = sharding.lies(spec, table.shape)
  copied = width is not None and sharding.size('data') > 1
  return tokens is not None or copied


def _over_parts(table: Array, tokens: Array, spec: P, dtype: str) -> Array:
  """`looked_up` of a table whose tokens are split, or of copies of its parts.

  Left to itself the compiler gathers the table over tensor where there are more
  tokens than the table has, and its gradient with it. Of a table that unembeds
  too it adds up the whole gradient on all devices, where there are copies.
  """
  lies, size = sharding.lies(spec, table.shape), table.shape[0]
  names = ('rows', 'length') if lies[1] is None else ('copies', None)
  tokens = jnp.where(tokens < 0, tokens + size, tokens)
  rows = sharding.placed(tokens.shape, *names)
  return _parts(table, tokens, lies, rows, dtype)


def _places(table: Array, tokens: Array, lies: P) -> Array:
  """Where tokens are in this device's part, [V'] of them; V': elsewhere."""
  count, axes = table.shape[0], sharding.names_of(lies[0])
  place = tokens
  if axes:
    place -= count * jax.lax.axis_index(axes).astype(tokens.dtype)
  return jnp.where((place >= 0) & (place < count), place, count)


def _on_each(function: Callable, given: tuple[P, ...], out: P) -> Callable:
  """`function` on each device."""
  mesh = jax.sharding.get_abstract_mesh()
  # All axes: XLA's CPU compiler stops at sums in bfloat16 over some of them.
  axes = set(mesh.axis_names) - set(mesh.manual_axes)
  return jax.shard_map(
    function, in_specs=given, out_specs=out, axis_names=axes, check_vma=False
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _parts(table: Array, tokens: Array, lies: P, rows: P, dtype: str) -> Array:
  size = table.shape[0]

  def one(table, tokens):
    # Beyond the table is its edge, which does not learn: as indexing does.
    place = _places(table, jnp.clip(tokens, 0, size - 1), lies)
    x = jnp.take(table, place, axis=0, mode='clip').astype(dtype)
    x = jnp.where((place < table.shape[0])[..., None], x, 0)
    # One of the devices has a row: their sum is that row to the bit.
    axes = sharding.names_of(lies[0])
    return jax.lax.psum(x, axes) if axes else x

  run = _on_each(one, (lies, rows), P(*rows, lies[1]))
  return run(table, tokens)


def _parts_forward(table, tokens, lies, rows, dtype):
  return _parts(table, tokens, lies, rows, dtype), (table, tokens)


def _parts_back(lies, rows, dtype, kept, gradient):
  del dtype
  table, tokens = kept

  def one(table, tokens, gradient):
    # Nothing is sent: a device has its columns of all rows.
    place = _places(table, tokens, lies)
    own = jnp.zeros_like(table)
    return own.at[place].add(gradient.astype(own.dtype), mode='drop')[None]

  given = lies, rows, P(*rows, lies[1])
  others = tuple(a for axes in rows for a in sharding.names_of(axes))
  each = _on_each(one, given, P(others, *lies))(table, tokens, gradient)
  # Of devices that have other tokens to look up.
  own = jnp.sum(each, axis=0)
  return jax.lax.with_sharding_constraint(own, lies), None


_parts.defvjp(_parts_forward, _parts_back)
