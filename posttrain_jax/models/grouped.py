"""Scoring a group's completions with their prompt read once.

`transformer.token_logps` reads rows 'prompt completion padding': the prompt G
times, and every padded column. Here a prompt is read once, its completions
attend to its keys, and the matrix products see a stream of real tokens only;
attention alone works on padded rectangles. The numbers are the same.

  B prompts  G completions of each  R = B * G  P, C tokens  M stream tokens
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, PyTree, TokenSignals
from posttrain_jax.models import (
  attention,
  layers,
  parameters,
  remat,
  rope,
  transformer,
)
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.scoring import score_tokens

__all__ = ['group_token_logps', 'parts_of', 'stream_sizes']


@functools.partial(jax.custom_vjp, nondiff_argnums=())
def _move(x: Array, index: Array, inverse: Array) -> Array:
  """Rows `index` of x, 0 where it is past the end; `inverse` leads back.

  No row is taken twice, so the gradient is the move back: a gather, where
  differentiating a gather would give a scatter.
  """
  del inverse
  return jnp.take(x, index, axis=0, mode='fill', fill_value=0)


def _move_forward(x, index, inverse):
  return _move(x, index, inverse), (index, inverse)


def _move_back(kept, gradient):
  index, inverse = kept
  return _move(gradient, inverse, index), None, None


_move.defvjp(_move_forward, _move_back)


@dataclasses.dataclass(frozen=True)
class _Rectangles:
  """Prompts [B, P, ...] and completions [R, C, ...], each a batch of its own.

  Rows stay rows, so that they may lie on several devices.
  """

  def gather(self, prompts: Array, completions: Array) -> list[Array]:
    return [prompts, completions]

  def spread(self, parts: list[Array]) -> tuple[Array, Array]:
    return parts[0], parts[1]


@dataclasses.dataclass(frozen=True)
class _Joined:
  """Both rectangles as one batch [n, M / n, ...], for n groups of devices with
  rows of their own, s devices in each with positions of their own.

  Nothing moves: a device has its part of the prompts, then its part of the
  completions. A weight then meets one batch, and its gradient is sent once, not
  once for each rectangle.
  """

  shapes: tuple[tuple[int, ...], tuple[int, ...]]
  n: int
  s: int

  def gather(self, prompts: Array, completions: Array) -> list[Array]:
    parts = [self._apart(prompts), self._apart(completions)]
    made = jnp.concatenate(parts, axis=2)
    made = made.reshape(self.n, -1, *made.shape[3:])
    return [sharding.constrain_first(made, 'rows', 'length')]

  def spread(self, parts: list[Array]) -> tuple[Array, Array]:
    whole = parts[0].reshape(self.n, self.s, -1, *parts[0].shape[2:])
    (b, p), (r, c) = self.shapes
    first = b * p // (self.n * self.s)
    prompts = self._together(whole[:, :, :first], b, p)
    return prompts, self._together(whole[:, :, first:], r, c)

  def _apart(self, x: Array) -> Array:
    """[rows, T, ...] as [n, s, rows / n * T / s, ...]."""
    rows, length = x.shape[:2]
    rest = x.shape[2:]
    x = x.reshape(self.n, rows // self.n, self.s, length // self.s, *rest)
    return jnp.moveaxis(x, 2, 1).reshape(self.n, self.s, -1, *rest)

  def _together(self, x: Array, rows: int, length: int) -> Array:
    rest = x.shape[3:]
    x = x.reshape(self.n, self.s, rows // self.n, length // self.s, *rest)
    x = jnp.moveaxis(x, 1, 2).reshape(rows, length, *rest)
    return sharding.constrain_first(x, 'rows', 'length')


@dataclasses.dataclass(frozen=True)
class _Stream:
  """One batch of one row that holds the real tokens of both rectangles.

  shapes   (B, P), (R, C)
  source   [M] place in the flat rectangles of each stream token; B * P + R * C
           where the stream has none left
  inverse  [B * P + R * C] place in the stream; M for tokens that are not in it
  """

  shapes: tuple[tuple[int, ...], tuple[int, ...]]
  source: Array
  inverse: Array

  def gather(self, prompts: Array, completions: Array) -> list[Array]:
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    whole = jnp.concatenate([flat(prompts), flat(completions)])
    return [_move(whole, self.source, self.inverse)[None]]

  def spread(self, parts: list[Array]) -> tuple[Array, Array]:
    whole = _move(parts[0][0], self.inverse, self.source)
    (b, p), (r, c) = self.shapes
    first, second = whole[: b * p], whole[b * p :]
    shape = whole.shape[1:]
    return first.reshape(b, p, *shape), second.reshape(r, c, *shape)


@dataclasses.dataclass(frozen=True)
class _Streams:
  """A stream for each of n groups of devices that have rows of their own: one
  batch [n, M / n, ...].

  one  of rows of one group, its arrays [n, ...]
  """

  shapes: tuple[tuple[int, ...], tuple[int, ...]]
  one: _Stream

  def gather(self, prompts: Array, completions: Array) -> list[Array]:
    count = self.one.source.shape[0]
    own = lambda x: x.reshape(count, -1, *x.shape[1:])
    each = jax.vmap(lambda one, p, c: one.gather(p, c)[0][0])
    made = each(self.one, own(prompts), own(completions))
    return [sharding.constrain_first(made, 'rows')]

  def spread(self, parts: list[Array]) -> tuple[Array, Array]:
    each = jax.vmap(lambda one, x: one.spread([x[None]]))
    found = each(self.one, parts[0])
    prompts, completions = (
      sharding.constrain_first(x.reshape(*shape, *x.shape[3:]), 'rows')
      for x, shape in zip(found, self.shapes)
    )
    return prompts, completions


jax.tree_util.register_dataclass(
  _Stream, data_fields=['source', 'inverse'], meta_fields=['shapes']
)


_Layout = _Rectangles | _Joined | _Stream | _Streams


def parts_of(prompts: int, rows: int) -> int:
  """How many streams there are of so many prompts and completions: one for each
  group of devices that has rows of its own; one where those do not divide."""
  parts = sharding.size(*sharding.LOGICAL['rows'])
  return 1 if prompts % parts or rows % parts else parts


def _joined(
  prompts: tuple[int, ...], completions: tuple[int, ...]
) -> _Joined | None:
  """`_Joined` of these shapes, where devices have parts of both."""
  n = sharding.size(*sharding.LOGICAL['rows'])
  s = sharding.size(*sharding.LOGICAL['length'])
  every = (prompts, completions)
  if n * s == 1 or any(rows % n or length % s for rows, length in every):
    return None
  return _Joined(every, n, s)


def _streams(
  prompt_real: Array, real: Array, size: int
) -> '_Stream | _Streams':
  parts = parts_of(prompt_real.shape[0], real.shape[0])
  if parts == 1:
    return _stream(prompt_real, real, size)
  own = lambda x: x.reshape(parts, -1, x.shape[1])
  make = functools.partial(_stream, size=-(-size // parts))
  made = jax.vmap(make)(own(prompt_real), own(real))
  return _Streams((prompt_real.shape, real.shape), made)


def _stream(prompt_real: Array, real: Array, size: int) -> _Stream:
  whole = jnp.concatenate([prompt_real.reshape(-1), real.reshape(-1)]) != 0
  total = whole.shape[0]
  rank = jnp.cumsum(whole) - 1
  inverse = jnp.where(whole & (rank < size), rank, size)
  source = jnp.full((size,), total, inverse.dtype)
  source = source.at[inverse].set(jnp.arange(total), mode='drop')
  return _Stream((prompt_real.shape, real.shape), source, inverse)


def stream_sizes(total: int, parts: int) -> list[int]:
  """Sizes that a stream of at most `total` tokens may be compiled for."""
  return [-(-total * k // parts) for k in range(1, parts + 1)]


def _layer(layer, xs, tables, layout, allowed, config):
  """One decoder layer over the parts of a layout, each [rows, T, D]."""
  layer = parameters.gathered(layer, config)
  with jax.named_scope('attention'):
    read = lambda x: layers.enter(layer, 'attention', x, config)
    made = [
      layers.qkv(layer, read(x), table, config) for x, table in zip(xs, tables)
    ]
    # Tokens lead in a layout, heads in attention.
    tokens_first = lambda y: jnp.moveaxis(y, -2, 1)
    heads_first = lambda y: jnp.moveaxis(y, 1, -2)
    (q_p, q_c), (k_p, k_c), (v_p, v_c) = (
      map(heads_first, layout.spread([tokens_first(part) for part in parts]))
      for parts in zip(*made)
    )
    found = attention.over_groups(
      (q_p, k_p, v_p), (q_c, k_c, v_c), allowed, config
    )
    outs = layout.gather(*map(tokens_first, found))
    if not isinstance(allowed, attention.Groups):  # which keep their own
      outs = [remat.mark(out, remat.ATTENTION) for out in outs]
    afters = [
      layers.add_attention(layer, x, heads_first(out), config)
      for x, out in zip(xs, outs)
    ]
  with jax.named_scope('mlp'):
    pairs = zip(xs, afters)
    return [layers.add_mlp(layer, *pair, config) for pair in pairs]


def _run(params, xs, tables, layout, allowed, config):
  def turned(turns):
    """One layer's function, for its tables of each part."""
    function = lambda layer, xs, allowed: _layer(
      layer, xs, turns, layout, allowed, config
    )
    return parameters.recomputed(function, config)

  if config.scan_layers and not isinstance(params['layers'], tuple):

    def step(xs, layer, mark):
      chosen = transformer.of_kind(allowed, mark['window'])
      turns = [rope.of_kind(x, mark.get('rope', {})) for x in tables]
      return turned(turns)(layer, xs, chosen), None

    marks = transformer.marks(config)
    return parameters.scan(step, xs, params, marks, config)[0]
  functions = {
    kind: turned([x[kind] for x in tables]) for kind in config.rope_kinds
  }
  for index, layer in enumerate(transformer.unstack(params, config)['layers']):
    function = functions[config.rope_kind(index)]
    xs = function(layer, xs, allowed[config.kind(index)])
  return xs


def _allowed(
  prompt_real: Array, real: Array, after: Array, config: ModelConfig
) -> dict[str, Any]:
  """What may be seen, by kind of layer: [R, C, C] a completion of itself,
  [B, P, P] a prompt of itself, [R, C, P] a completion of its prompt.

  after  [R, C] position of each token of a completion in its whole row
  """
  if attention.by_structure(config):
    return {
      k: attention.Groups(prompt_real, real, kind=k) for k in config.kinds
    }
  group = real.shape[0] // prompt_real.shape[0]
  causal = lambda x: jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))[None]
  own = transformer.windows(causal(real) & real[:, None], config)
  before = transformer.windows(
    causal(prompt_real) & prompt_real[:, None], config
  )
  places = prompt_real.shape[1]
  seen = jnp.repeat(prompt_real, group, axis=0)[:, None]
  seen = jnp.broadcast_to(seen, (*real.shape, places))
  allowed = {}
  for kind in config.kinds:
    near = seen
    if kind == 'window':
      distance = after[:, :, None] - jnp.arange(places)[None, None]
      near = seen & (distance < config.sliding_window)
    allowed[kind] = own[kind], before[kind], near
  return allowed


def group_token_logps(
  params: PyTree,
  config: ModelConfig,
  prompts: Array,
  prompt_real: Array,
  completions: Array,
  real: Array,
  mask: Array,
  temperature: float | Array | Callable[..., Array] = 1.0,
  context: PyTree = None,
  *,
  size: int | None = None,
  entropy: bool = False,
  logits: bool = False,
) -> TokenSignals:
  """`transformer.token_logps` of completions whose prompts are shared.

  prompts      [B, P], prompt_real [B, P] 1 on real tokens, right-padded
  completions  [R, C], real [R, C] 1 on real tokens, right-padded; the rows of
               one prompt next to each other
  mask         [R, C] 1 on tokens that count
  context      [R, C, ...] as in `token_logps`
  size         tokens that the matrix products see: at least the real ones of
               both (those beyond would be left out silently); of each of
               `parts_of` streams its share. None: all

  Returns TokenSignals of [R, C] arrays.
  """
  group = completions.shape[0] // prompts.shape[0]
  lengths = jnp.sum(prompt_real != 0, axis=1)
  # Layers read `layout`, what is scored is in `scoring`.
  scoring: _Layout = _Rectangles()
  layout: _Layout = scoring
  if size is None:
    layout = _joined(prompts.shape, completions.shape) or scoring
  else:
    layout = scoring = _streams(prompt_real, real, size)
  rank = lambda x: jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape)
  after = jnp.repeat(lengths, group)[:, None] + rank(completions)
  positions = layout.gather(rank(prompts), after)
  tables = [rope.by_kind(x, config) for x in positions]
  allowed = _allowed(prompt_real != 0, real != 0, after, config)
  ids = layout.gather(prompts, completions)
  xs = [layers.embed(params, config, *x) for x in zip(ids, positions)]
  xs = _run(params, xs, tables, layout, allowed, config)
  of_prompt, of_completion = layout.spread(
    [layers.norm(params, 'final_norm', x, config) for x in xs]
  )
  index = jnp.maximum(lengths - 1, 0)[:, None, None]
  last = jnp.take_along_axis(of_prompt, index, axis=1)
  previous = jnp.concatenate(
    [jnp.repeat(last, group, axis=0), of_completion[:, :-1]], axis=1
  )
  scored = (mask != 0) & (jnp.repeat(lengths, group) > 0)[:, None]
  nothing = jnp.zeros(prompts.shape, bool)
  found = score_tokens(
    params,
    config,
    scoring.gather(jnp.zeros_like(of_prompt), previous)[-1],
    ids[-1] if layout is scoring else completions,
    scoring.gather(nothing, scored)[-1],
    temperature,
    jax.tree.map(
      lambda x: scoring.gather(
        jnp.zeros((*prompts.shape, *x.shape[2:]), x.dtype), x
      )[-1],
      context,
    ),
    entropy=entropy,
    logits=logits,
  )
  if size is None:
    return found
  return jax.tree.map(lambda x: scoring.spread([x])[1], found)
