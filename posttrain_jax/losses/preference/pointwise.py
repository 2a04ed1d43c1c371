"""Losses that judge each side of a pair by itself."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses.preference.common import (
  PairLoss,
  finish,
  quantile_loss,
  ratios,
)

__all__ = [
  'aot_unpaired',
  'apo_down',
  'apo_zero',
  'bco_pair',
  'copg',
  'nca_pair',
  'sppo_hard',
]


def nca_pair(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Noise-contrastive alignment: raises the chosen side's absolute reward.

  loss = -log sigmoid(r_w) - log sigmoid(-r_w) / 2 - log sigmoid(-r_l) / 2,
  r = beta * log pi / ref

  Reference: Chen et al. (2024), https://arxiv.org/abs/2402.05369
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  good, bad = beta * good, beta * bad
  loss = -jax.nn.log_sigmoid(good)
  loss = loss - 0.5 * (jax.nn.log_sigmoid(-good) + jax.nn.log_sigmoid(-bad))
  return finish(loss, good, bad, live)


def bco_pair(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  shift: float = 0.0,
) -> PairLoss:
  """Binary classifier optimisation: is this answer a chosen one?

  loss = -log sigmoid(r_w - shift) - log sigmoid(-(r_l - shift)),
  r = beta * log pi / ref

  The paper's reward shift is the running mean of r over both sides; a caller
  that keeps it passes it as `shift`. TRL's paired form has none.

  Reference: Jung et al. (2024), https://arxiv.org/abs/2404.04656
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  good, bad = beta * good, beta * bad
  loss = -jax.nn.log_sigmoid(good - shift) - jax.nn.log_sigmoid(shift - bad)
  return finish(loss, good, bad, live)


def sppo_hard(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Self-play preference optimisation with certain preferences.

  loss = (rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2,
  rho = log pi / ref

  The probability of winning is taken as 1 and 0. The reference is the previous
  iterate. beta is the inverse of the paper's eta.

  Reference: Wu et al. (2024), eq. 4.7, https://arxiv.org/abs/2405.00675
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = jnp.square(good - 0.5 / beta) + jnp.square(bad + 0.5 / beta)
  return finish(loss, beta * good, beta * bad, live)


def aot_unpaired(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """Alignment by optimal transport, unpaired: chosen rewards dominate.

  loss_i = -log sigmoid(beta (rho_w,(i) - rho_l,(i))), each side sorted by
  itself over the batch

  Entry i is about the i-th smallest log-ratios, not about row i (padding pairs
  come last); the metrics are by row.

  Reference: Melnyk et al. (2024), https://arxiv.org/abs/2406.05882
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = quantile_loss(good, bad, live, beta, label_smoothing)
  _, metrics = finish(loss, beta * good, beta * bad, live)
  return loss, metrics


def apo_zero(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Anchored preference: chosen up, rejected down; for chosen answers better
  than the model's own.

  loss = 1 - sigmoid(beta rho_w) + sigmoid(beta rho_l)

  Reference: D'Oosterlinck et al. (2024), eq. 7,
  https://arxiv.org/abs/2408.06266
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = jax.nn.sigmoid(-beta * good) + jax.nn.sigmoid(beta * bad)
  return finish(loss, beta * good, beta * bad, live)


def apo_down(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Anchored preference: both down, rejected more; for chosen answers worse
  than the model's own.

  loss = sigmoid(beta rho_w) + 1 - sigmoid(beta D)

  Reference: D'Oosterlinck et al. (2024), eq. 8,
  https://arxiv.org/abs/2408.06266
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = jax.nn.sigmoid(beta * good) + jax.nn.sigmoid(beta * (bad - good))
  return finish(loss, beta * good, beta * bad, live)


def copg(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  chosen_rewards: Array,
  rejected_rewards: Array,
  beta: float = 0.06,
) -> PairLoss:
  """Contrastive policy gradient: off-policy, without importance sampling.

  loss = (R_b(y) - R_b(y'))^2 / (2 beta),  R_b = R - beta * log pi / ref

  Its gradient is that of the paper's objective,
  -(R_b(y) - R_b(y')) (d log pi(y) - d log pi(y')): each answer's baseline is
  the other's regularised reward. The sides need no order: `*_rewards` [B] are
  scalar rewards of any kind, detached. With rewards +1/4 and -1/4 it is
  beta / 2 times the token-sum `ipo`. Gradient flows through both log-ratios.

  Reference: Flet-Berliac et al. (2024), https://arxiv.org/abs/2406.19185
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  reward_gap = jax.lax.stop_gradient(chosen_rewards - rejected_rewards)
  gap = jnp.where(live, reward_gap, 0.0) - beta * (good - bad)
  loss = jnp.square(gap) / (2.0 * beta)
  return finish(loss, beta * good, beta * bad, live)
