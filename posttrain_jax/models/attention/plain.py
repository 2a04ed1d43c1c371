"""Attention by its definition: at once, in blocks of queries, over a prefix.

Suffix letters: B rows, T query positions, S key positions, N key/value heads,
R query heads of each, K head size.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.models.cache import Quantized
from posttrain_jax.models.config import ModelConfig

__all__ = [
  'MASKED',
  'Scores',
  'attend',
  'attend_causal',
  'attend_causal_with_prefix',
  'attend_with_prefix',
  'scores_of',
  'softmax',
]

# Large, but finite: a fully masked row gives a uniform softmax, not NaN.
MASKED = -1e30


class Scores(NamedTuple):
  """How products of queries and keys become scores.

  divisor  they are divided by its root; 0: the head size
  cap      scores stay within +-cap, by cap * tanh(score / cap); 0: as they are
           (Gemma Team, 2024, Gemma 2, https://arxiv.org/abs/2408.00118)
  """

  divisor: float = 0.0
  cap: float = 0.0


PLAIN = Scores()


def scores_of(config: ModelConfig) -> Scores:
  """The scores of a model's attention."""
  return Scores(config.query_scale, config.attention_cap)


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


def softmax(scores: Array, allowed: Array, cap: float = 0.0) -> Array:
  """Attention probabilities in float32; `allowed` is broadcast.

  cap  of `Scores`

  Its gradient is written from the probabilities: differentiated as it stands,
  a training step is slower on CPU.
  """
  scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  if cap:
    scores = cap * jnp.tanh(scores / cap)
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


def cut(x: Array, chunk: int) -> Array:
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
      tuple(cut(x[..., start:end, :], chunk) for x in over_queries),
    )
    made = jnp.moveaxis(made, 0, -3)
    made = made.reshape(*made.shape[:-3], -1, made.shape[-1])
    done.append(made[..., : end - start, :])
  return jnp.concatenate(done, axis=-2)


def attend_causal(
  q: Array,
  k: Array,
  v: Array,
  allowed: Array,
  chunk: int = 0,
  how: Scores = PLAIN,
) -> Array:
  """`attend` where no query sees a later key, `chunk` queries at a time.

  q [B, N, R, T, K], k, v [B, N, T, K], allowed [B, T, T]. There are T * chunk
  scores at a time in place of T * T. 0: all queries at once.
  """
  if not 0 < chunk < q.shape[-2]:
    return attend(q, k, v, allowed, how)

  def one(keys, q, allowed):
    own = k[:, :, :keys], v[:, :, :keys], allowed[..., :keys]
    return attend(q, *own, how)

  return _in_blocks(one, chunk, q, allowed)


def attend(
  q: Array,
  k: Array | Quantized,
  v: Array | Quantized,
  allowed: Array,
  how: Scores = PLAIN,
) -> Array:
  """Attention of q [B, N, R, T, K] over k, v [B, N, S, K].

  allowed  [B, T, S] bool
  Returns [B, N, R, T, K].
  """
  scaled = q * (how.divisor or q.shape[-1]) ** -0.5
  scores = _over_keys('bnrtk,bnsk->bnrts', scaled, k)
  weights = softmax(scores, allowed[:, None, None], how.cap)
  return _over_values('bnrts,bnsk->bnrtk', weights, v, q.dtype)


def attend_with_prefix(
  q: Array,
  k: Array | Quantized,
  v: Array | Quantized,
  allowed: Array,
  prefix_k: Array | Quantized,
  prefix_v: Array | Quantized,
  prefix_allowed: Array,
  how: Scores = PLAIN,
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
  q = q * (how.divisor or size) ** -0.5
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
    how.cap,
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
  how: Scores = PLAIN,
) -> Array:
  """`attend_with_prefix` where no query sees a later own key, `chunk` queries
  at a time, as in `attend_causal`."""
  prefix = prefix_k, prefix_v
  if not 0 < chunk < q.shape[-2]:
    return attend_with_prefix(q, k, v, allowed, *prefix, prefix_allowed, how)

  def one(keys, q, allowed, prefix_allowed):
    own = k[:, :, :keys], v[:, :, :keys], allowed[..., :keys]
    return attend_with_prefix(q, *own, *prefix, prefix_allowed, how)

  return _in_blocks(one, chunk, q, allowed, prefix_allowed)
