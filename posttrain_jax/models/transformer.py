"""The decoder: pure functions over the parameters that `parameters` declares.

Whole rows, or one token a row through a cache. Layers may differ in what they
see, in how they turn queries and keys, and in their MLP.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, PyTree, TokenSignals
from posttrain_jax.models import attention, layers, parameters, periods, rope
from posttrain_jax.models import cache as cache_lib
from posttrain_jax.models.cache import Cache
from posttrain_jax.models.cache import init_cache as init_cache
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.parameters import Param as Param
from posttrain_jax.models.parameters import (
  active_param_count as active_param_count,
)
from posttrain_jax.models.parameters import init as init
from posttrain_jax.models.parameters import param_count as param_count
from posttrain_jax.models.parameters import param_specs as param_specs
from posttrain_jax.models.parameters import param_table as param_table
from posttrain_jax.models.parameters import unstack as unstack
from posttrain_jax.models.scoring import head_values, score_tokens, unembed


def _full_layer(layer, x, tables, allowed, config):
  """One decoder layer over whole sequences: (x, (keys, values))."""
  layer = parameters.gathered(layer, config)
  with jax.named_scope('attention'):
    normed = layers.enter(layer, 'attention', x, config)
    q, k, v = layers.qkv(layer, normed, tables, config)
    out = attention.over_rows(q, k, v, allowed, config)
    after = layers.add_attention(layer, x, out, config)
  with jax.named_scope('mlp'):
    return layers.add_mlp(layer, x, after, config), (k, v)


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


def _seen(segment_ids: Array, config: ModelConfig) -> dict[str, Any]:
  """{kind: what its layers see of rows}, for `attention.over_rows`."""
  if attention.by_structure(config):
    return {k: attention.Rows(segment_ids, kind=k) for k in config.kinds}
  length = segment_ids.shape[1]
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  causal = jnp.tril(jnp.ones((length, length), bool))
  # A padding query sees padding before it: its row stays finite.
  seen = sharding.constrain(same & causal[None], 'rows', 'length')
  return windows(seen, config)


def marks(config: ModelConfig) -> dict[str, PyTree]:
  """What tells layers apart in a scan over them.

  'window'  [L] bool, layers with a sliding window
  'rope'    {kind: [L] bool}, where layers differ in how they turn
  """
  numbers = range(config.num_layers)
  made: dict[str, PyTree] = {
    'window': jnp.array([config.kind(i) == 'window' for i in numbers])
  }
  if len(config.rope_kinds) > 1:
    made['rope'] = {
      kind: jnp.array([config.rope_kind(i) == kind for i in numbers])
      for kind in config.rope_kinds
    }
  return made


def of_kind(by_kind: dict[str, PyTree], near: Array) -> PyTree:
  """The entry of `by_kind` for a layer that has a window where `near`."""
  first = next(iter(by_kind.values()))
  if len(by_kind) == 1:
    return first
  if isinstance(first, attention.Structure):
    return first.in_loop(near)
  choose = lambda a, b: jnp.where(near, a, b)
  return jax.tree.map(choose, by_kind['window'], by_kind['full'])


def _run_layers(params, x, tables, allowed, config, keep):
  """All layers over whole sequences; `keep` also returns keys and values.

  tables   of `rope.by_kind`
  allowed  {kind: [B, T, T]}
  """
  function = parameters.recomputed(_full_layer, config, static_argnums=(4,))
  if config.scan_layers and not isinstance(params['layers'], tuple):

    def body(x, layer, mark):
      mask = of_kind(allowed, mark['window'])
      turn = rope.of_kind(tables, mark.get('rope', {}))
      x, kept = function(layer, x, turn, mask, config)
      return x, kept if keep else None

    x, kept = parameters.scan(body, x, params, marks(config), config)
    if keep and not config.scan_decode:
      pairs = [(kept[0][i], kept[1][i]) for i in range(config.num_layers)]
      kept = tuple(zip(*pairs))
    return x, kept
  kept = []
  for index, layer in enumerate(unstack(params, config)['layers']):
    mask = allowed[config.kind(index)]
    turn = tables[config.rope_kind(index)]
    x, pair = function(layer, x, turn, mask, config)
    kept.append(pair)
  return x, tuple(zip(*kept)) if keep else None


def _cached_layer(layer, x, tables, cache, at, allowed, config):
  """One decoder layer over one new token per row; returns x and its cache.

  cache  `put(buffer, new, column) -> (buffer, the layer's own columns)`, its
         keys and values, and those of a prefix that rows share, or None
  """
  put, keys, values, before = cache
  normed = layers.enter(layer, 'attention', x, config)
  q, k, v = (
    sharding.constrain(x, 'cache_rows', 'cache_heads')
    for x in layers.qkv(layer, normed, tables, config)
  )
  keys, own_keys = put(keys, k, at)
  values, own_values = put(values, v, at)
  own, shared = allowed
  how = attention.scores_of(config)
  if before is None:
    out = attention.attend(q, own_keys, own_values, own, how)
  else:
    prompt_keys, prompt_values = before
    out = attention.attend_with_prefix(
      q, own_keys, own_values, own, prompt_keys, prompt_values, shared, how
    )
  after = layers.add_attention(layer, x, out, config)
  return layers.add_mlp(layer, x, after, config), keys, values


def _decode_each(params, x, tables, at, allowed, cache, config):
  """(x, keys, values) after layers that have an array each."""

  def put(buffer, new, column):
    buffer = cache_lib.append(buffer, new, column)
    return buffer, buffer

  keys, values = [], []
  for index, layer in enumerate(unstack(params, config)['layers']):
    kind, before = config.kind(index), None
    if cache.prefix is not None:
      before = cache.prefix.keys[index], cache.prefix.values[index]
    x, k, v = _cached_layer(
      layer,
      x,
      tables[config.rope_kind(index)],
      (put, cache.keys[index], cache.values[index], before),
      at[kind],
      allowed[kind],
      config,
    )
    keys.append(k)
    values.append(v)
  return x, tuple(keys), tuple(values)


def _decode_stacked(params, x, tables, at, allowed, cache, config):
  """(x, keys, values) after a loop over layers, whose caches are stacks."""
  period = periods.repeated(config)

  def one(carry, number, turn):
    """The layer `turn` periods after layer `number`."""
    x, keys, values = carry
    kind, before = config.kind(number), None
    stack = cache_lib.of_kind(config, kind)
    place = periods.place_in(stack, number, period, turn)

    def put(buffer, new, column):
      buffer = cache_lib.append_at(buffer, new, column, place)
      return buffer, cache_lib.layer_at(buffer, place)

    if cache.prefix is not None:
      before = (
        cache_lib.layer_at(cache.prefix.keys[kind], place),
        cache_lib.layer_at(cache.prefix.values[kind], place),
      )
    x, k, v = _cached_layer(
      periods.layer_of(params['layers'], number, period, turn, config),
      x,
      tables[config.rope_kind(number)],
      (put, keys[kind], values[kind], before),
      at[kind],
      allowed[kind],
      config,
    )
    return x, {**keys, kind: k}, {**values, kind: v}

  def several(carry, numbers, turn):
    for number in numbers:
      carry = one(carry, number, turn)
    return carry

  inside = range(period.first, period.first + period.size)
  carry = several((x, cache.keys, cache.values), range(period.first), 0)
  carry = jax.lax.fori_loop(
    0, period.times, lambda turn, c: several(c, inside, turn), carry
  )
  return several(carry, range(period.end, config.num_layers), 0)


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
  decode = _decode_stacked if cache.stacked else _decode_each
  x, keys, values = decode(params, x, tables, at, allowed, cache, config)
  cache = cache.replace(
    keys=keys, values=values, positions=marked, length=cache.length + 1
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
  mixed: tuple[Array, Array | float] | None = None,
) -> tuple[Array, Cache | None]:
  """Final normalised hidden states [B, T, D]; arguments as in `apply`, and
  `mixed` of `layers.embed`."""
  rows, length = tokens.shape
  if segment_ids is None:
    segment_ids = jnp.ones_like(tokens) if mask is None else mask.astype(int)
  real = segment_ids > 0
  if positions is None:
    offset = 0 if cache is None else cache.length
    positions = jnp.broadcast_to(
      jnp.arange(length)[None] + offset, tokens.shape
    )
  x = layers.embed(params, config, tokens, positions, mixed)
  tables = rope.by_kind(positions, config)
  if cache is not None and length == 1:
    x, cache = _decode_layers(params, x, tables, positions, real, cache, config)
  else:
    allowed = _seen(segment_ids, config)
    keep = cache is not None
    x, kept = _run_layers(params, x, tables, allowed, config, keep)
    if cache is not None:
      cache = cache_lib.fill(cache, kept, real, positions, config)
  return layers.norm(params, 'final_norm', x, config), cache


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
  mixed: tuple[Array, Array | float] | None = None,
  values_after: bool = False,
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
  mixed         (tokens [B, T], share): the inputs are this share of theirs, and
                the rest of the row's own (`layers.embed`)
  values_after  also the value head's number of the state after each token

  Rows of `config.logit_chunk` positions are scored at a time and recomputed in
  the backward pass, so that no [B, T, V] array exists (unless `logits` asks).
  """
  hidden, _ = hidden_states(
    params, config, tokens, positions, segment_ids, mixed=mixed
  )
  previous = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
  previous = sharding.constrain(previous, *layers.STREAM)

  scored = (mask != 0) & (jnp.arange(tokens.shape[1]) > 0)[None]
  signals = score_tokens(
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
  if not values_after:
    return signals
  return signals.replace(values_after=head_values(params, hidden, scored))
