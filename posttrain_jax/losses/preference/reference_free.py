"""Losses that need no reference."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses import numerics
from posttrain_jax.losses.preference.common import (
  PairLoss,
  alive,
  average,
  finish,
  score,
  smoothed,
)

__all__ = [
  'aligned_sft',
  'alphapo',
  'cpo',
  'orpo',
  'rrhf',
  'sft',
  'simpo',
  'slic',
]


def _log_odds(logp: Array) -> Array:
  """log(p / (1 - p)); log p counts as at most -1e-6 in log(1 - p)."""
  return logp - numerics.log1mexp(logp)


def orpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """ORPO: SFT on the chosen side and a penalty on the odds ratio.

  loss = -a_w - beta log sigmoid(odds(a_w) - odds(a_l)),
  a = mean_t log p_t,  odds(a) = a - log(1 - exp(a))

  The references are not read. `beta` is the paper's lambda; the paper's
  released Mistral models use 0.1.

  Reference: Hong et al. (2024), eqs. 6 and 7, https://arxiv.org/abs/2403.07691
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = average(chosen, live), average(rejected, live)
  # Padding pairs have a = 0, the pole of the odds.
  odds = _log_odds(jnp.where(live, good, -1.0))
  odds = odds - _log_odds(jnp.where(live, bad, -1.0))
  loss = -good - beta * jax.nn.log_sigmoid(odds)
  return finish(loss, beta * good, beta * bad, live)


def cpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  beta: float = 0.1,
  nll_coef: float = 1.0,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """CPO: DPO with a uniform reference, and NLL on the chosen side.

  loss = -log sigmoid(beta (S_w - S_l)) - nll_coef * S_w / |y_w|,
  S = sum_t log p_t

  The references are not read. The NLL is a mean over the pair's tokens (TRL's
  is over the tokens of the batch).

  Reference: Xu et al. (2024), eq. 3, https://arxiv.org/abs/2401.08417
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = score(chosen, live), score(rejected, live)
  loss = smoothed(beta * (good - bad), label_smoothing)
  loss = loss - nll_coef * average(chosen, live)
  return finish(loss, beta * good, beta * bad, live)


def simpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  beta: float = 2.0,
  gamma_beta_ratio: float = 0.5,
  label_smoothing: float = 0.0,
  nll_coef: float = 0.0,
) -> PairLoss:
  """SimPO: the mean log-probability is the reward, with a target margin.

  loss = -log sigmoid(beta (a_w - a_l - gamma_beta_ratio)) - nll_coef * a_w,
  a = mean_t log p_t

  The references are not read. gamma is given as its ratio to beta, as in the
  paper's table of settings.

  Reference: Meng et al. (2024), eq. 6, https://arxiv.org/abs/2405.14734
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = average(chosen, live), average(rejected, live)
  loss = smoothed(beta * (good - bad - gamma_beta_ratio), label_smoothing)
  return finish(loss - nll_coef * good, beta * good, beta * bad, live)


def alphapo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  beta: float = 2.0,
  gamma_beta_ratio: float = 0.5,
  alpha: float = 0.25,
) -> PairLoss:
  """AlphaPO: SimPO with a reward that is a power of the likelihood.

  loss = -log sigmoid(beta (r_w - r_l - gamma_beta_ratio)),
  r = (1 - p^-alpha) / alpha,  p = exp(mean_t log p_t)

  The references are not read. alpha 0 (within 1e-4) is `simpo`. The exponent
  -alpha * log p is clamped at 80.

  Reference: Gupta et al. (2025), https://arxiv.org/abs/2501.03884
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  is_zero = jnp.abs(alpha) < 1e-4
  safe = jnp.where(is_zero, 1.0, alpha)

  def reward(signals):
    logp = average(signals, live)
    exponent = jnp.minimum(-safe * logp, numerics.MAX_EXPONENT)
    return jnp.where(is_zero, logp, -jnp.expm1(exponent) / safe)

  good, bad = reward(chosen), reward(rejected)
  loss = -jax.nn.log_sigmoid(beta * (good - bad - gamma_beta_ratio))
  return finish(loss, beta * good, beta * bad, live)


def slic(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  delta: float = 1.0,
  nll_coef: float = 0.1,
) -> PairLoss:
  """SLiC-HF: a hinge on the likelihoods, and cross-entropy on the chosen side.

  loss = max(0, delta - S_w + S_l) - nll_coef * S_w,  S = sum_t log p_t

  The references are not read. The paper regularises towards its SFT targets;
  here the chosen side stands for them.

  Reference: Zhao et al. (2023), https://arxiv.org/abs/2305.10425
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = score(chosen, live), score(rejected, live)
  loss = jax.nn.relu(delta - good + bad) - nll_coef * good
  return finish(loss, good, bad, live)


def aligned_sft(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  beta: float = 1.0,
  align_coef: float = 1.0,
  nll_coef: float = 1.0,
) -> PairLoss:
  """ASFT, aligned SFT: NLL plus a binary loss on each side's absolute odds.

  loss = -nll_coef * a_w
         - align_coef * (log sigmoid(beta o_w) + log sigmoid(-beta o_l)),
  a = mean_t log p_t,  o = a - log(1 - exp(a))

  No pairwise term: the push on the rejected side fades as its likelihood falls.
  nll_coef 0 with a smaller beta, after an SFT stage, is the stronger two-stage
  form. The references are not read. (Anchored SFT, also called ASFT, is
  `supervised.asft`.)

  References: Wang et al. (2024), https://arxiv.org/abs/2409.10571; two-stage:
  Gorbatovski et al. (2025), https://arxiv.org/abs/2502.01237
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = average(chosen, live), average(rejected, live)
  good_odds = _log_odds(jnp.where(live, good, -1.0))
  bad_odds = _log_odds(jnp.where(live, bad, -1.0))
  align = jax.nn.log_sigmoid(beta * good_odds)
  align = align + jax.nn.log_sigmoid(-beta * bad_odds)
  loss = -nll_coef * good - align_coef * align
  return finish(loss, beta * good_odds, beta * bad_odds, live)


def rrhf(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
  *,
  rank_coef: float = 1.0,
  length_penalty: float = 1.0,
  nll_coef: float = 1.0,
) -> PairLoss:
  """RRHF: a zero-margin ranking hinge and NLL on the better answer.

  loss = rank_coef * max(0, s_l - s_w) - nll_coef * a_w,
  s = S / |y|^length_penalty,  a = S / |y|

  The paper sums the hinge over all pairs of k candidates and takes the NLL of
  the best: make those pairs, with nll_coef 1 on one pair of the best candidate
  only. The references are not read.

  Reference: Yuan et al. (2023), https://arxiv.org/abs/2304.05302
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)

  def ranked(signals):
    length = jnp.maximum(signals.length, 1).astype(signals.logps.dtype)
    return score(signals, live) / length**length_penalty

  good, bad = ranked(chosen), ranked(rejected)
  loss = rank_coef * jax.nn.relu(bad - good)
  return finish(loss - nll_coef * average(chosen, live), good, bad, live)


def sft(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals | None = None,
  ref_rejected: SequenceSignals | None = None,
) -> PairLoss:
  """Cross-entropy on the chosen answers; the rejected ones are not read.

  loss_i = -S_w,i * pairs / tokens,  S = sum_t log p_t

  counted over the pairs of this call and the tokens of their chosen answers:
  the mean over pairs is the mean over those tokens (TRL's reduction). The
  references are not read. The metrics' rewards are S.

  Reference: Ouyang et al. (2022), https://arxiv.org/abs/2203.02155 section 3.5
  """
  del ref_chosen, ref_rejected
  live = alive(chosen, rejected)
  good, bad = score(chosen, live), score(rejected, live)
  tokens = jnp.sum(jnp.where(live, chosen.length, 0))
  pairs = jnp.sum(live).astype(good.dtype)
  loss = -good * pairs / jnp.maximum(tokens, 1)
  return finish(loss, good, bad, live)
