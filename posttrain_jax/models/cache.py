"""Keys and values of tokens already read, in bounded memory.

A cache has, for each layer, columns of keys and values and the positions of the
tokens in them. The first `fixed` columns hold a prompt; the others are a ring
that tokens are appended to. Layers with a sliding window keep a ring (and a
prompt) of no more than their window. Keys carry their position (RoPE), so the
order of columns has no meaning; an empty column has position -1.

Layers have an array each, or those of a kind are one stack: a loop over layers
(`ModelConfig.scan_decode`) then writes into it in place.

  R rows  N key/value heads  S columns  K head size  M layers of a kind
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from posttrain_jax.core.types import Array, Record
from posttrain_jax.models.config import ModelConfig

__all__ = ['Cache', 'Quantized', 'init_cache']


@struct.dataclass
class Quantized(Record):
  """Numbers as int8 multiples of a scale of their token and head.

  values  [R, N, S, K] int8
  scale   [R, N, S] float32, the largest magnitude / 127
  """

  values: Array
  scale: Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape


Numbers = Array | Quantized


@struct.dataclass
class Cache(Record):
  """What has been read.

  keys, values  tuple over layers of [R, N, S, K], or Quantized; stacked:
                {'full': [M, R, N, S, K], 'window': [M', R, N, S', K]}
  positions     {'full': [R, S], 'window': [R, S']} int32; -1: an empty column
  length        [] int32, tokens appended so far (the same for all rows)
  fixed         columns at the beginning that nothing is appended to
  prefix        a filled cache of B rows that is read before this one's columns
                by R / B rows each, next to each other; or None
  """

  keys: tuple[Numbers, ...] | dict[str, Numbers]
  values: tuple[Numbers, ...] | dict[str, Numbers]
  positions: dict[str, Array]
  length: Array
  fixed: int = struct.field(pytree_node=False, default=0)
  prefix: 'Cache | None' = None

  def own(self) -> 'Cache':
    """Without the shared prefix."""
    return self.replace(prefix=None)

  @property
  def stacked(self) -> bool:
    """Whether layers of a kind are one array."""
    return isinstance(self.keys, dict)


def init_cache(
  config: ModelConfig,
  rows: int,
  slots: int,
  prefix: Cache | None = None,
  *,
  fixed: int = 0,
) -> Cache:
  """An empty cache of `slots` tokens after `fixed` of a prompt.

  prefix  a filled cache to share; its rows must divide `rows`, and row r reads
          prefix row r // (rows / B)
  """
  width = {kind: columns(config, kind, fixed, slots) for kind in config.kinds}

  def empty(kind: str, *lead: int) -> Numbers:
    shape = (*lead, rows, config.num_kv_heads, width[kind], config.head_dim)
    if config.cache_dtype == 'int8':
      return Quantized(
        jnp.zeros(shape, jnp.int8), jnp.zeros(shape[:-1], jnp.float32)
      )
    return jnp.zeros(shape, config.cache_dtype or config.dtype)

  def every() -> Any:
    if config.scan_decode:
      return {k: empty(k, len(of_kind(config, k))) for k in config.kinds}
    return tuple(empty(config.kind(i)) for i in range(config.num_layers))

  return Cache(
    keys=every(),
    values=every(),
    positions={
      kind: jnp.full((rows, size), -1, jnp.int32)
      for kind, size in width.items()
    },
    length=jnp.int32(0),
    fixed=fixed,
    prefix=prefix,
  )


def of_kind(config: ModelConfig, kind: str) -> tuple[int, ...]:
  """Layers of a kind, in the order of their stack."""
  return tuple(i for i in range(config.num_layers) if config.kind(i) == kind)


def _kept(config: ModelConfig, kind: str, tokens: int) -> int:
  """How many of the last `tokens` tokens a layer of a kind can see."""
  return tokens if kind == 'full' else min(tokens, config.sliding_window)


def columns(config: ModelConfig, kind: str, fixed: int, slots: int) -> int:
  """Columns of a layer of a kind."""
  return _kept(config, kind, fixed) + _kept(config, kind, slots)


def encode(new: Array, like: Numbers) -> Numbers:
  """Keys or values [R, N, T, K] as a cache stores them."""
  if not isinstance(like, Quantized):
    return new.astype(like.dtype)
  new = new.astype(jnp.float32)
  scale = jnp.max(jnp.abs(new), axis=-1) / 127.0
  values = jnp.round(new / jnp.maximum(scale, 1e-30)[..., None])
  return Quantized(values.astype(jnp.int8), scale)


def _write(buffer: Numbers, new: Numbers, column: Array) -> Numbers:
  """`new` [R, N, T, ...] from a column on."""

  def put(old, x):
    zero = jnp.zeros_like(column)  # one index type, with x64 too
    start = (zero, zero, column) + (zero,) * (old.ndim - 3)
    return jax.lax.dynamic_update_slice(old, x, start)

  return jax.tree.map(put, buffer, new)


def next_columns(cache: Cache, config: ModelConfig) -> dict[str, Array]:
  """{kind: column that the next token is written to}."""
  out = {}
  for kind, positions in cache.positions.items():
    first = _kept(config, kind, cache.fixed)
    ring = positions.shape[1] - first
    out[kind] = first + cache.length % jnp.asarray(ring, cache.length.dtype)
  return out


def mark(
  cache: Cache, at: dict[str, Array], positions: Array, real: Array
) -> dict[str, Array]:
  """`cache.positions` with one more token [R, 1] in columns `at`."""
  new = jnp.where(real, positions, -1).astype(jnp.int32)
  return {
    kind: jax.lax.dynamic_update_slice(
      old, new, (jnp.zeros_like(at[kind]), at[kind])
    )
    for kind, old in cache.positions.items()
  }


def append(buffer: Numbers, new: Array, column: Array) -> Numbers:
  """`buffer` with keys or values [R, N, 1, K] of one token in a column."""
  return _write(buffer, encode(new, buffer), column)


def append_at(
  stack: Numbers, new: Array, column: Array, index: Array | int
) -> Numbers:
  """`append` to the layer `index` of a stack [M, R, N, S, K]."""

  def put(old, x):
    zero = jnp.zeros_like(column)
    place = jnp.asarray(index, column.dtype), zero, zero, column
    start = place + (zero,) * (old.ndim - 4)
    return jax.lax.dynamic_update_slice(old, x[None], start)

  return jax.tree.map(put, stack, encode(new, stack))


def layer_at(stack: Numbers, index: Array | int) -> Numbers:
  """The layer `index` of a stack."""
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=False), stack
  )


def visible(
  positions: Array, query: Array, kind: str, config: ModelConfig
) -> Array:
  """[R, T, S] bool, which columns [R, S] tokens at `query` [R, T] may see."""
  there = positions[:, None] >= 0
  if kind == 'full':
    return jnp.broadcast_to(there, (*query.shape, positions.shape[1]))
  near = query[:, :, None] - positions[:, None] < config.sliding_window
  return there & near


def fill(
  cache: Cache, kept: Any, real: Array, positions: Array, config: ModelConfig
) -> Cache:
  """An empty cache after rows [R, T] of right-padded tokens.

  kept       (keys, values) of layers, [R, N, T, K] in a tuple each or
             [L, R, N, T, K] in one array
  real       [R, T] bool; positions [R, T]
  """
  total = real.shape[1]
  source: dict[str, Array | None] = {}
  marked = {}
  for kind, old in cache.positions.items():
    # A row's last real token lands where the next one's predecessor would be:
    # the ring then drops its oldest token first.
    ring = old.shape[1] - _kept(config, kind, cache.fixed)
    if kind == 'full' or ring >= total:
      source[kind] = None
      new = jnp.where(real, positions, -1).astype(jnp.int32)
    else:
      age = (total - 1 - jnp.arange(ring)) % ring
      lengths = jnp.sum(real, axis=1)[:, None]
      last = jnp.maximum(lengths - 1 - age[None], 0)
      source[kind] = last
      taken = jnp.take_along_axis(positions, last, axis=1)
      new = jnp.where(age[None] < lengths, taken, -1).astype(jnp.int32)
    marked[kind] = jax.lax.dynamic_update_slice(old, new, (0, 0))

  def place(kind: str, buffer: Numbers, new: Array) -> Numbers:
    index = source[kind]
    if index is not None:
      new = jnp.take_along_axis(new, index[:, None, :, None], axis=2)
    return _write(buffer, encode(new, buffer), jnp.int32(0))

  def every(buffers: Any, new: Any) -> Any:
    if isinstance(buffers, dict):
      return {
        kind: jax.vmap(functools.partial(place, kind))(
          buffer, _stack_of(new, of_kind(config, kind))
        )
        for kind, buffer in buffers.items()
      }
    return tuple(
      place(config.kind(i), old, new[i]) for i, old in enumerate(buffers)
    )

  return cache.replace(
    keys=every(cache.keys, kept[0]),
    values=every(cache.values, kept[1]),
    positions=marked,
    length=jnp.int32(total),
  )


def _stack_of(layers: Any, numbers: tuple[int, ...]) -> Array:
  """Some of the layers, as one array."""
  if isinstance(layers, tuple):
    return jnp.stack([layers[i] for i in numbers])
  return layers if len(numbers) == len(layers) else layers[np.array(numbers)]


def by_rows(function: Callable, cache: Cache) -> Cache:
  """`function(x, axis)` of every array that has rows, in the axis `axis`.

  The prefix, which has rows of its own, is left as it is.
  """
  axis = int(cache.stacked)
  return cache.replace(
    keys=jax.tree.map(lambda x: function(x, axis), cache.keys),
    values=jax.tree.map(lambda x: function(x, axis), cache.values),
    positions=jax.tree.map(lambda x: function(x, 0), cache.positions),
  )


def grow(cache: Cache, config: ModelConfig, slots: int) -> Cache:
  """The same cache with room for `slots` appended tokens.

  Only before a ring has begun to overwrite itself, unless it stays as it is.
  """

  def pad(x, kind, axis, value):
    size = columns(config, kind, cache.fixed, slots)
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, pads, constant_values=value)

  def wider(kind, numbers):
    return jax.tree.map(lambda x: pad(x, kind, 2 + cache.stacked, 0), numbers)

  def every(buffers):
    if cache.stacked:
      return {kind: wider(kind, x) for kind, x in buffers.items()}
    return tuple(wider(config.kind(i), x) for i, x in enumerate(buffers))

  return cache.replace(
    keys=every(cache.keys),
    values=every(cache.values),
    positions={k: pad(x, k, 1, -1) for k, x in cache.positions.items()},
  )


def load_prompt(cache: Cache, slot: Array, prompts: Cache, row: Array) -> Cache:
  """Row `slot` emptied, with row `row` of filled caches in its fixed part.

  A slot beyond the last one changes nothing.
  """

  lead = (slice(None),) * cache.stacked

  def put(buffer, source):
    own = source[(*lead, row)]
    sizes = own.shape[len(lead) :]
    place = (*lead, slot, *(slice(size) for size in sizes))
    return buffer.at[place].set(own, mode='drop')

  def seen(buffer, source):
    wide = (0, buffer.shape[1] - source.shape[1])
    own = jnp.pad(source[row], wide, constant_values=-1)
    return buffer.at[slot].set(own, mode='drop')

  return cache.replace(
    keys=jax.tree.map(put, cache.keys, prompts.keys),
    values=jax.tree.map(put, cache.values, prompts.values),
    positions=jax.tree.map(seen, cache.positions, prompts.positions),
  )
