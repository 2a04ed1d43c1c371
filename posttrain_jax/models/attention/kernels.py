"""Attention by structure: what is seen follows from ids and places alone.

Every device has rows and heads of its own; over the axis `sequence` it has
queries of its own, too, and all keys of their rows, which are gathered; or, as
a `ring`, meets them one device's after the other's.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array
from posttrain_jax.models import remat
from posttrain_jax.models.attention import cudnn, plain, ring, splash
from posttrain_jax.models.config import ModelConfig

__all__ = ['SHORT', 'Sight', 'attend_ids', 'lacks']

# Queries up to which the plain form is taken whatever is chosen: a kernel would
# work on padding.
SHORT = 128
# Ids of padding, which sees itself alone.
BEFORE, AFTER = -2, -1


class Sight(NamedTuple):
  """Query i sees keys up to `offset` + i, and of those the last `window` (0:
  all)."""

  offset: int = 0
  window: int = 0


def lacks(name: str, config: ModelConfig) -> str:
  """What an implementation cannot do of a model's attention; '': nothing."""
  if name == 'splash' and config.dtype == 'float64':
    return 'dtype=float64'
  if name != 'cudnn':
    return ''
  if config.dtype not in ('bfloat16', 'float16'):
    return f'dtype={config.dtype}'
  if config.attention_cap:
    return f'attention_cap={config.attention_cap:g}'
  if config.head_dim % 8 or config.head_dim > 128:
    return f'head_dim={config.head_dim}'
  return ''


def _by_definition(q, k, v, q_ids, k_ids, first, sight, config):
  """The plain form, in blocks of queries; `first` is the place of query 0."""
  how, key = plain.scores_of(config), jnp.arange(k.shape[2])
  place = jnp.broadcast_to(
    first + sight.offset + jnp.arange(q.shape[3])[None], q_ids.shape
  )

  def one(block):
    q, ids, place = block
    sees = (ids == k_ids[:, None]) & (key[None, None] <= place)
    if sight.window:
      sees &= place - key[None, None] < sight.window
    return plain.attend(q, k, v, sees, how)

  given = q, q_ids[..., None], place[..., None]
  chunk, count = config.attention_chunk, q.shape[3]
  if not 0 < chunk < count:
    return one(given)
  cut = tuple(plain.cut(x, chunk) for x in given)
  made = jnp.moveaxis(jax.lax.map(jax.checkpoint(one), cut), 0, -3)
  return made.reshape(*made.shape[:-3], -1, made.shape[-1])[..., :count, :]


def _pad(x: Array, axis: int, before: int, after: int, value: int = 0) -> Array:
  pads = [(0, 0)] * x.ndim
  pads[axis] = (before, after)
  return jnp.pad(x, pads, constant_values=value)


def _heads(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
  """With key heads repeated where `tensor` divides query heads alone."""
  b, n, r, t, size = q.shape
  parts = sharding.size('tensor')
  if n % parts == 0 or parts % n or (n * r) % parts:
    return q, k, v
  times = parts // n
  q = q.reshape(b, n * times, r // times, t, size)
  return q, jnp.repeat(k, times, axis=1), jnp.repeat(v, times, axis=1)


def attend_ids(
  q: Array,
  k: Array,
  v: Array,
  q_ids: Array,
  k_ids: Array,
  sight: Sight,
  config: ModelConfig,
) -> Array:
  """Attention of q [B, N, R, T, K] over k, v [B, N, S, K], S = offset + T.

  q_ids, k_ids  [B, T], [B, S] integers: what is seen has one's own id, 0 or
                more. Every query has to see a key
  Returns [B, N, R, T, K], by `config.attention`. What tokens find that have no
  place in a loss (id 0) is not the same in all of them.
  """
  shape, parts = q.shape, sharding.size('sequence')
  name = config.attention
  if parts == 1 if name == 'ring' else q.shape[3] <= SHORT:
    name = 'plain'
  q, k, v = _heads(q, k, v)
  # Queries, and what is before them, come in multiples of these.
  count, step, front = q.shape[3], parts, parts
  if name == 'splash':
    whole = splash.multiple(k.shape[2] // parts)
    step, front = whole * parts, math.lcm(whole, parts)
  elif name == 'cudnn':
    step = 2 * parts
  before, after = -sight.offset % front, -count % step
  q, q_ids = _pad(q, 3, 0, after), _pad(q_ids, 1, 0, after, AFTER)
  k, v = (_pad(x, 2, before, after) for x in (k, v))
  k_ids = _pad(_pad(k_ids, 1, 0, after, AFTER), 1, before, 0, BEFORE)
  sight = sight._replace(offset=sight.offset + before)
  if name in ('splash', 'cudnn'):
    q = q * (config.query_scale or q.shape[-1]) ** -0.5
  out = _placed(name, q, k, v, q_ids, k_ids, sight, config)
  if name not in ('splash', 'ring'):  # which name what they keep themselves
    out = remat.mark(out, remat.ATTENTION)
  return out[..., :count, :].reshape(shape)


def _placed(name, q, k, v, q_ids, k_ids, sight, config):
  """Each device's own part of `attend_ids`."""
  made, parts = None, sharding.size('sequence')
  if name == 'splash':
    sizes, cap = (q.shape[3], k.shape[2]), config.attention_cap
    made = splash.kernel(*sizes, sight.offset, sight.window, cap, parts)

  def local(made, q, k, v, q_ids, k_ids):
    if name == 'ring':
      fixed = ring.Ring(
        'sequence', parts, sight.offset, sight.window, config.attention_chunk,
        plain.scores_of(config),
      )  # fmt: skip
      return ring.over(q, k, v, q_ids, k_ids, fixed)
    if parts > 1:
      # Of all devices; gradients of keys are summed to where they lie.
      all_of = functools.partial(
        jax.lax.all_gather, axis_name='sequence', tiled=True
      )
      k, v = all_of(k, axis=2), all_of(v, axis=2)
      k_ids = all_of(k_ids, axis=1)
    if name == 'splash':
      return splash.over(made, q, k, v, q_ids, k_ids)
    first = 0
    if parts > 1:
      first = jax.lax.axis_index('sequence') * q.shape[3]
    given = q, k, v, q_ids, k_ids
    if name == 'cudnn':
      return cudnn.over(*given, first + sight.offset, sight.window)
    return _by_definition(*given, first, sight, config)

  if not sharding.split():
    return local(made, q, k, v, q_ids, k_ids)
  spec = lambda x, *names: sharding.placed(x.shape, *names)
  queries = spec(q, 'rows', 'heads', None, 'length')
  keys = spec(k, 'rows', 'heads', 'length')
  own, other = (spec(x, 'rows', 'length') for x in (q_ids, k_ids))
  mesh = jax.sharding.get_abstract_mesh()
  whole = P()
  if made is not None:
    whole = splash.specs_of(made, mesh, 'sequence' if parts > 1 else None)
  return jax.shard_map(
    local,
    in_specs=(whole, queries, keys, keys, own, other),
    out_specs=queries,
    check_vma=False,
  )(made, q, k, v, q_ids, k_ids)
