"""Hold back the few tokens whose updates cost the most entropy.

A token's part in the loss of entropy is about the covariance of its
log-probability with its advantage, both centred over the batch. Which tokens
are picked depends on the whole batch given, so these losses are not additive
over micro-batches.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.losses.policy_gradient import _common

Array = jax.Array
TokenLoss = _common.TokenLoss


def _covariance(logps: Array, advantages: Array, mask: Array) -> Array:
  """[B, T] detached product of the two, each centred over counted tokens."""
  logps = jax.lax.stop_gradient(logps)
  return (advantages - masked.mean(advantages, mask)) * (
    logps - masked.mean(logps, mask)
  )


def _largest(
  score: Array, eligible: Array, mask: Array, ratio: Array | float
) -> Array:
  """True on eligible tokens that score highest: `ratio` of the counted ones."""
  budget = jnp.maximum(jnp.floor(ratio * jnp.sum(mask)), 1.0)
  score = jnp.where(eligible, score, -jnp.inf).reshape(-1)
  # Rank by sorting twice: the budget may be traced, as no top_k allows.
  rank = jnp.argsort(jnp.argsort(-score)).reshape(eligible.shape)
  return eligible & (rank < budget)


def _key_of(x: Array, seed: Array | int) -> Array:
  """A random key that depends on every bit of `x`, in any order of summing."""
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
  folded = jax.lax.reduce(
    bits, jnp.uint32(0), jax.lax.bitwise_xor, tuple(range(x.ndim))
  )
  return jax.random.fold_in(jax.random.key(seed), folded)


def clip_cov(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  cov_ratio: float = 2e-4,
  cov_low: float = 1.0,
  cov_high: float = 5.0,
  seed: int = 0,
) -> TokenLoss:
  """`ppo_clip` without a random few of the high-covariance tokens.

  Args:
    cov_ratio: share of counted tokens to drop, at least one token.
    cov_low: only tokens with a covariance in (cov_low, cov_high) that PPO does
      not clip anyway may be dropped.
    cov_high: see `cov_low`.
    seed: the choice is a function of this and of `old_logps`, so that it is
      the same for the same batch and another for the next.

  Metrics: `clip_cov` is 1.0 on dropped tokens.

  Reference: Cui et al. (2025), https://arxiv.org/abs/2505.22617 section 4.2
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  token_loss, metrics = _common.surrogate(
    _common.exp_clamped(logps - old_logps), advantages, clip_low, clip_high
  )
  covariance = _covariance(logps, advantages, mask)
  eligible = (covariance > cov_low) & (covariance < cov_high) & (mask != 0)
  eligible &= ~(metrics['clip_low'] | metrics['clip_high'])
  draw = jax.random.uniform(_key_of(old_logps, seed), mask.shape, jnp.float32)
  dropped = _largest(draw, eligible, mask, cov_ratio)
  token_loss = jnp.where(dropped, 0.0, token_loss)
  return _common.finish(token_loss, mask, clip_cov=dropped, **metrics)


def kl_cov(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  cov_ratio: float = 2e-4,
  kl_coef: float = 1.0,
) -> TokenLoss:
  """-A ratio, and kl_coef |log ratio| more on the highest-covariance tokens.

  Args:
    cov_ratio: share of counted tokens that are penalised, at least one token.
    kl_coef: weight of the penalty.

  Metrics: `kl_cov` is 1.0 on penalised tokens.

  Reference: Cui et al. (2025), https://arxiv.org/abs/2505.22617 section 4.3
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  log_ratio = _common.clamp(logps - old_logps)
  ratio = jnp.exp(log_ratio)
  chosen = _largest(
    _covariance(logps, advantages, mask), mask != 0, mask, cov_ratio
  )
  # JAX's abs has slope 1 at 0, where an on-policy token must feel nothing.
  distance = log_ratio * jnp.sign(log_ratio)
  penalty = jnp.where(chosen, kl_coef * distance, 0.0)
  return _common.finish(
    -advantages * ratio + penalty, mask, ratio=ratio, kl_cov=chosen
  )
