"""Objectives that read only the trained policy's own distribution."""

import jax
import jax.numpy as jnp

from posttrain_jax import masked
from posttrain_jax.types import Array, TokenSignals

__all__ = ['dft', 'label_smoothing', 'nll']

TokenLoss = tuple[Array, dict[str, Array]]


def require(signals: TokenSignals, *names: str) -> None:
  """Raises ValueError naming the first array of `signals` that is missing."""
  for name in names:
    if getattr(signals, name) is None:
      raise ValueError(
        f'this loss needs signals.{name}, which is None: compute it in the '
        'forward pass'
      )


def nll(signals: TokenSignals, mask: Array) -> TokenLoss:
  """Negative log-likelihood: plain supervised fine-tuning.

  loss = -log p

  Reads `logps`. Nothing is detached.

  Reference: Ouyang et al. (2022), https://arxiv.org/abs/2203.02155
  """
  return -masked.select(signals.logps, mask), {}


def label_smoothing(
  signals: TokenSignals, mask: Array, *, smoothing: float = 0.1
) -> TokenLoss:
  """Cross-entropy against the target mixed with the uniform distribution.

  loss = -(1 - e) log p - (e / V) sum_v log p(v)

  Reads `logps` and `logits` [B, T, V]. Nothing is detached.

  Reference: Szegedy et al. (2016), eq. 3 and section 7,
  https://arxiv.org/abs/1512.00567

  Raises:
    ValueError: `signals.logits` is None.
  """
  require(signals, 'logits')
  logits = masked.select(signals.logits, mask[..., None])
  uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
  target = -masked.select(signals.logps, mask)
  loss = (1.0 - smoothing) * target + smoothing * uniform
  return masked.select(loss, mask), {}


def dft(signals: TokenSignals, mask: Array) -> TokenLoss:
  """Dynamic fine-tuning: NLL weighted by the token's own probability.

  loss = -sg[p] log p, whose gradient is that of 1 - p

  Reads `logps`. The weight is detached: without that the loss p log p would
  push probabilities below 1/e down.

  Reference: Wu et al. (2025), eq. 9, https://arxiv.org/abs/2508.05629
  """
  logps = masked.select(signals.logps, mask)
  weight = masked.select(jax.lax.stop_gradient(jnp.exp(logps)), mask)
  return -weight * logps, {'weight': weight}
