"""One importance ratio per sequence."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.losses.policy_gradient import _common

Array = jax.Array
TokenLoss = _common.TokenLoss


def gspo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> TokenLoss:
  """PPO's surrogate on the geometric mean of a sequence's token ratios.

  That ratio stays very near 1, hence the small clip range. Average with
  `reduce.sequence_mean`.

  Reference: Zheng et al. (2025), https://arxiv.org/abs/2507.18071 eq. 5, 7
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  log_ratio = masked.mean(logps - old_logps, mask, axis=1, keepdims=True)
  token_loss, metrics = _common.surrogate(
    _common.exp_clamped(log_ratio), advantages, clip_low, clip_high
  )
  return _common.finish(token_loss, mask, **metrics)


def gspo_token(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> TokenLoss:
  """`gspo` whose gradient on each token is weighted by that token's advantage.

  The same value; the same gradient too where a sequence has one advantage.

  Reference: Zheng et al. (2025), https://arxiv.org/abs/2507.18071 section 4.3
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  log_ratio = masked.mean(logps - old_logps, mask, axis=1, keepdims=True)
  # The value is the sequence's ratio, the gradient the token's own.
  own = logps - jax.lax.stop_gradient(logps)
  token_loss, metrics = _common.surrogate(
    _common.exp_clamped(jax.lax.stop_gradient(log_ratio) + own),
    advantages,
    clip_low,
    clip_high,
  )
  return _common.finish(token_loss, mask, **metrics)


def luspo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 2e-3,
  clip_high: float = 2.5e-3,
) -> TokenLoss:
  """`gspo` times the sequence's length, so that length earns no discount.

  For `reduce.sequence_mean`; it equals `gspo` with `reduce.sequence_sum`.

  Reference: LUSPO (2026), https://arxiv.org/abs/2602.05261
  """
  token_loss, metrics = gspo(
    logps, old_logps, advantages, mask, clip_low=clip_low, clip_high=clip_high
  )
  return token_loss * masked.count(mask, axis=1, keepdims=True), metrics


def gmpo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 0.4,
  clip_high: float = 0.4,
) -> TokenLoss:
  """Geometric mean of clipped token ratios: one outlier moves it little.

  Each log-ratio is clipped to [-clip_low, clip_high] on the side where its
  advantage would push it further, then averaged over the sequence.

  Args:
    clip_low: in nats, not in units of the ratio.
    clip_high: likewise.

  Reference: Zhao et al. (2025), https://arxiv.org/abs/2507.20673 eq. 4
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  log_ratio = logps - old_logps
  sign = jnp.sign(advantages)
  clipped = jnp.clip(log_ratio, -clip_low, clip_high)
  pessimistic = sign * jnp.minimum(sign * log_ratio, sign * clipped)
  mean = masked.mean(pessimistic, mask, axis=1, keepdims=True)
  ratio = _common.exp_clamped(mean)
  return _common.finish(
    -advantages * ratio,
    mask,
    ratio=ratio,
    clip_low=(log_ratio < -clip_low) & (advantages < 0),
    clip_high=(log_ratio > clip_high) & (advantages > 0),
  )


def vespo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  power_positive: float = 2.0,
  decay_positive: float = 3.0,
  power_negative: float = 3.0,
  decay_negative: float = 2.0,
) -> TokenLoss:
  """-phi(w) A log pi with phi(w) = w^power exp(decay (1 - w)), detached.

  w is the ratio of the whole sequence, a product and not a mean; phi is 1
  on-policy, peaks at power / decay and vanishes on both sides. Each sign of
  the advantage has its own pair (0 counts as positive).

  Reference: VESPO (2026), https://arxiv.org/abs/2602.10693 section 3.4
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.sequence_ratio(logps - old_logps, mask)
  positive = advantages >= 0
  power = jnp.where(positive, power_positive, power_negative)
  decay = jnp.where(positive, decay_positive, decay_negative)
  # In log space: w^power alone overflows.
  phi = jnp.exp(power * jnp.log(ratio) + decay * (1.0 - ratio))
  return _common.weighted(phi, logps, advantages, mask, ratio=ratio)
