"""One-token rollout: a policy-gradient step at each teacher-forced prefix."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.losses.supervised.common import TokenLoss, require

__all__ = ['otr', 'otr_exact']


def _sample(key: Array, probs: Array, num_samples: int) -> Array:
  """[B, T, K] ids drawn with replacement from probs [B, T, V].

  By inverting the cumulative distribution: O(T (V + K log V)) per row where
  Gumbel noise would take K V numbers per token.
  """
  cumulative = jnp.cumsum(probs, axis=-1)
  total = cumulative[..., -1:]
  draw = lambda key, shape: jax.random.uniform(key, shape, probs.dtype)
  shape = (*probs.shape[:-1], num_samples)
  if key.ndim:  # one of each row
    uniform = jax.vmap(lambda key: draw(key, shape[1:]))(key)
  else:
    uniform = draw(key, shape)
  # Strictly below the total, so that the last ids, if their probability is 0,
  # are never returned.
  point = jnp.minimum(uniform * total, jnp.nextafter(total, 0.0))
  find = lambda row, x: jnp.searchsorted(row, x, side='right')
  return jax.vmap(jax.vmap(find))(cumulative, point)


def otr(
  signals: TokenSignals,
  mask: Array,
  *,
  tokens: Array,
  key: Array,
  num_samples: int = 256,
  wrong_reward: float = -0.1,
  temperature: float = 1.3,
) -> TokenLoss:
  """One-token rollout: REINFORCE on candidates for each next token.

  loss_t = -(1 / K) sum_j r_j log p(a_j),
  a_1 .. a_K ~ softmax(logits / temperature), with replacement;
  r_j = 1 if a_j is the demonstration's token, else wrong_reward

  The temperature is that of sampling only. A token the policy never samples is
  never learnt. `tokens` [B, T] are the demonstration's ids, `key` is the
  randomness of this step, [] or [B] one of each row (a row then draws the same
  in any batch), `num_samples` K is static. Reads `logits`. Samples
  and rewards are detached. `wrong_reward` is the paper's beta.

  Reference: Ming et al. (2025), https://arxiv.org/abs/2509.26313

  Raises:
    ValueError: `signals.logits` is None.
  """
  logits = masked.select(require(signals, 'logits'), mask[..., None])
  fixed = jax.lax.stop_gradient(logits)
  # In bfloat16 a running sum has too few values to tell most ids apart.
  fixed = fixed.astype(jnp.promote_types(fixed.dtype, jnp.float32))
  probs = jax.nn.softmax(fixed / temperature)
  samples = _sample(key, probs, num_samples)
  is_right = samples == tokens[..., None]
  reward = jnp.where(is_right, 1.0, wrong_reward)
  logps = jnp.take_along_axis(jax.nn.log_softmax(logits), samples, axis=-1)
  loss = masked.select(-jnp.mean(reward * logps, axis=-1), mask)
  hits = masked.select(jnp.mean(is_right.astype(loss.dtype), axis=-1), mask)
  return loss, {'hit_rate': hits}


def otr_exact(
  signals: TokenSignals,
  mask: Array,
  *,
  wrong_reward: float = -0.1,
  temperature: float = 1.3,
) -> TokenLoss:
  """The expectation of `otr` over its samples: no noise, no key.

  loss_t = -sg[q(y_t)] log p(y_t)
           - wrong_reward * sum over v != y_t of sg[q(v)] log p(v),
  q = softmax(logits / temperature)

  At temperature 1 the gradient is (1 - wrong_reward) times that of `dft`.
  Reads `logps` and `logits`; q is detached.

  Reference: Ming et al. (2025), https://arxiv.org/abs/2509.26313; the
  expectation is ours.

  Raises:
    ValueError: `signals.logits` is None.
  """
  logits = masked.select(require(signals, 'logits'), mask[..., None])
  logps = masked.select(signals.logps, mask)
  fixed = jax.lax.stop_gradient(logits)
  q = jax.nn.softmax(fixed / temperature)
  # The token's own logit is its log-probability plus the normaliser.
  target = jax.lax.stop_gradient(logps) + jax.nn.logsumexp(fixed, axis=-1)
  log_q = target / temperature - jax.nn.logsumexp(fixed / temperature, axis=-1)
  q_target = jnp.exp(log_q)
  all_logps = jax.nn.log_softmax(logits)
  every = jnp.sum(q * jnp.where(q > 0, all_logps, 0.0), axis=-1)
  loss = -(1.0 - wrong_reward) * q_target * logps - wrong_reward * every
  return masked.select(loss, mask), {'hit_rate': masked.select(q_target, mask)}
