"""One importance ratio per token: REINFORCE, PPO and their relatives."""

import jax
import jax.numpy as jnp

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
    dual_clip: where A < 0, the loss grows no more once the ratio passes this
      (0: off; 3 is usual). Without it a negative token that became likely has
      an unbounded loss.
    delta: cap on the ratio before the minimum is taken (0: off; 4 is usual).
      Above 1 + clip_high it says the same as `dual_clip`.

  Metrics: `clip_dual` is 1 where either cap holds back a token with A < 0.

  Reference: Schulman et al. (2017), https://arxiv.org/abs/1707.06347 eq. 7;
  Yu et al. (2025), https://arxiv.org/abs/2503.14476 (clip_high);
  Ye et al. (2019), https://arxiv.org/abs/1912.09729 eq. 5 (dual_clip);
  Prime Intellect (2025), https://arxiv.org/abs/2505.07291 (delta)
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  delta = jnp.where(delta > 0, delta, jnp.inf)
  dual_clip = jnp.where(dual_clip > 0, dual_clip, jnp.inf)

  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  capped = jnp.minimum(ratio, delta)
  token_loss = -jnp.minimum(capped * advantages, clipped * advantages)
  negative = advantages < 0
  # Chosen before the product, so that an infinite cap never meets a zero.
  bound = -advantages * jnp.where(
    jnp.isfinite(dual_clip) & negative, dual_clip, 0.0
  )
  dual = jnp.isfinite(dual_clip) & negative & (token_loss > bound)
  return _common.finish(
    jnp.where(dual, bound, token_loss),
    mask,
    ratio=ratio,
    clip_low=(ratio < 1.0 - clip_low) & negative,
    clip_high=(ratio > 1.0 + clip_high) & (advantages > 0),
    clip_dual=dual | (negative & (ratio > jnp.maximum(delta, 1.0 + clip_high))),
  )
