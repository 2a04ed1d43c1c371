"""Weights from the trained policy's own probabilities, entropies, positions."""

import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.token_weights.common import (
  MAX_EXPONENT,
  detach,
  kept,
  quantile,
  require,
  top,
)

__all__ = [
  'chord_phi',
  'high_entropy',
  'prefix_only',
  'prob_power',
  'reward_weighted',
  'srft_entropy',
  'srft_rollouts',
  'talr',
  'talr_floor',
  'threshold',
  'uniform',
]


def uniform(signals: TokenSignals, mask: Array) -> Array:
  """Weight 1 on every counted token."""
  del signals
  return detach(mask, mask)


def prob_power(
  signals: TokenSignals, mask: Array, *, alpha: float = 1.0
) -> Array:
  """p^alpha: 0 is plain NLL, 1 is DFT; large values trust the model's prior.

  Reads `logps`. The exponent alpha * log p is clamped at 80.

  References: Wu et al. (2025), https://arxiv.org/abs/2508.05629; Li et al.
  (2025), https://arxiv.org/abs/2510.00526
  """
  logps = masked.select(signals.logps, mask)
  return detach(jnp.exp(jnp.minimum(alpha * logps, MAX_EXPONENT)), mask)


def reward_weighted(
  signals: TokenSignals,
  mask: Array,
  *,
  scores: Array,
  temperature: float = 1.0,
) -> Array:
  """RISE: exp(reward / temperature) on all tokens of a row.

  Weights are not brought to a mean of 1: a row without a reward still counts
  as 1. The exponent is clamped at 80.

  Args:
    scores: [B] reward of each row's answer.
    temperature: the lower, the more right answers outweigh others.

  Reference: Qu et al. (2024), RISE, https://arxiv.org/abs/2407.18219 and
  https://github.com/cmu-mind/RISE, workflow_convert.py (its script has 0.4)
  """
  del signals
  weights = jnp.exp(jnp.minimum(scores / temperature, MAX_EXPONENT))
  return detach(jnp.broadcast_to(weights[:, None], mask.shape), mask)


def threshold(
  signals: TokenSignals,
  mask: Array,
  *,
  low: float = 0.2,
  high: float = 1.0,
  normalize: bool = True,
) -> Array:
  """Keeps tokens whose probability lies in [low, high].

  Reads `logps`.

  Reference: Li et al. (2025), https://arxiv.org/abs/2510.00526
  """
  probs = jnp.exp(masked.select(signals.logps, mask))
  return kept((probs >= low) & (probs <= high), mask, normalize)


def chord_phi(signals: TokenSignals, mask: Array) -> Array:
  """p (1 - p): learns most where the policy is undecided, at p = 1/2.

  Reads `logps`. The largest weight is 1/4: the loss shrinks by at least that.

  Reference: Zhang et al. (2025), https://arxiv.org/abs/2508.11408
  """
  logps = masked.select(signals.logps, mask)
  return detach(-jnp.exp(logps) * jnp.expm1(logps), mask)


def high_entropy(
  signals: TokenSignals,
  mask: Array,
  *,
  fraction: float = 0.2,
  scope: str = 'batch',
  normalize: bool = False,
) -> Array:
  """Keeps the tokens of highest entropy, where the answer could have forked.

  Reads `entropy`. The paper takes the top fifth of the batch and goes on
  dividing by the count of all tokens (normalize False).

  Reference: Wang et al. (2025), https://arxiv.org/abs/2506.01939

  Raises:
    ValueError: `signals.entropy` is None, or an unknown `scope`.
  """
  entropy = require(signals, 'entropy')
  return kept(top(entropy, mask, fraction, scope), mask, normalize)


def prefix_only(
  signals: TokenSignals,
  mask: Array,
  whole: Array | None = None,
  *,
  length: int = 32,
  normalize: bool = True,
) -> Array:
  """Keeps the first `length` counted tokens of a row: prefix fine-tuning.

  `whole` [B], 1 on rows that are kept entirely (a tenth of them in the paper);
  None keeps none. A cut row does not train its stop token.

  Reference: Ji et al. (2025), https://arxiv.org/abs/2503.02875
  """
  del signals
  keep = jnp.cumsum(mask != 0, axis=1) <= length
  if whole is not None:
    keep = keep | (whole != 0)[:, None]
  return kept(keep, mask, normalize)


def _talr_log_weights(
  signals: TokenSignals, mask: Array, tau, min_tau
) -> Array:
  """log p / tau; tau 0 means the median over rows of the mean token loss."""
  loss = -masked.select(signals.logps, mask)
  live = jnp.sum(mask, axis=1) > 0
  median = quantile(masked.mean(loss, mask, axis=1), live, 0.5)
  tau = jnp.maximum(jnp.where(tau == 0, median, tau), min_tau)
  return -loss / tau


def talr(
  signals: TokenSignals,
  mask: Array,
  *,
  tau: float = 0.0,
  min_tau: float = 1e-3,
) -> Array:
  """Token-adaptive loss reweighting: hard tokens softly count less.

  w = N p^(1 / tau) / sum p^(1 / tau), over the N counted tokens of the batch:
  the minimiser of sum w l + tau sum w log w on the simplex, times N so that a
  mean over tokens is the paper's sum

  tau 0, the default, is the paper's rule: the median over rows of a row's mean
  token loss. A large tau is plain NLL. tau counts as at least `min_tau`, or the
  easiest token would take all. Reads `logps`.

  Reference: Lin et al. (2025), https://arxiv.org/abs/2509.20758
  """
  logits = _talr_log_weights(signals, mask, tau, min_tau)
  logits = logits - masked.maximum(logits, mask)
  weights = masked.select(jnp.exp(logits), mask)
  # At least one weight is 1, unless the mask is empty.
  total = jnp.maximum(jnp.sum(weights), 1.0)
  return detach(weights * jnp.sum(mask) / total, mask)


def talr_floor(
  signals: TokenSignals,
  mask: Array,
  *,
  tau: float = 0.0,
  min_tau: float = 1e-3,
  floor: float = 0.01,
) -> Array:
  """`talr` without the simplex: max(p^(1 / tau), floor).

  The floor keeps hard tokens learnable; the loss is smaller early on, so
  compare at equal gradient norm. tau 1 without floor is DFT. Reads `logps`.

  Reference: Lin et al. (2025), https://arxiv.org/abs/2509.20758
  """
  logits = _talr_log_weights(signals, mask, tau, min_tau)
  return detach(jnp.maximum(jnp.exp(logits), floor), mask)


def srft_entropy(
  signals: TokenSignals, mask: Array, *, scale: float = 0.5, sign: float = -1.0
) -> Array:
  """scale * exp(sign * H), H the row's mean token entropy.

  SRFT weighs the NLL of demonstrations with scale 0.5, sign -1 (less where the
  policy is unsure) and its own correct rollouts with scale 0.1, sign +1. Reads
  `entropy`; the exponent is clamped at 80.

  Reference: Fu et al. (2025), https://arxiv.org/abs/2506.19767

  Raises:
    ValueError: `signals.entropy` is None.
  """
  entropy = require(signals, 'entropy')
  entropy = masked.mean(entropy, mask, axis=1, keepdims=True)
  weight = scale * jnp.exp(jnp.minimum(sign * entropy, MAX_EXPONENT))
  return detach(jnp.broadcast_to(weight, mask.shape), mask)


def srft_rollouts(
  signals: TokenSignals, mask: Array, *, correct: Array, scale: float = 0.1
) -> Array:
  """scale * exp(H) on right rows, 1 on wrong ones, H the row's mean entropy.

  SRFT's weights of its own rollouts, beside advantages of 1 and -1
  (`advantages.signed`): right answers count more where the policy is unsure.
  Reads `entropy`; the exponent is clamped at 80.

  Args:
    correct: [B] a row is right if this is above 0.5.

  Reference: Fu et al. (2025), https://arxiv.org/abs/2506.19767

  Raises:
    ValueError: `signals.entropy` is None.
  """
  weights = srft_entropy(signals, mask, scale=scale, sign=1.0)
  right = correct[:, None] > 0.5
  return detach(jnp.where(right, weights, 1.0), mask)
