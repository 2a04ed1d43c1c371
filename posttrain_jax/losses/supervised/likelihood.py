"""Objectives that read only the trained policy's own distribution."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.losses import numerics
from posttrain_jax.losses.supervised.common import (
  TokenLoss,
  keep_mean,
  require,
)

__all__ = [
  'dft',
  'ift',
  'label_smoothing',
  'nll',
  'prob_alpha',
  'prob_threshold',
]


def nll(signals: TokenSignals, mask: Array) -> TokenLoss:
  """Negative log-likelihood: plain supervised fine-tuning.

  loss = -log p

  It is also the forward-KL member of SFT as inverse RL: matching the
  trajectories of the demonstrations in KL(expert || policy). The reverse-KL
  and Jensen-Shannon members need rollouts and `irl_discriminator`.
  Reads `logps`. Nothing is detached.

  References: Ouyang et al. (2022), https://arxiv.org/abs/2203.02155;
  Sun (2024), https://arxiv.org/abs/2403.12017
  """
  return -masked.select(signals.logps, mask), {}


def label_smoothing(
  signals: TokenSignals, mask: Array, *, smoothing: float = 0.1
) -> TokenLoss:
  """Cross-entropy against the target mixed with the uniform distribution.

  loss = -(1 - e) log p - (e / V) sum_v log p(v)

  Reads `logps` and `logits` [B, T, V], which must be finite on counted tokens.
  Nothing is detached.

  Reference: Szegedy et al. (2016), section 7,
  https://arxiv.org/abs/1512.00567

  Raises:
    ValueError: `signals.logits` is None.
  """
  logits = masked.select(require(signals, 'logits'), mask[..., None])
  uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
  target = -masked.select(signals.logps, mask)
  loss = (1.0 - smoothing) * target + smoothing * uniform
  return masked.select(loss, mask), {}


def dft(signals: TokenSignals, mask: Array) -> TokenLoss:
  """Dynamic fine-tuning: NLL weighted by the token's own probability.

  loss = -sg[p] log p, whose gradient is that of 1 - p

  Reads `logps`. The weight is detached: without that the loss -p log p would
  push probabilities below 1/e down.

  Reference: Wu et al. (2025), https://arxiv.org/abs/2508.05629
  """
  logps = masked.select(signals.logps, mask)
  weight = masked.select(jax.lax.stop_gradient(jnp.exp(logps)), mask)
  return -weight * logps, {'weight': weight}


def _f_alpha(logps: Array, alpha: Array | float) -> Array:
  """(1 - p^alpha) / alpha, and -log p where |alpha| < 1e-4."""
  # Below 1e-4 the two differ by less than float32 can tell for log p > -10.
  is_zero = jnp.abs(alpha) < 1e-4
  safe = jnp.where(is_zero, 1.0, alpha)
  exponent = jnp.minimum(safe * logps, numerics.MAX_EXPONENT)
  return jnp.where(is_zero, -logps, -jnp.expm1(exponent) / safe)


def prob_alpha(
  signals: TokenSignals, mask: Array, *, alpha: float = 1.0
) -> TokenLoss:
  """A family from log-likelihood (alpha 0) to probability (alpha 1) and beyond.

  loss = (1 - p^alpha) / alpha, with gradient -p^alpha d log p

  Large alpha trusts the model's prior, small or negative alpha the data; alpha
  1 has the gradient of `dft`. Reads `logps`. Nothing is detached. For negative
  alpha the exponent alpha * log p is clamped at 80, flat above.

  Reference: Li et al. (2025), https://arxiv.org/abs/2510.00526
  """
  return _f_alpha(masked.select(signals.logps, mask), alpha), {}


def prob_threshold(
  signals: TokenSignals,
  mask: Array,
  *,
  low: float = 0.2,
  high: float = 1.0,
  alpha: float = 0.0,
) -> TokenLoss:
  """`prob_alpha` on the tokens whose probability lies in [low, high].

  loss = 1[low <= sg[p] <= high] (1 - p^alpha) / alpha * N / kept

  Only-top keeps high = 1, only-bottom keeps low = 0; alpha 0 is the -log p
  form, alpha 1 the 1 - p form. The paper divides by the number of kept tokens:
  the factor N / kept (over the whole batch) makes a mean over all N tokens do
  that. Reads `logps`. The indicator and the factor are detached.

  Reference: Li et al. (2025), https://arxiv.org/abs/2510.00526
  """
  logps = masked.select(signals.logps, mask)
  probs = jax.lax.stop_gradient(jnp.exp(logps))
  keep = jnp.where((probs >= low) & (probs <= high), mask, 0.0)
  return _f_alpha(logps, alpha) * keep_mean(keep, mask), {'kept': keep}


def _discounted_future(x: Array, gamma: Array | float) -> Array:
  """sum over i >= t of gamma^(i - t) x[:, i]."""

  def step(carry, now):
    total = now + gamma * carry
    return total, total

  _, totals = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), x.T, reverse=True)
  return totals.T


def ift(
  signals: TokenSignals, mask: Array, *, gamma: float = 0.95
) -> TokenLoss:
  """Intuitive fine-tuning: a token answers for the losses it leads to.

  loss_t = w_t l_t with l = -log p,
  w_t = c_t T / sum_t c_t,  c_t = sum over i >= t of gamma^(i - t) l_i

  Gradient flows through w too, as in the authors' code. This is the relation
  propagation half. The other half, the temporal residual connection, belongs to
  the forward pass that computes `logps`: the input embedding of token t is
  (1 - lambda) E[y_t] + lambda E[argmax of the prediction of token t], lambda
  0.2, without a gradient for E, the prompt unmixed: `config.own_inputs`. On
  `logps` of an ordinary forward pass this is the lambda = 0 ablation. gamma 0
  means w = 1, as in the authors' code. The paper averages per sequence, then
  over sequences. Reads `logps`.

  Reference: Hua et al. (2024), https://arxiv.org/abs/2405.11870
  """
  loss = -masked.select(signals.logps, mask)
  future = masked.select(_discounted_future(loss, gamma), mask)
  total = jnp.sum(future, axis=1, keepdims=True)
  length = jnp.sum(mask, axis=1, keepdims=True)
  # A row with no loss left has nothing to weigh by: weight 1, loss 0.
  has_weight = (total > 0) & (gamma != 0)
  safe = jnp.where(has_weight, total, 1.0)
  weight = jnp.where(has_weight, future * length / safe, 1.0)
  weight = masked.select(weight, mask)
  return weight * loss, {'weight': weight}
