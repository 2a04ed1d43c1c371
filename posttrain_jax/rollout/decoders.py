"""Decoders: how the next token is drawn.

Every function here is called the same way:

  tokens, logps = decoder(logits, keys, **hparams)

  logits  [B, V] float32
  keys    [B] one PRNG key per row, so that a row's draw depends on nothing
          but its own key
  tokens  [B] int32
  logps   [B] log-probability of each token under the distribution it was
          actually drawn from (after temperature and truncation)

`TRUNCATING` names those that give some tokens zero probability: a learner that
scores with the whole vocabulary does not see the distribution they drew from.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.types import Array

__all__ = ['greedy', 'sample', 'top_k', 'top_p', 'min_p']
TRUNCATING = ('greedy', 'top_k', 'top_p', 'min_p')

Draw = tuple[Array, Array]


def _draw(scores: Array, keys: Array) -> Draw:
  log_probs = jax.nn.log_softmax(scores)
  tokens = jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)
  return tokens, jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]


def _keep(scores: Array, kept: Array) -> Array:
  return jnp.where(kept, scores, -jnp.inf)


def greedy(logits: Array, keys: Array) -> Draw:
  """The most likely token, with probability 1 (log-probability 0)."""
  del keys
  tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return tokens, jnp.zeros(tokens.shape, logits.dtype)


def sample(logits: Array, keys: Array, *, temperature: float = 1.0) -> Draw:
  """Draws from softmax(logits / temperature)."""
  return _draw(logits / temperature, keys)


def top_k(
  logits: Array, keys: Array, *, k: int = 50, temperature: float = 1.0
) -> Draw:
  """Draws from the k most likely tokens (and those tied with the k-th).

  Reference: Fan et al. (2018), https://arxiv.org/abs/1805.04833
  """
  scores = logits / temperature
  ranked = -jnp.sort(-scores, axis=-1)
  last = min(int(k), scores.shape[-1]) - 1
  return _draw(_keep(scores, scores >= ranked[:, last][:, None]), keys)


def top_p(
  logits: Array, keys: Array, *, p: float = 0.95, temperature: float = 1.0
) -> Draw:
  """Nucleus sampling: the fewest likely tokens whose mass reaches p.

  Reference: Holtzman et al. (2020), https://arxiv.org/abs/1904.09751
  """
  scores = logits / temperature
  ranked = -jnp.sort(-scores, axis=-1)
  probs = jax.nn.softmax(ranked)
  # A token stays while the mass before it is below p: the first always does.
  inside = (jnp.cumsum(probs, axis=-1) - probs) < p
  floor = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1)
  return _draw(_keep(scores, scores >= floor[:, None]), keys)


def min_p(
  logits: Array, keys: Array, *, p: float = 0.05, temperature: float = 1.0
) -> Draw:
  """Tokens at least p times as likely as the most likely one.

  Reference: Nguyen et al. (2024), https://arxiv.org/abs/2407.01082
  """
  scores = logits / temperature
  top = jnp.max(scores, axis=-1, keepdims=True)
  return _draw(_keep(scores, scores >= top + jnp.log(p)), keys)
