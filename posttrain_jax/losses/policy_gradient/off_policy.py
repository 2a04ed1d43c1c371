"""Detached, bounded importance weights on REINFORCE or on PPO's surrogate.

A detached weight scales a token's gradient and never stops it, unlike a clip.
The value of such a loss is no objective and means nothing.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.losses.policy_gradient import _common

Array = jax.Array
TokenLoss = _common.TokenLoss


def cispo(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  clip_low: float = 1.0,
  clip_high: float = 4.0,
) -> TokenLoss:
  """Clips the importance weight, not the update: every token keeps learning.

  The weight is clip(ratio, 1 - clip_low, 1 + clip_high). The defaults are no
  lower bound and a cap of 5, which TRL writes `epsilon_high=5`.

  Metrics: `clip_low` and `clip_high` mark limited weights of either sign of A.

  Reference: MiniMax (2025), https://arxiv.org/abs/2506.13585 eq. 4, 5
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  return _common.weighted(
    jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high),
    logps,
    advantages,
    mask,
    ratio=ratio,
    clip_low=ratio < 1.0 - clip_low,
    clip_high=ratio > 1.0 + clip_high,
  )


def truncated_is(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  max_ratio: float = 2.0,
) -> TokenLoss:
  """Token ratios capped at `max_ratio` as weights of REINFORCE.

  Low variance, and biased: a token's ratio knows nothing of the states that
  the other policy would have reached.

  Reference: Espeholt et al. (2018), https://arxiv.org/abs/1802.01561 eq. 4
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  return _common.weighted(
    jnp.minimum(ratio, max_ratio),
    logps,
    advantages,
    mask,
    ratio=ratio,
    clip_high=ratio > max_ratio,
  )


def sequence_truncated_is(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  max_ratio: float = 2.0,
) -> TokenLoss:
  """The ratio of the whole sequence, capped, as a weight of REINFORCE.

  Unbiased but for the cap; its variance grows with length.

  Reference: Ionides (2008), https://doi.org/10.1198/106186008X320456
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.sequence_ratio(logps - old_logps, mask)
  return _common.weighted(
    jnp.minimum(ratio, max_ratio),
    logps,
    advantages,
    mask,
    ratio=ratio,
    clip_high=ratio > max_ratio,
  )


def masked_is(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  min_ratio: float = 0.5,
  max_ratio: float = 5.0,
) -> TokenLoss:
  """Token ratios as weights, and none for those outside the band (IcePop).

  A truncated weight still trusts the token; this one does not.

  Reference: Ling Team (2025), https://arxiv.org/abs/2510.18855
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.exp_clamped(logps - old_logps)
  low, high = ratio < min_ratio, ratio > max_ratio
  return _common.weighted(
    jnp.where(low | high, 0.0, ratio),
    logps,
    advantages,
    mask,
    ratio=ratio,
    clip_low=low,
    clip_high=high,
  )


def topr(
  logps: Array, old_logps: Array, advantages: Array, mask: Array
) -> TokenLoss:
  """Weight 1 where A >= 0, the sequence's ratio, at most 1, where A < 0.

  Good sequences are imitated however unlikely they became; bad ones are let go
  once they are unlikely.

  Reference: Le Roux et al. (2025), https://arxiv.org/abs/2503.14286
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  ratio = _common.sequence_ratio(logps - old_logps, mask)
  negative = advantages < 0
  return _common.weighted(
    jnp.where(negative, jnp.minimum(ratio, 1.0), 1.0),
    logps,
    advantages,
    mask,
    ratio=ratio,
    clip_high=(ratio > 1.0) & negative,
  )


def decoupled_ppo_clip(
  logps: Array,
  old_logps: Array,
  advantages: Array,
  mask: Array,
  *,
  proximal_logps: Array,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  max_weight: float = 2.0,
) -> TokenLoss:
  """PPO around one policy on tokens sampled by another.

  The clip is around `proximal_logps` [B, T], a recent policy (or the sampler's
  parameters, evaluated by the trainer); tokens are weighted by the proximal
  over the sampling probability, at most `max_weight`. With both the same it is
  `ppo_clip`.

  Metrics: `ratio` is policy over proximal, `weight` proximal over sampler.

  Reference: Hilton et al. (2021), https://arxiv.org/abs/2110.00641 section 3;
  Yao et al. (2025), https://fengyao.notion.site/off-policy-rl (the cap)
  """
  logps, old_logps, advantages = _common.clean(
    logps, old_logps, advantages, mask
  )
  proximal_logps = jax.lax.stop_gradient(masked.select(proximal_logps, mask))
  token_loss, metrics = _common.surrogate(
    _common.exp_clamped(logps - proximal_logps), advantages, clip_low, clip_high
  )
  weight = _common.exp_clamped(proximal_logps - old_logps)
  weight = jnp.minimum(weight, max_weight)
  return _common.finish(weight * token_loss, mask, weight=weight, **metrics)
