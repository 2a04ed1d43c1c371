"""One importance ratio per token: REINFORCE, PPO and their relatives."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.losses.policy_gradient import _common

Array = jax.Array
TokenLoss = _common.TokenLoss


def reinforce(
  logps: Array, old_logps: Array, advantages: Array, mask: Array
) -> TokenLoss:
  """-A log pi: the policy gradient of on-policy tokens, with no correction.

  Reference: Williams (1992), https://doi.org/10.1007/BF00992696
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  return _common.finish(-advantages * logps, mask, ratio=ratio)


def ppo_clip(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float = 0.0,
  delta: float = 0.0,
) -> TokenLoss:
  """The clipped surrogate that PPO, GRPO, Dr.GRPO and DAPO share.

  Args:
    clip_low: a token with A < 0 learns no more below 1 - clip_low.
    clip_high: a token with A > 0 learns no more above 1 + clip_high.
    dual_clip: nor does one with A < 0 above this ratio (0: off; 3 is usual).
      Without it the loss of a bad token that became likely has no bound.
    delta: cap on the ratio before the minimum is taken (0: off; 4 is usual).
      Above 1 + clip_high it does what `dual_clip` does.

  Metrics: `clip_dual` is 1.0 where either cap stops a token with A < 0.

  Reference: Schulman et al. (2017), https://arxiv.org/abs/1707.06347 eq. 7;
  Yu et al. (2025), https://arxiv.org/abs/2503.14476 (clip_high);
  Ye et al. (2019), https://arxiv.org/abs/1912.09729 (dual_clip);
  Prime Intellect (2025), https://arxiv.org/abs/2505.07291 section 4.1 (delta)
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  # "Off" as a bound that no ratio reaches, finite so that 0 * bound is 0.
  never = 10.0 * jnp.exp(_common.MAX_LOG_RATIO)
  cap_of_all = jnp.where(delta > 0, delta, never)
  cap_of_bad = jnp.where(dual_clip > 0, dual_clip, never)

  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  capped = jnp.minimum(ratio, cap_of_all)
  token_loss = -jnp.minimum(capped * advantages, clipped * advantages)
  negative = advantages < 0
  token_loss = jnp.where(
    negative, jnp.minimum(token_loss, -advantages * cap_of_bad), token_loss
  )
  cap = jnp.minimum(jnp.maximum(cap_of_all, 1.0 + clip_high), cap_of_bad)
  return _common.finish(
    token_loss,
    mask,
    ratio=ratio,
    clip_low=(ratio < 1.0 - clip_low) & negative,
    clip_high=(ratio > 1.0 + clip_high) & (advantages > 0),
    clip_dual=(ratio > cap) & negative,
  )


def ppo_clip_sequence_mask(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  threshold: float = 0.5,
) -> TokenLoss:
  """`ppo_clip` without the bad sequences that went too far off-policy.

  A sequence's tokens with A < 0 give no loss once its mean of
  old_logps - logps passes `threshold` (nats per token): the policy has moved
  away from it already. They still count in the average.

  Metrics: `dropped` is 1.0 on those tokens.

  Reference: DeepSeek-AI (2025), https://arxiv.org/abs/2512.02556 eq. 9
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  log_ratio = logps - old_logps
  token_loss, metrics = _common.surrogate(
    _common.exp_clamped(log_ratio), advantages, clip_low, clip_high
  )
  moved = -masked.mean(log_ratio, mask, axis=1, keepdims=True)
  dropped = (advantages < 0) & (moved > threshold)
  token_loss = jnp.where(dropped, 0.0, token_loss)
  return _common.finish(token_loss, mask, dropped=dropped, **metrics)


def sapo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  temperature_positive: float = 1.0,
  temperature_negative: float = 1.05,
) -> TokenLoss:
  """A sigmoid of the ratio in place of the clip: updates fade, none stops.

  The gate 4 / tau * sigmoid(tau * (ratio - 1)) has slope 1 on-policy. A larger
  temperature fades faster; it is larger for A <= 0.

  Reference: Gao et al. (2025), https://arxiv.org/abs/2511.20347
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  temperature = jnp.where(
    advantages > 0, temperature_positive, temperature_negative
  )
  gate = 4.0 / temperature * jax.nn.sigmoid(temperature * (ratio - 1.0))
  return _common.finish(-gate * advantages, mask, ratio=ratio)


def luffy_shaped(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  gamma: float = 0.1,
) -> TokenLoss:
  """-A p / (p + gamma), p = exp(logps): LUFFY's loss on demonstration tokens.

  A demonstration has no sampling probability, so p stands for the ratio; the
  shaping lifts the gradient of unlikely tokens. On log pi it is
  A gamma p / (p + gamma)^2, at most A / 4, at p = gamma. On-policy tokens take
  another loss. `old_logps` has no effect.

  Metrics: `ratio` is p, `weight` the factor of A in that gradient.

  Reference: Yan et al. (2025), https://arxiv.org/abs/2504.14945 section 3.3
  """
  logps, _, advantages = _common.clean(logps, old_logps, advantages, mask)
  shaped = jax.nn.sigmoid(logps - jnp.log(gamma))
  return _common.finish(
    -advantages * shaped,
    mask,
    ratio=_common.exp_clamped(logps),
    weight=shaped * (1.0 - shaped),
  )
