"""Moments of an optimizer in fewer bits than they are computed in.

`stored(inner, how, ...)` keeps what `inner` remembers in 16 or 8 bits, and
computes in float32. Rounding is drawn, so that it is right in the mean: with a
decay of 0.999 a second moment that is rounded to the nearest never falls, as a
thousandth of it is less than half a step of any such code. What is drawn
depends on the number of updates alone: a run that goes on is the same run.

8 bits are those of Dettmers et al. (2022), 8-bit optimizers via block-wise
quantization, https://arxiv.org/abs/2110.02861: every block of numbers has a
scale of its own, the codes are dense where numbers are small, and embeddings
(with norms, biases and all that is small) stay in float32. Our codes are evenly
spaced in the logarithm, in place of their dynamic tree, for an error that is
the same share of any number:

  signed    0 and +-max * 2^(-k / 8), k = 0..126: within 9% down to max / 55,000
  positive  0 and max * 2^(-k / 16), k = 0..254: within 4.5%, to max / 60,000

A smaller positive number becomes the smallest of its code, never 0: what is
divided by its root gets smaller by it, and not huge.
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.types import Array, PyTree

__all__ = [
  'MOMENTS',
  'Blocks',
  'Stored',
  'blocks',
  'decode',
  'encode',
  'stored',
]

# 'params': in the dtype of the parameters, as optax has it.
MOMENTS = ('params', 'float32', 'bfloat16', 'int8')
# Numbers with one scale, at most and at least.
MOST, LEAST = 128, 16
# Parameters with fewer numbers stay in float32, as in bitsandbytes.
SMALL = 4096
# Those that stay in float32 whatever their size.
EXACT = re.compile(r'.*(norm|bias|magnitude)|(.*/)?embed/.*')
# Parts of an axis of a mesh whose borders no block crosses.
SHARDS = {'tensor': 16, 'expert': 256, 'fsdp': 256}
# Codes to an octave, and codes besides 0.
OCTAVE = {'signed': 8, 'positive': 16}
LEVELS = {'signed': 127, 'positive': 255}
# Moments that are never below 0.
POSITIVE = ('nu',)


class Blocks(NamedTuple):
  """Blocks of `size` numbers next to each other along one axis of an array."""

  axis: int
  size: int

  def cut(self, x: Array) -> Array:
    """[..., S, ...] -> [..., S / size, size, ...]."""
    shape = x.shape
    parts = (shape[self.axis] // self.size, self.size)
    return x.reshape(*shape[: self.axis], *parts, *shape[self.axis + 1 :])

  def joined(self, x: Array) -> Array:
    """What `cut` was made of."""
    shape = x.shape
    return x.reshape(*shape[: self.axis], -1, *shape[self.axis + 2 :])


def blocks(
  name: str, shape: tuple[int, ...], spec: Iterable = ()
) -> Blocks | None:
  """How a parameter's moments are cut; None: they stay in float32.

  spec  how the parameter is split over a mesh. Blocks lie along an axis that is
        not split, where there is one, else along that of `tensor`, last along
        that of `fsdp`; no block crosses a border of any mesh of up to SHARDS,
        so that runs on any mesh have the same ones. Layers are not mixed.
  """
  if EXACT.fullmatch(name) or math.prod(shape) < SMALL:
    return None
  first = 1 if 'layers/' in name and len(shape) > 1 else 0
  found = []
  for axis, axes in enumerate((*spec, *(None,) * len(shape))[: len(shape)]):
    parts = max([SHARDS[x] for x in SHARDS if x in (axes or ())], default=1)
    size = math.gcd(shape[axis], MOST * parts) // parts
    if axis >= first and size >= LEAST:
      found.append((parts, -axis, size))
  if not found:
    return None
  _, axis, size = min(found)
  return Blocks(-axis, size)


def _between(x: Array, draw: Array, kind: str) -> Array:
  """Codes -1..LEVELS - 1 of numbers in [0, 1], 1 being their block's largest.

  draw  uniform in [0, 1); -1 stands for 0
  """
  per, last = OCTAVE[kind], LEVELS[kind] - 1
  place = -per * jnp.log2(jnp.maximum(x, 1e-30))
  # The code below x, and how far x is on the way from it to the one above.
  below = jnp.ceil(place)
  share = (jnp.exp2((below - place) / per) - 1) / (2 ** (1 / per) - 1)
  code = below - (draw < share)
  # Beyond the last code: a positive number is never 0, a signed one may be.
  tiny = jnp.exp2(jnp.float32(-last / per))
  end = jnp.where(draw * tiny < x, last, -1) if kind == 'signed' else last
  code = jnp.where(x <= tiny, end, code)
  return jnp.where(x > 0, jnp.clip(code, -1, last), -1).astype(jnp.int32)


def encode(
  x: Array, how: Blocks, draw: Array, kind: str = 'signed'
) -> tuple[Array, Array]:
  """(codes int8, scales float32) of x.

  draw  as x, uniform in [0, 1)
  kind  'signed', or 'positive': of numbers that are never below 0

  Codes are those of x's shape, scales have one number a block. NaN or inf in a
  block become its scale: nothing of it is hidden.
  """
  x, draw = how.cut(x.astype(jnp.float32)), how.cut(draw)
  size = jnp.abs(x)
  scale = jnp.max(size, axis=how.axis + 1, keepdims=True)
  code = _between(size / jnp.where(scale > 0, scale, 1.0), draw, kind) + 1
  if kind == 'signed':
    code = jnp.where(x < 0, -code, code)
  else:
    code = code - 128
  return how.joined(code.astype(jnp.int8)), jnp.squeeze(scale, how.axis + 1)


def decode(
  codes: Array, scales: Array, how: Blocks, kind: str = 'signed'
) -> Array:
  """float32 numbers of `encode`."""
  code = how.cut(codes).astype(jnp.float32)
  place = jnp.abs(code) if kind == 'signed' else code + 128
  size = jnp.exp2((1 - place) / OCTAVE[kind])
  size = size * jnp.expand_dims(scales, how.axis + 1)
  size = jnp.where(place > 0, size, 0 * size)  # of NaN or inf: NaN
  return how.joined(
    jnp.where(code < 0, -size, size) if kind == 'signed' else size
  )


def _half(x: Array, bits: Array) -> Array:
  """x as bfloat16, up or down as 16 random bits have it, right in the mean."""
  x = x.astype(jnp.float32)
  raw = jax.lax.bitcast_convert_type(x, jnp.uint32)
  moved = (raw + bits) & jnp.uint32(0xFFFF0000)
  out = jax.lax.bitcast_convert_type(moved, jnp.float32)
  return jnp.where(jnp.isfinite(x), out, x).astype(jnp.bfloat16)


class Stored(NamedTuple):
  """State of `stored`.

  done    [] int32, updates made
  kept    the inner state, its moments in fewer bits, of the parameters' shapes
  scales  {moment: {path of a parameter: scales of its blocks}}, of 8 bits
  """

  done: Array
  kept: Any
  scales: dict[str, dict[str, Array]]


def _kinds(state: Any) -> dict[str, str]:
  """{field of an optax state that is a tree of moments: kind of its code}."""
  return {
    field: 'positive' if field in POSITIVE else 'signed'
    for field in state._fields
    if field != 'count'
  }


def stored(
  inner: optax.GradientTransformation,
  how: str,
  specs: Mapping[str, P] | None = None,
) -> optax.GradientTransformation:
  """`inner` with what it remembers kept as `how` of MOMENTS says.

  inner  of a NamedTuple state with trees of moments, as those of optax are
  specs  {path of a parameter: its PartitionSpec}, for `blocks`

  An update is computed from the moments before they are rounded.
  """
  if how == 'params':
    return inner
  layout = lambda name, x: blocks(name, x.shape, (specs or {}).get(name, ()))

  def coded(state: Any, count: Array) -> Stored:
    key = jax.random.fold_in(jax.random.key(0), count)
    kept, scales = {}, {}
    for field, kind in _kinds(state).items():
      of: dict[str, Array] = {}

      def code(name, x, field=field, kind=kind, of=of):
        draw = jax.random.fold_in(key, zlib.crc32(f'{field}/{name}'.encode()))
        out, scale = _coded(draw, x, how, layout(name, x), kind)
        if scale is not None:
          of[name] = scale
        return out

      kept[field] = trees.map_by_path(code, getattr(state, field))
      if how == 'int8':
        scales[field] = of
    return Stored(count, state._replace(**kept), scales)

  def plain(state: Stored) -> Any:
    out = {}
    for field, kind in _kinds(state.kept).items():
      of = state.scales.get(field, {})

      def wide(name, x, kind=kind, of=of):
        if name not in of:
          return x.astype(jnp.float32)
        how = layout(name, x)
        assert how is not None, name
        return decode(x, of[name], how, kind)

      out[field] = trees.map_by_path(wide, getattr(state.kept, field))
    return state.kept._replace(**out)

  def init(params: PyTree) -> Stored:
    wide = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
    return coded(inner.init(wide), jnp.int32(0))

  def update(updates: PyTree, state: Stored, params: PyTree = None):
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
    moved, after = inner.update(wide, plain(state), params)
    return moved, coded(after, state.done + 1)

  return optax.GradientTransformation(init, update)


def _coded(
  key: Array, x: Array, how: str, layout: Blocks | None, kind: str
) -> tuple[Array, Array | None]:
  """(a moment as it is kept, its scales or None)."""
  if how == 'float32' or (how == 'int8' and layout is None):
    return x.astype(jnp.float32), None
  bits = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  if how == 'bfloat16':
    return _half(x, bits), None
  assert layout is not None
  return encode(x, layout, bits.astype(jnp.float32) / 65536, kind)
