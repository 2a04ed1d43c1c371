"""The decoder: one declaration of its parameters, pure functions over them.

`param_table` declares every parameter once (shape, sharding, initial scale);
`init`, `param_specs` and `param_count` read it. Parameters are a nested dict;
the weights of all layers are stacked on axis 0.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from posttrain_jax.core.types import Array, PyTree, TokenSignals
from posttrain_jax.models import adapted, layers
from posttrain_jax.models import cache as cache_lib
from posttrain_jax.models.cache import Cache
from posttrain_jax.models.cache import init_cache as init_cache
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.scoring import score_tokens, unembed


class Param(NamedTuple):
  """One parameter: shape, mesh axes of its dimensions, initial std.

  `std` 0 means zeros, `ones` True means ones.
  """

  shape: tuple[int, ...]
  spec: P
  std: float = 0.0
  ones: bool = False


def param_table(config: ModelConfig) -> dict[str, Param]:
  """Every parameter of the model by its path."""
  c = config
  l, d, f, k = c.num_layers, c.width, c.mlp_dim, c.head_dim
  h, n = c.num_heads, c.num_kv_heads
  # Residual branches start small, so that depth does not change the scale.
  branch = 1.0 / math.sqrt(2 * l)
  heads = P(None, 'fsdp', 'tensor', None)
  table = {
    'embed/tokens': Param((c.vocab_size, d), P('tensor', 'fsdp'), 0.02),
    'layers/attention_norm': Param((l, d), P(), ones=True),
    'layers/query': Param((l, d, h, k), heads, d**-0.5),
    'layers/key': Param((l, d, n, k), heads, d**-0.5),
    'layers/value': Param((l, d, n, k), heads, d**-0.5),
    'layers/output': Param(
      (l, h, k, d), P(None, 'tensor', None, 'fsdp'), branch * (h * k) ** -0.5
    ),
    'layers/mlp_norm': Param((l, d), P(), ones=True),
    'layers/gate': Param((l, d, f), P(None, 'fsdp', 'tensor'), d**-0.5),
    'layers/up': Param((l, d, f), P(None, 'fsdp', 'tensor'), d**-0.5),
    'layers/down': Param(
      (l, f, d), P(None, 'tensor', 'fsdp'), branch * f**-0.5
    ),
    'final_norm': Param((d,), P(), ones=True),
  }
  if c.qkv_bias:
    bias = P(None, 'tensor', None)
    table['layers/query_bias'] = Param((l, h, k), bias)
    table['layers/key_bias'] = Param((l, n, k), bias)
    table['layers/value_bias'] = Param((l, n, k), bias)
  if c.qk_norm:
    table['layers/query_norm'] = Param((l, k), P(), ones=True)
    table['layers/key_norm'] = Param((l, k), P(), ones=True)
  if not c.tie_embeddings:
    table['unembed'] = Param((d, c.vocab_size), P('fsdp', 'tensor'), d**-0.5)
  if c.value_head:
    # Zero: values start at 0, whatever the trunk.
    table['value_head/kernel'] = Param((d,), P('fsdp'))
    table['value_head/bias'] = Param((), P())
  return table


def _nested(flat: dict[str, PyTree]) -> PyTree:
  return traverse_util.unflatten_dict(flat, sep='/')


def init(key: Array, config: ModelConfig, skip: Collection[str] = ()) -> PyTree:
  """Fresh parameters; each depends on the key and its own path only.

  skip  first names of paths ('embed', 'layers', ...) that are not made
  """
  dtype = jnp.dtype(config.param_dtype)
  flat = {}
  for index, (path, param) in enumerate(sorted(param_table(config).items())):
    if path.partition('/')[0] in skip:
      continue
    if param.ones:
      flat[path] = jnp.ones(param.shape, dtype)
    elif param.std == 0.0:
      flat[path] = jnp.zeros(param.shape, dtype)
    else:
      noise = jax.random.truncated_normal(
        jax.random.fold_in(key, index), -3.0, 3.0, param.shape, jnp.float32
      )
      flat[path] = (param.std * noise).astype(dtype)
  return _nested(flat)


def param_specs(config: ModelConfig) -> PyTree:
  """PartitionSpec of every parameter, over axes data, fsdp and tensor."""
  return _nested({path: p.spec for path, p in param_table(config).items()})


def param_count(config: ModelConfig) -> int:
  """Number of parameters."""
  return sum(math.prod(p.shape) for p in param_table(config).values())


def unstack(params: PyTree, config: ModelConfig) -> PyTree:
  """`params` with `layers` as a tuple of per-layer dicts.

  `apply` takes both forms. A decode loop wants this one: slicing the stacked
  weights inside the loop would copy all of them at every token.
  """
  if isinstance(params['layers'], tuple):
    return params
  split = tuple(
    adapted.settled(jax.tree.map(lambda w, i=i: w[i], params['layers']))
    for i in range(config.num_layers)
  )
  return {**params, 'layers': split}


def _full_layer(layer, x, tables, allowed, config):
  """One decoder layer over whole sequences: (x, (keys, values))."""
  with jax.named_scope('attention'):
    normed = layers.rms_norm(x, layer['attention_norm'], config.norm_eps)
    q, k, v = layers.qkv(layer, normed, tables, config)
    out = layers.attend_causal(q, k, v, allowed, config.attention_chunk)
    x = x + layers.attention_output(layer, out, config)
  with jax.named_scope('mlp'):
    normed = layers.rms_norm(x, layer['mlp_norm'], config.norm_eps)
    x = x + layers.mlp(layer, normed)
  return x, (k, v)


def windows(allowed: Array, config: ModelConfig) -> dict[str, Array]:
  """{kind: what its layers see} of `allowed` [B, T, T], all that may be seen.

  The tokens of a segment are next to each other.
  """
  masks = {'full': allowed, 'window': allowed}
  if 'window' in config.kinds:
    index = jnp.arange(allowed.shape[-1])
    near = index[:, None] - index[None] < config.sliding_window
    masks['window'] = allowed & near[None]
  return {kind: masks[kind] for kind in config.kinds}


def windowed(config: ModelConfig) -> Array:
  """[L] bool, layers with a sliding window; for a scan over layers."""
  kinds = [config.kind(layer) for layer in range(config.num_layers)]
  return jnp.array([kind == 'window' for kind in kinds])


def of_kind(by_kind: dict[str, PyTree], near: Array) -> PyTree:
  """The entry of `by_kind` for a layer that has a window where `near`."""
  if len(by_kind) == 1:
    return next(iter(by_kind.values()))
  choose = lambda a, b: jnp.where(near, a, b)
  return jax.tree.map(choose, by_kind['window'], by_kind['full'])


def _run_layers(params, x, tables, allowed, config, keep):
  """All layers over whole sequences; `keep` also returns keys and values.

  allowed  {kind: [B, T, T]}
  """
  function = _full_layer
  if config.remat:
    function = jax.checkpoint(_full_layer, static_argnums=(4,))
  if config.scan_layers and not isinstance(params['layers'], tuple):

    def body(x, item):
      layer, near = item
      mask = of_kind(allowed, near)
      x, kept = function(layer, x, tables, mask, config)
      return x, kept if keep else None

    x, kept = jax.lax.scan(body, x, (params['layers'], windowed(config)))
    if keep:
      kept = tuple((kept[0][i], kept[1][i]) for i in range(config.num_layers))
    return x, kept
  kept = []
  for index, layer in enumerate(unstack(params, config)['layers']):
    mask = allowed[config.kind(index)]
    x, pair = function(layer, x, tables, mask, config)
    kept.append(pair)
  return x, tuple(kept) if keep else None


def _cached_layer(layer, x, tables, cache, index, at, allowed, config):
  """One decoder layer over one new token per row; returns x and its cache."""
  normed = layers.rms_norm(x, layer['attention_norm'], config.norm_eps)
  q, k, v = layers.qkv(layer, normed, tables, config)
  keys = cache_lib.append(cache.keys[index], k, at)
  values = cache_lib.append(cache.values[index], v, at)
  own, shared = allowed
  if cache.prefix is None:
    out = layers.attend(q, keys, values, own)
  else:
    prefix = cache.prefix
    out = layers.attend_with_prefix(
      q, keys, values, own, prefix.keys[index], prefix.values[index], shared
    )
  x = x + layers.attention_output(layer, out, config)
  normed = layers.rms_norm(x, layer['mlp_norm'], config.norm_eps)
  return x + layers.mlp(layer, normed), keys, values


def _decode_layers(params, x, tables, positions, real, cache, config):
  """All layers over one new token per row, through the cache."""
  at = cache_lib.next_columns(cache, config)
  marked = cache_lib.mark(cache, at, positions, real)
  see = lambda where, kind: cache_lib.visible(where, positions, kind, config)
  allowed = {}
  for kind, own in marked.items():
    shared = None
    if cache.prefix is not None:
      before = cache.prefix.positions[kind]
      group = own.shape[0] // before.shape[0]
      shared = see(jnp.repeat(before, group, axis=0), kind)
    allowed[kind] = see(own, kind), shared
  keys, values = [], []
  for index, layer in enumerate(unstack(params, config)['layers']):
    kind = config.kind(index)
    x, k, v = _cached_layer(
      layer, x, tables, cache, index, at[kind], allowed[kind], config
    )
    keys.append(k)
    values.append(v)
  cache = cache.replace(
    keys=tuple(keys),
    values=tuple(values),
    positions=marked,
    length=cache.length + 1,
  )
  return x, cache


def hidden_states(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  positions: Array | None = None,
  segment_ids: Array | None = None,
  mask: Array | None = None,
  cache: Cache | None = None,
) -> tuple[Array, Cache | None]:
  """Final normalised hidden states [B, T, D]; arguments as in `apply`."""
  rows, length = tokens.shape
  if segment_ids is None:
    segment_ids = jnp.ones_like(tokens) if mask is None else mask.astype(int)
  real = segment_ids > 0
  if positions is None:
    offset = 0 if cache is None else cache.length
    positions = jnp.broadcast_to(
      jnp.arange(length)[None] + offset, tokens.shape
    )
  x = params['embed']['tokens'][tokens].astype(config.dtype)
  tables = layers.rope_tables(positions, config)
  if cache is not None and length == 1:
    x, cache = _decode_layers(params, x, tables, positions, real, cache, config)
  else:
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = jnp.tril(jnp.ones((length, length), bool))
    # A padding query sees padding before it: its row stays finite.
    allowed = windows(same & causal[None], config)
    keep = cache is not None
    x, kept = _run_layers(params, x, tables, allowed, config, keep)
    if cache is not None:
      cache = cache_lib.fill(cache, kept, real, positions, config)
  return layers.rms_norm(x, params['final_norm'], config.norm_eps), cache


def apply(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  positions: Array | None = None,
  segment_ids: Array | None = None,
  mask: Array | None = None,
  cache: Cache | None = None,
) -> tuple[Array, Cache | None]:
  """Logits of the next token at every position.

  tokens       [B, T] int32
  positions    [B, T] for RoPE; default 0, 1, ... (after the cache's tokens)
  segment_ids  [B, T]; tokens attend to earlier ones of their segment; 0 = pad
  mask         [B, T], 1 on real tokens: segment_ids of unpacked rows
  cache        None; or a `Cache`: with T = 1 the token is read after the
               cached ones; with T > 1 the (empty) cache is filled with T slots

  Returns (logits [B, T, V] float32, the cache with the tokens in it).
  """
  hidden, cache = hidden_states(
    params, config, tokens, positions, segment_ids, mask, cache
  )
  return unembed(params, config, hidden), cache


def token_logps(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  mask: Array,
  temperature: float | Array | Callable[..., Array] = 1.0,
  *,
  positions: Array | None = None,
  segment_ids: Array | None = None,
  context: PyTree = None,
  entropy: bool = False,
  logits: bool = False,
) -> TokenSignals:
  """log pi(tokens[b, t] | tokens[b, :t]) for every counted token.

  tokens, mask  [B, T]; the first token of a row is never scored
  temperature   logits are divided by it, as the sampler does; or a function
                (logits [..., V], tokens [...], context [..., ...]) -> scores,
                -inf where a token could not be drawn (`rollout.decoders.view`)
  context       what that function reads besides, arrays [B, T, ...]
  positions, segment_ids  as in `apply`; give segment_ids where rows are padded
  entropy       also the entropy of each token's distribution, and is_top
  logits        also the logits [B, T, V], aligned to the token they score

  Rows of `config.logit_chunk` positions are scored at a time and recomputed in
  the backward pass, so that no [B, T, V] array exists (unless `logits` asks).
  """
  hidden, _ = hidden_states(params, config, tokens, positions, segment_ids)
  previous = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))

  scored = (mask != 0) & (jnp.arange(tokens.shape[1]) > 0)[None]
  return score_tokens(
    params,
    config,
    previous,
    tokens,
    scored,
    temperature,
    context,
    entropy=entropy,
    logits=logits,
  )
