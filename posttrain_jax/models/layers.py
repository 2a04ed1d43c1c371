"""The pieces of a decoder layer, as plain functions of arrays.

A layer has two branches, attention and MLP; each reads the residual stream and
adds to it. Suffix letters: B rows, T positions, D width, H heads, N key/value
heads, R = H / N, K head size, F MLP size.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.core.sharding import constrain
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import experts, lookup, remat
from posttrain_jax.models.adapted import Weight, dense_product
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.rope import Tables, rope

# How the residual stream [B, T, D] lies on a mesh.
STREAM = ('rows', 'length', None)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'silu': jax.nn.silu,
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
}


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


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
  """(x - mean) / std * weight + bias over the last axis, in float32."""
  x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  x32 = x32 - jnp.mean(x32, -1, keepdims=True)
  scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
  shape = (1,) * (x.ndim - 1) + weight.shape
  wide = lambda w: w.astype(x32.dtype).reshape(shape)
  return (x32 * scale * wide(weight) + wide(bias)).astype(x.dtype)


def norm(holder: PyTree, name: str, x: Array, config: ModelConfig) -> Array:
  """x normalised by the weights `name` of a layer, or of the whole model."""
  weight = holder[name]
  if config.norm == 'layer':
    return layer_norm(x, weight, holder[f'{name}_bias'], config.norm_eps)
  if config.norm == 'rms':
    return rms_norm(x, weight, config.norm_eps)
  # 1 + weight is formed, and applied, in float32.
  wide = jnp.promote_types(x.dtype, jnp.float32)
  weight = 1.0 + weight.astype(wide)
  return rms_norm(x.astype(wide), weight, config.norm_eps).astype(x.dtype)


def enter(layer: PyTree, branch: str, x: Array, config: ModelConfig) -> Array:
  """What a branch ('attention' or 'mlp') reads of the residual stream."""
  if config.norm_place == 'after':
    return x
  return norm(layer, f'{branch}_norm', x, config)


def leave(layer: PyTree, branch: str, out: Array, config: ModelConfig) -> Array:
  """What a branch adds to the residual stream."""
  if config.norm_place == 'before':
    return out
  return norm(layer, f'{branch}_post_norm', out, config)


def embed(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  positions: Array,
  mixed: tuple[Array, Array | float] | None = None,
) -> Array:
  """The residual stream [B, T, D] before the first layer.

  mixed  (other tokens [B, T], their share) of the embeddings, through which no
         gradient then flows
  """
  x = lookup.looked_up(params['embed']['tokens'], tokens, config)
  if mixed is not None:
    other, share = mixed
    theirs = lookup.looked_up(params['embed']['tokens'], other, config)
    share = jnp.asarray(share, x.dtype)
    x = jax.lax.stop_gradient((1.0 - share) * x + share * theirs)
  x = constrain(x, *STREAM)
  if config.scale_embedding:
    # Rounded to the activations' type, as in training.
    x = x * jnp.asarray(math.sqrt(config.width), x.dtype)
  if config.positions == 'learned':
    # Beyond the table: NaN, not a row of it. Runs are refused before.
    table = params['embed']['positions'].astype(config.dtype)
    x = x + jnp.take(table, positions, axis=0, mode='fill', fill_value=jnp.nan)
  return constrain(x, *STREAM)


def _biased(layer: PyTree, name: str, x: Array, shown: bool) -> Array:
  """x [B, T, ...] plus a bias [...], where the model has one."""
  if not shown:
    return x
  return x + layer[name].astype(x.dtype)[None, None]


def _head_norm(layer: PyTree, name: str, x: Array, config) -> Array:
  """Queries or keys [B, T, heads, K] normalised, each head or all at once."""
  if not config.qk_norm:
    return x
  if not config.qk_norm_whole:
    return norm(layer, name, x, config)
  flat = {name: layer[name].reshape(-1)}
  return norm(flat, name, x.reshape(*x.shape[:2], -1), config).reshape(x.shape)


def qkv(
  layer: PyTree, x_BTD: Array, tables: Tables, config: ModelConfig
) -> tuple[Array, Array, Array]:
  """Rotated queries [B, N, R, T, K], rotated keys and values [B, N, T, K]."""
  q = product(x_BTD, layer['query'])
  k = product(x_BTD, layer['key'])
  v = product(x_BTD, layer['value'])
  q = _biased(layer, 'query_bias', q, config.qkv_bias)
  k = _biased(layer, 'key_bias', k, config.qkv_bias)
  v = _biased(layer, 'value_bias', v, config.qkv_bias)
  q = _head_norm(layer, 'query_norm', q, config)
  k = _head_norm(layer, 'key_norm', k, config)
  if tables is not None:
    q, k = rope(q, tables), rope(k, tables)
  b, t = q.shape[:2]
  groups = (config.num_kv_heads, config.num_heads // config.num_kv_heads)
  q = q.reshape(b, t, *groups, config.head_dim).transpose(0, 2, 3, 1, 4)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  split = lambda x: constrain(x, 'rows', 'heads', 'length')
  q = constrain(q, 'rows', 'heads', None, 'length')
  q, k, v = (remat.mark(x, remat.QKV) for x in (q, split(k), split(v)))
  return q, k, v


def attention_output(layer: PyTree, out: Array, config: ModelConfig) -> Array:
  """Heads [B, N, R, T, K] back to the residual stream [B, T, D]."""
  b, _, _, t, size = out.shape
  out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, config.num_heads, size)
  out = product(out, layer['output'], axes=2)
  return _biased(layer, 'output_bias', out, config.output_bias)


def mlp(layer: PyTree, x_BTD: Array, config: ModelConfig) -> Array:
  """Feed-forward: gated, plain, or of experts where the layer has some."""
  activation = ACTIVATIONS[config.activation]
  if 'router' in layer:
    return experts.mlp(layer, x_BTD, activation, config)
  biased = lambda name, x: _biased(layer, name, x, config.mlp_bias)
  if config.gated:
    gate = biased('gate_bias', product(x_BTD, layer['gate']))
    gate = remat.mark(gate, remat.GATE)
    up = biased('up_bias', product(x_BTD, layer['up']))
    inner = activation(gate) * up
  else:
    inner = activation(biased('up_bias', product(x_BTD, layer['up'])))
  inner = constrain(inner, 'rows', 'length', 'mlp')
  return biased('down_bias', product(inner, layer['down']))


def add_attention(
  layer: PyTree, x: Array, heads: Array, config: ModelConfig
) -> Array:
  """x [B, T, D] plus what attention found, heads [B, N, R, T, K]."""
  found = attention_output(layer, heads, config)
  found = constrain(found, *STREAM)
  return constrain(x + leave(layer, 'attention', found, config), *STREAM)


def add_mlp(
  layer: PyTree, before: Array, after: Array, config: ModelConfig
) -> Array:
  """The residual stream after a layer, of that before and after attention."""
  read = remat.mark(before if config.parallel else after, remat.MLP)
  out = constrain(
    mlp(layer, enter(layer, 'mlp', read, config), config), *STREAM
  )
  return constrain(after + leave(layer, 'mlp', out, config), *STREAM)
