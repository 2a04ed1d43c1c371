"""Losses of single answers with a binary label, with their own signature."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses.preference.common import PairLoss, ratio

__all__ = ['apo_zero_unpaired', 'bco', 'kto']


def _finish(loss: Array, reward: Array, live: Array, side: Array) -> PairLoss:
  """0 on padding rows; each row's reward on its own side, detached."""
  reward = jax.lax.stop_gradient(jnp.where(live, reward, 0.0))
  is_chosen = jnp.where(live & side, 1.0, 0.0).astype(loss.dtype)
  is_rejected = jnp.where(live & ~side, 1.0, 0.0).astype(loss.dtype)
  metrics = {
    'reward': reward,
    'rewards/chosen': is_chosen * reward,
    'rewards/rejected': is_rejected * reward,
    'is_chosen': is_chosen,
  }
  return jnp.where(live, loss, 0.0), metrics


def kto(
  answers: SequenceSignals,
  ref_answers: SequenceSignals,
  mismatched: SequenceSignals,
  ref_mismatched: SequenceSignals,
  desirable: Array,
  *,
  beta: float = 0.1,
  desirable_weight: float = 1.0,
  undesirable_weight: float = 1.0,
) -> PairLoss:
  """KTO: a saturating value of the log-ratio around a reference point.

  desirable:   desirable_weight   * (1 - sigmoid(beta (rho - z0)))
  undesirable: undesirable_weight * (1 - sigmoid(beta (z0 - rho)))
  z0 = sg[max(0, mean over the batch of log pi(y') - log ref(y'))]

  `mismatched` y' are scored without gradient; rows of length 0 are left out of
  z0. z0 is a mean over the global batch, clamped after averaging, and needs
  more than one row. One more metric: 'kl' is z0 on every row.

  Reference: Ethayarajh et al. (2024), https://arxiv.org/abs/2402.01306
  """
  live = answers.length > 0
  counts = mismatched.length > 0
  total = jnp.sum(ratio(mismatched, ref_mismatched, counts))
  reference = total / jnp.maximum(jnp.sum(counts), 1)
  reference = jax.lax.stop_gradient(jnp.maximum(reference, 0.0))
  rho = ratio(answers, ref_answers, live)
  side = desirable != 0
  sign = jnp.where(side, 1.0, -1.0)
  weight = jnp.where(side, desirable_weight, undesirable_weight)
  loss = weight * jax.nn.sigmoid(-sign * beta * (rho - reference))
  loss, metrics = _finish(loss, beta * rho, live, side)
  return loss, metrics | {'kl': jnp.broadcast_to(reference, loss.shape)}


def apo_zero_unpaired(
  answers: SequenceSignals,
  ref_answers: SequenceSignals,
  mismatched: SequenceSignals | None,
  ref_mismatched: SequenceSignals | None,
  desirable: Array,
  *,
  beta: float = 0.1,
  desirable_weight: float = 1.0,
  undesirable_weight: float = 1.0,
) -> PairLoss:
  """`apo_zero` on single answers: `kto` with its reference point at 0.

  desirable:   desirable_weight   * (1 - sigmoid(beta rho))
  undesirable: undesirable_weight * sigmoid(beta rho)

  For desirable answers better than the model's own. The mismatched answers
  are not read.

  Reference: D'Oosterlinck et al. (2024), eq. 7,
  https://arxiv.org/abs/2408.06266
  """
  del mismatched, ref_mismatched
  live = answers.length > 0
  rho = ratio(answers, ref_answers, live)
  side = desirable != 0
  weight = jnp.where(side, desirable_weight, undesirable_weight)
  loss = weight * jax.nn.sigmoid(jnp.where(side, -beta, beta) * rho)
  return _finish(loss, beta * rho, live, side)


def bco(
  answers: SequenceSignals,
  ref_answers: SequenceSignals,
  mismatched: SequenceSignals | None,
  ref_mismatched: SequenceSignals | None,
  desirable: Array,
  delta: Array | float = 0.0,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Binary classifier optimisation: is this answer a desirable one?

  desirable:   -log sigmoid(r - delta)
  undesirable: -log sigmoid(delta - r),  r = beta * log pi / ref

  `delta` ([] or [B], detached), the paper's reward shift, is the running mean
  of the rewards of all answers seen so far, this batch's among them; a caller
  keeps it from step to step. The mismatched answers are not read.

  Reference: Jung et al. (2024), https://arxiv.org/abs/2404.04656
  """
  del mismatched, ref_mismatched
  live = answers.length > 0
  reward = beta * ratio(answers, ref_answers, live)
  side = desirable != 0
  gap = reward - jax.lax.stop_gradient(delta)
  loss = -jax.nn.log_sigmoid(jnp.where(side, 1.0, -1.0) * gap)
  return _finish(loss, reward, live, side)
