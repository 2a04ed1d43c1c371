"""The pieces of a decoder layer, as plain functions of arrays.

Suffix letters: B rows, T query positions, S key positions, D width, H heads,
N key/value heads, R = H / N, K head size, F MLP size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models.adapted import Weight, dense_product
from posttrain_jax.models.cache import Quantized
from posttrain_jax.models.config import ModelConfig, RopeScaling

# Large, but finite: a fully masked row gives a uniform softmax, not NaN.
MASKED = -1e30


def product(x: Array, weight: Array | Weight, axes: int = 1) -> Array:
  """Matrix product of activations with a weight, in the activations' dtype.

  The last `axes` axes of x meet the first ones of the weight. Rows and tokens
  are one axis meanwhile: the weight's gradient is then one matrix product on
  every backend (XLA's CPU compiler is half as fast over two axes).
  """
  if isinstance(weight, Weight):
    return weight.product(x, axes)
  return dense_product(x, weight, axes)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
  """x / rms(x) * weight over the last axis, computed in float32."""
  x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
  shape = (1,) * (x.ndim - 1) + weight.shape
  return (x32 * scale).astype(x.dtype) * weight.astype(x.dtype).reshape(shape)


def rope_frequencies(
  head_dim: int, theta: float, scaling: RopeScaling | None
) -> np.ndarray:
  """Rotation per position of each pair of channels [K / 2], in radians.

  With `scaling`: Llama 3's rule, which slows long wavelengths by `factor`,
  keeps short ones and interpolates in between.
  """
  exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
  frequency = theta**-exponent
  if scaling is None:
    return frequency.astype(np.float32)
  wavelength = 2 * np.pi / frequency
  context = scaling.original_max_position_embeddings
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
  scaled = (1 - smooth) * frequency / scaling.factor + smooth * frequency
  return scaled.astype(np.float32)


def rope_tables(positions: Array, config: ModelConfig) -> tuple[Array, Array]:
  """(cos, sin) [B, T, K / 2] in float32 for positions [B, T]."""
  frequency = rope_frequencies(
    config.head_dim, config.rope_theta, config.rope_scaling
  )
  places = positions[..., None].astype(jnp.float32)

  def tables(part):
    angle = places * part[None, None]
    return jnp.cos(angle), jnp.sin(angle)

  # A loop's result is kept; else XLA would fuse sines and cosines into every
  # use, and compute them anew for each head of each layer.
  parts = math.gcd(frequency.size, 2)
  cos, sin = jax.lax.map(tables, frequency.reshape(parts, -1))
  join = lambda x: jnp.concatenate(list(x), axis=-1)
  return join(cos), join(sin)


def rope(x_BTHK: Array, tables: tuple[Array, Array]) -> Array:
  """Rotates channel pairs (i, i + K / 2) by their position's angle."""
  cos, sin = (table[:, :, None].astype(x_BTHK.dtype) for table in tables)
  first, second = jnp.split(x_BTHK, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def qkv(
  layer: PyTree, x_BTD: Array, tables, config: ModelConfig
) -> tuple[Array, Array, Array]:
  """Rotated queries [B, N, R, T, K], rotated keys and values [B, N, T, K]."""
  q = product(x_BTD, layer['query'])
  k = product(x_BTD, layer['key'])
  v = product(x_BTD, layer['value'])
  if config.qkv_bias:
    q = q + layer['query_bias'].astype(q.dtype)[None, None]
    k = k + layer['key_bias'].astype(k.dtype)[None, None]
    v = v + layer['value_bias'].astype(v.dtype)[None, None]
  if config.qk_norm:
    q = rms_norm(q, layer['query_norm'], config.norm_eps)
    k = rms_norm(k, layer['key_norm'], config.norm_eps)
  q, k = rope(q, tables), rope(k, tables)
  b, t = q.shape[:2]
  groups = (config.num_kv_heads, config.num_heads // config.num_kv_heads)
  q = q.reshape(b, t, *groups, config.head_dim).transpose(0, 2, 3, 1, 4)
  return q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


@jax.custom_vjp
def _softmax(scores: Array, allowed: Array) -> Array:
  return jax.nn.softmax(jnp.where(allowed, scores, MASKED), axis=-1)


def _softmax_forward(scores, allowed):
  weights = _softmax(scores, allowed)
  return weights, (weights, allowed)


def _softmax_back(kept, gradient):
  weights, allowed = kept
  share = weights * gradient
  change = share - weights * jnp.sum(share, axis=-1, keepdims=True)
  return jnp.where(allowed, change, 0.0), None


_softmax.defvjp(_softmax_forward, _softmax_back)


def softmax(scores: Array, allowed: Array) -> Array:
  """Attention probabilities in float32; `allowed` is broadcast.

  Its gradient is written from the probabilities: differentiated as it stands,
  a training step is slower on CPU.
  """
  scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  return _softmax(scores, allowed)


def _wide(scale: Array, middle: int) -> Array:
  """[B, N, S] as [B, N, 1, ..., S]."""
  return scale.reshape(*scale.shape[:2], *(1,) * middle, scale.shape[2])


def _over_keys(spec: str, q: Array, k: Array | Quantized) -> Array:
  """Products of queries with keys; a cache's keys may be of another dtype."""
  if not isinstance(k, Quantized):
    return jnp.einsum(spec, q, k.astype(q.dtype))
  products = jnp.einsum(spec, q, k.values.astype(q.dtype))
  return products * _wide(k.scale, products.ndim - 3).astype(q.dtype)


def _over_values(
  spec: str, weights: Array, v: Array | Quantized, dtype
) -> Array:
  """Values averaged by weights, in the activations' dtype."""
  if not isinstance(v, Quantized):
    return jnp.einsum(spec, weights.astype(dtype), v.astype(dtype))
  weights = weights * _wide(v.scale, weights.ndim - 3)
  return jnp.einsum(spec, weights.astype(dtype), v.values.astype(dtype))


# Stretches of keys that blocks of queries meet: with 4 of them 5/8 of all
# products are left of a causal attention, with ever more one half.
STRETCHES = 4


def _cut(x: Array, chunk: int) -> Array:
  """[..., T, last] -> [blocks, ..., chunk, last], zeros in the last block."""
  spare = -x.shape[-2] % chunk
  x = jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((0, spare), (0, 0)))
  x = x.reshape(*x.shape[:-2], -1, chunk, x.shape[-1])
  return jnp.moveaxis(x, -3, 0)


def _in_blocks(one: Callable, chunk: int, *over_queries: Array) -> Array:
  """`one(keys, *blocks)` for `chunk` queries after the other.

  over_queries  [..., T, last] arrays with queries in their last axis but one
  one           is given blocks of them, and how many keys there are up to the
                last block of its stretch

  Each block is computed anew in the backward pass, one after the other: the
  scores of one block are all that there is at a time.
  """
  length = over_queries[0].shape[-2]
  count = -(-length // chunk)
  stretch = -(-count // STRETCHES) * chunk
  done = []
  for start in range(0, length, stretch):
    end = min(start + stretch, length)
    made = jax.lax.map(
      jax.checkpoint(lambda blocks, end=end: one(end, *blocks)),
      tuple(_cut(x[..., start:end, :], chunk) for x in over_queries),
    )
    made = jnp.moveaxis(made, 0, -3)
    made = made.reshape(*made.shape[:-3], -1, made.shape[-1])
    done.append(made[..., : end - start, :])
  return jnp.concatenate(done, axis=-2)


def attend_causal(
  q: Array, k: Array, v: Array, allowed: Array, chunk: int = 0
) -> Array:
  """`attend` where no query sees a later key, `chunk` queries at a time.

  q [B, N, R, T, K], k, v [B, N, T, K], allowed [B, T, T]. There are T * chunk
  scores at a time in place of T * T. 0: all queries at once.
  """
  if not 0 < chunk < q.shape[-2]:
    return attend(q, k, v, allowed)

  def one(keys, q, allowed):
    return attend(q, k[:, :, :keys], v[:, :, :keys], allowed[..., :keys])

  return _in_blocks(one, chunk, q, allowed)


def attend(
  q: Array, k: Array | Quantized, v: Array | Quantized, allowed: Array
) -> Array:
  """Attention of q [B, N, R, T, K] over k, v [B, N, S, K].

  allowed  [B, T, S] bool
  Returns [B, N, R, T, K].
  """
  scores = _over_keys('bnrtk,bnsk->bnrts', q * q.shape[-1] ** -0.5, k)
  weights = softmax(scores, allowed[:, None, None])
  return _over_values('bnrts,bnsk->bnrtk', weights, v, q.dtype)


def attend_with_prefix(
  q: Array,
  k: Array | Quantized,
  v: Array | Quantized,
  allowed: Array,
  prefix_k: Array | Quantized,
  prefix_v: Array | Quantized,
  prefix_allowed: Array,
) -> Array:
  """`attend` over a prefix shared by groups of G rows, then over own keys.

  q                [B * G, N, R, T, K], rows of one group next to each other
  k, v             [B * G, N, S, K] own keys; allowed [B * G, T, S]
  prefix_k, _v     [B, N, P, K], read in place by all G rows
  prefix_allowed   [B * G, T, P]
  """
  rows, n, r, t, size = q.shape
  b, p = prefix_k.shape[0], prefix_k.shape[2]
  g = rows // b
  q = q * size**-0.5
  own = _over_keys('bnrtk,bnsk->bnrts', q, k)

  # Group, query-head and token axes merge: one matrix product per (prompt, kv
  # head).
  def merged(x):
    x = x.reshape(b, g, n, r, t, x.shape[-1]).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(b, n, g * r * t, x.shape[-1])

  def split(x):
    x = x.reshape(b, n, g, r, t, x.shape[-1]).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(rows, n, r, t, x.shape[-1])

  shared = split(_over_keys('bnqk,bnpk->bnqp', merged(q), prefix_k))
  weights = softmax(
    jnp.concatenate([shared, own], axis=-1),
    jnp.concatenate([prefix_allowed, allowed], axis=-1)[:, None, None],
  )
  shared, own = merged(weights[..., :p]), weights[..., p:]
  out = split(_over_values('bnqp,bnpk->bnqk', shared, prefix_v, q.dtype))
  return out + _over_values('bnrts,bnsk->bnrtk', own, v, q.dtype)


def attend_causal_with_prefix(
  q: Array,
  k: Array,
  v: Array,
  allowed: Array,
  prefix_k: Array,
  prefix_v: Array,
  prefix_allowed: Array,
  chunk: int = 0,
) -> Array:
  """`attend_with_prefix` where no query sees a later own key, `chunk` queries
  at a time, as in `attend_causal`."""
  prefix = prefix_k, prefix_v
  if not 0 < chunk < q.shape[-2]:
    return attend_with_prefix(q, k, v, allowed, *prefix, prefix_allowed)

  def one(keys, q, allowed, prefix_allowed):
    own = k[:, :, :keys], v[:, :, :keys], allowed[..., :keys]
    return attend_with_prefix(q, *own, *prefix, prefix_allowed)

  return _in_blocks(one, chunk, q, allowed, prefix_allowed)


def attention_output(layer: PyTree, out: Array, config: ModelConfig) -> Array:
  """Heads [B, N, R, T, K] back to the residual stream [B, T, D]."""
  b, _, _, t, size = out.shape
  out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, config.num_heads, size)
  return product(out, layer['output'], axes=2)


def mlp(layer: PyTree, x_BTD: Array) -> Array:
  """SiLU-gated feed-forward."""
  gate = product(x_BTD, layer['gate'])
  up = product(x_BTD, layer['up'])
  return product(jax.nn.silu(gate) * up, layer['down'])
