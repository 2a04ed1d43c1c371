"""Decoders: how the next token is drawn.

Every function here is called the same way:

  tokens, logps = decoder(logits, keys, **hparams)

  logits  [B, V] float32
  keys    [B] one PRNG key per row, so that a row's draw depends on nothing
          but its own key
  tokens  [B] int32
  logps   [B] log-probability of each token under the distribution it was
          actually drawn from (after temperature and truncation)

`TRUNCATING` names those that give some tokens zero probability. A learner sees
the distribution that they drew from through `view`: it drops the same tokens
again before it scores, so that ratios stay those of what was sampled.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import shapes, vocabulary
from posttrain_jax.core.types import Array

__all__ = ['greedy', 'min_p', 'sample', 'top_k', 'top_p', 'typical']
TRUNCATING = ('greedy', 'min_p', 'top_k', 'top_p', 'typical')

Draw = tuple[Array, Array]


def _draw(scores: Array, keys: Array) -> Draw:
  log_probs = jax.nn.log_softmax(scores)
  tokens = jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)
  return tokens, vocabulary.taken(log_probs, tokens)


def _divided(logits: Array, temperature: Array | float) -> Array:
  """Logits over a temperature, which is refused where it is not above 0."""
  traced = isinstance(temperature, jax.core.Tracer)
  if not traced and not temperature > 0:
    raise ValueError(
      f'temperature={temperature} is not above 0; the most likely token alone '
      'is decoder "greedy"'
    )
  return logits / temperature


def _in_top_k(scores: Array, k: int) -> Array:
  # As in transformers' and TRL's settings, 0 and -1 say "no limit".
  size = scores.shape[-1]
  kept = min(int(k), size) if k > 0 else size
  return scores >= vocabulary.kth_largest(scores, kept)


def _until(mass: Array, p: Array | float) -> Array:
  """The first entries whose mass reaches p, at least one.

  mass  [..., V] probabilities in the order in which tokens are taken
  """
  before = jnp.cumsum(mass, axis=-1) - mass
  # Before the first there is 0, which is below the smallest number.
  return before < jnp.maximum(p, jnp.finfo(mass.dtype).tiny)


def _in_top_p(scores: Array, p: float) -> Array:
  ranked = -jnp.sort(-vocabulary.to_order(scores), axis=-1)
  inside = _until(jax.nn.softmax(ranked), p)
  floor = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
  return scores >= floor


def _in_min_p(scores: Array, p: float) -> Array:
  # Nothing is more likely than the most likely one: p above 1 keeps it alone.
  limit = jnp.minimum(jnp.log(p), 0.0)
  return scores >= jnp.max(scores, axis=-1, keepdims=True) + limit


def _in_typical(scores: Array, p: float) -> Array:
  log_probs = jax.nn.log_softmax(scores)
  probs = jnp.exp(log_probs)
  surprise = -jnp.where(probs > 0, log_probs, 0.0)
  entropy = jnp.sum(probs * surprise, axis=-1, keepdims=True)
  distance = jnp.where(probs > 0, jnp.abs(surprise - entropy), jnp.inf)
  apart, probs = map(vocabulary.to_order, (distance, probs))
  order = jnp.argsort(apart, axis=-1)
  inside = _until(jnp.take_along_axis(probs, order, axis=-1), p)
  ranked = jnp.take_along_axis(apart, order, axis=-1)
  limit = jnp.max(jnp.where(inside, ranked, 0.0), axis=-1, keepdims=True)
  return distance <= limit


_KEEPS: dict[str, Callable[..., Array]] = {
  'min_p': _in_min_p,
  'top_k': _in_top_k,
  'top_p': _in_top_p,
  'typical': _in_typical,
}


def _scores(
  logits: Array,
  taken: Array | None = None,
  context: Any = None,
  *,
  name: str,
  temperature: float = 1.0,
  **hparams: Any,
) -> Array:
  """Logits [..., V] after temperature and truncation, -inf where dropped.

  taken  [...] a token that stays in any case: where two programs round
         differently, a token on the edge must not become impossible
  """
  del context
  scores = _divided(logits, temperature)
  kept = _KEEPS[name](jax.lax.stop_gradient(scores), **hparams)
  if taken is not None:
    ids = jnp.arange(scores.shape[-1], dtype=taken.dtype)
    kept |= taken[..., None] == ids.reshape((1,) * taken.ndim + (-1,))
  return jnp.where(kept, scores, -jnp.inf)


def view(
  part: Any, guide: Any = None
) -> float | Callable[[Array, Array, Any], Array]:
  """How a learner scores what a decoder drew; for `transformer.token_logps`.

  Args:
    part: {name, **hparams} of a decoder that samples.
    guide: the `Guide` that steered the completions, or None; where it changes
      logits, its states are the context.

  Returns:
    The temperature; or, where tokens may have been dropped or logits changed,
    the function (logits [..., V], taken tokens [...], guide's states
    [..., ...]) -> scores [..., V].

  Raises:
    ValueError: 'greedy', which gives every token that it takes probability 1.
  """
  hparams = dict(part)
  if hparams['name'] == 'greedy':
    raise ValueError('decoder "greedy" draws nothing that could be scored')
  own: float | Callable[..., Array]
  if hparams['name'] == 'sample':
    own = hparams['temperature']
  else:
    own = functools.partial(_scores, **hparams)
  if guide is None or not guide.adjusts:
    return own

  def steered(logits, taken, states):
    adjust = guide.adjust
    for _ in range(taken.ndim):
      adjust = jax.vmap(adjust)
    logits = adjust(states, logits)
    return own(logits, taken) if callable(own) else logits / own

  return steered


def greedy(logits: Array, keys: Array) -> Draw:
  """The most likely token, with probability 1 (log-probability 0)."""
  del keys
  tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return tokens, jnp.zeros(tokens.shape, logits.dtype)


def sample(logits: Array, keys: Array, *, temperature: float = 1.0) -> Draw:
  """Draws from softmax(logits / temperature)."""
  return _draw(_divided(logits, temperature), keys)


def top_k(
  logits: Array, keys: Array, *, k: int = 50, temperature: float = 1.0
) -> Draw:
  """Draws from the k most likely tokens (and those tied with the k-th); from
  all of them where k is below 1.

  Reference: Fan et al. (2018), https://arxiv.org/abs/1805.04833
  """
  return _draw(
    _scores(logits, name='top_k', k=k, temperature=temperature), keys
  )


def top_p(
  logits: Array, keys: Array, *, p: float = 0.95, temperature: float = 1.0
) -> Draw:
  """Nucleus sampling: the fewest likely tokens whose mass reaches p, at least
  the most likely one.

  Reference: Holtzman et al. (2020), https://arxiv.org/abs/1904.09751
  """
  return _draw(
    _scores(logits, name='top_p', p=p, temperature=temperature), keys
  )


def min_p(
  logits: Array, keys: Array, *, p: float = 0.05, temperature: float = 1.0
) -> Draw:
  """Tokens at least p times as likely as the most likely one.

  Reference: Nguyen et al. (2024), https://arxiv.org/abs/2407.01082
  """
  return _draw(
    _scores(logits, name='min_p', p=p, temperature=temperature), keys
  )


def typical(
  logits: Array, keys: Array, *, p: float = 0.95, temperature: float = 1.0
) -> Draw:
  """Tokens about as surprising as the distribution is on average.

  Those whose -log p is nearest to the entropy, the fewest whose mass reaches p.

  Reference: Meister et al. (2023), https://arxiv.org/abs/2202.00666
  """
  return _draw(
    _scores(logits, name='typical', p=p, temperature=temperature), keys
  )


shapes.checked(globals(), __all__, logits='BV', keys='')
