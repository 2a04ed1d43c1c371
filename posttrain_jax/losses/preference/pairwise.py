"""Losses of the difference D of the two log-ratios."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, SequenceSignals
from posttrain_jax.losses import numerics
from posttrain_jax.losses.preference.common import (
  PairLoss,
  alive,
  finish,
  quantile_loss,
  ratios,
  score,
  smoothed,
)

__all__ = [
  'aot',
  'discopop',
  'dpo',
  'exo_pair',
  'f_dpo',
  'hinge',
  'ipo',
  'ld_dpo',
  'robust',
  'sigmoid',
  'sigmoid_norm',
  'spin',
  'wpo',
]


def sigmoid(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """DPO: logistic regression on the implicit rewards beta * log pi / ref.

  loss = -log sigmoid(beta D),  D = rho_w - rho_l,  rho = log pi - log ref

  `label_smoothing` e > 0 is conservative DPO, for labels flipped at rate e:
  -(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D).

  References: Rafailov et al. (2023), eq. 7, https://arxiv.org/abs/2305.18290;
  Mitchell (2023), https://ericmitchell.ai/cdpo.pdf
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = smoothed(beta * (good - bad), label_smoothing)
  return finish(loss, beta * good, beta * bad, live)


dpo = sigmoid


def hinge(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Hinge on the implicit reward margin: no gradient once it reaches 1.

  loss = max(0, 1 - beta D)

  Reference: Liu et al. (2023), https://arxiv.org/abs/2309.06657
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = jax.nn.relu(1.0 - beta * (good - bad))
  return finish(loss, beta * good, beta * bad, live)


def ipo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  length_normalized: bool = True,
) -> PairLoss:
  """IPO: regresses the log-ratio gap on a fixed target, so it cannot run off.

  loss = (D - 1 / (2 beta))^2

  With `length_normalized` (as in TRL, which reports the authors' confirmation)
  each log-ratio is divided by its number of tokens.

  Reference: Azar et al. (2023), eq. 17, https://arxiv.org/abs/2310.12036
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  gap = good - bad
  if length_normalized:
    gap = good / jnp.maximum(chosen.length, 1)
    gap = gap - bad / jnp.maximum(rejected.length, 1)
  loss = jnp.square(gap - 0.5 / beta)
  return finish(loss, beta * good, beta * bad, live)


def exo_pair(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  label_smoothing: float = 1e-3,
) -> PairLoss:
  """EXO: reverse KL from the policy's preference to the smoothed label.

  loss = q log(q / (1 - e)) + (1 - q) log((1 - q) / e),  q = sigmoid(beta D)

  `label_smoothing` e must lie in (0, 1): at 0 the KL is infinite; it counts as
  at least 1e-7.

  Reference: Ji et al. (2024), eq. 16, https://arxiv.org/abs/2402.00856
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  logit = beta * (good - bad)
  epsilon = jnp.maximum(label_smoothing, 1e-7)
  right = jax.nn.log_sigmoid(logit) - jnp.log1p(-epsilon)
  wrong = jax.nn.log_sigmoid(-logit) - jnp.log(epsilon)
  loss = jax.nn.sigmoid(logit) * right + jax.nn.sigmoid(-logit) * wrong
  return finish(loss, beta * good, beta * bad, live)


def robust(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.1,
) -> PairLoss:
  """Robust DPO: an unbiased estimate of the clean loss from flipped labels.

  loss = (-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D)) / (1 - 2 e)

  `label_smoothing` e < 0.5 is the flip rate. Unbounded below.

  Reference: Chowdhury et al. (2024), https://arxiv.org/abs/2403.00409
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  logit = beta * (good - bad)
  clean = -(1.0 - label_smoothing) * jax.nn.log_sigmoid(logit)
  flipped = -label_smoothing * jax.nn.log_sigmoid(-logit)
  loss = (clean - flipped) / (1.0 - 2.0 * label_smoothing)
  return finish(loss, beta * good, beta * bad, live)


def aot(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.0,
) -> PairLoss:
  """Alignment by optimal transport, paired: margins dominate the reference's.

  loss_i = -log sigmoid(beta (m_(i) - r_(i))),  m = log pi_w - log pi_l and
  r the same under the reference, each sorted over the batch

  Entry i is about the i-th smallest margins, not about row i (padding pairs
  come last); the metrics are by row. The batch is the sample of the
  distributions: it must hold many pairs.

  Reference: Melnyk et al. (2024), https://arxiv.org/abs/2406.05882
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  margin = score(chosen, live) - score(rejected, live)
  ref_margin = score(ref_chosen, live) - score(ref_rejected, live)
  ref_margin = jax.lax.stop_gradient(ref_margin)
  loss = quantile_loss(margin, ref_margin, live, beta, label_smoothing)
  _, metrics = finish(loss, beta * good, beta * bad, live)
  return loss, metrics


def discopop(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.05,
  tau: float = 0.05,
) -> PairLoss:
  """The log-ratio modulated loss that a language model discovered.

  loss = (1 - s) (-log sigmoid(x)) + s exp(-x),
  x = beta D,  s = sigmoid(x / tau)

  s exp(-x) is computed as one exponential, clamped at exp(80).

  Reference: Lu et al. (2024), eq. 5, https://arxiv.org/abs/2406.08414
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  logit = beta * (good - bad)
  modulation = logit / tau
  logistic = -jax.nn.log_sigmoid(logit) * jax.nn.sigmoid(-modulation)
  exponential = numerics.exp(jax.nn.log_sigmoid(modulation) - logit)
  return finish(logistic + exponential, beta * good, beta * bad, live)


def sigmoid_norm(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Length-normalised DPO: log-ratios per token.

  loss = -log sigmoid(beta (rho_w / |y_w| - rho_l / |y_l|))

  Reference: Lambert et al. (2024), https://arxiv.org/abs/2411.15124
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  gap = good / jnp.maximum(chosen.length, 1)
  gap = gap - bad / jnp.maximum(rejected.length, 1)
  loss = -jax.nn.log_sigmoid(beta * gap)
  return finish(loss, beta * good, beta * bad, live)


def f_dpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  divergence: str = 'js',
  alpha: float = 0.5,
) -> PairLoss:
  """DPO under another f-divergence to the reference than reverse KL.

  loss = -log sigmoid(beta (f'(u_w) - f'(u_l))),  u = pi / ref, and f'(u) up
  to a constant: reverse_kl log u; forward_kl -1 / u; js log(u / (1 + u));
  alpha u^(alpha - 1) / (alpha - 1), for alpha 0 forward_kl

  `alpha` serves only divergence 'alpha'; within 1e-6 of 1 it is reverse_kl (as
  in TRL, whose alpha is 1 minus the paper's). Exponents are clamped at 80.

  Reference: Wang et al. (2023), https://arxiv.org/abs/2309.16240

  Raises:
    ValueError: an unknown `divergence`.
  """
  is_one = jnp.abs(alpha - 1.0) < 1e-6
  power = jnp.where(is_one, 1.0, alpha - 1.0)
  slopes = {
    'reverse_kl': lambda rho: rho,
    'forward_kl': lambda rho: -numerics.exp(-rho),
    'js': jax.nn.log_sigmoid,
    'alpha': lambda rho: jnp.where(
      is_one, rho, numerics.exp(power * rho) / power
    ),
  }
  if divergence not in slopes:
    raise ValueError(
      f'unknown divergence "{divergence}". Valid: {", ".join(slopes)}'
    )
  slope = slopes[divergence]
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)
  loss = -jax.nn.log_sigmoid(beta * (slope(good) - slope(bad)))
  return finish(loss, beta * good, beta * bad, live)


def wpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  chosen_collision: Array | None = None,
  rejected_collision: Array | None = None,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """DPO on pairs weighted by how likely the policy would produce them.

  loss = -sg[w_w w_l] log sigmoid(beta D),
  w = exp(mean_t (log pi_t - log sum_v pi(v)^2))

  The collision term aligns the weights over contexts of different entropy (the
  paper's sampled alignment, TRL's default): `*_collision` [B, T] holds
  log sum_v pi(v)^2 of each position; without it w is exp(mean_t log pi_t). The
  weight is detached; its exponent is clamped at 80.

  Reference: Zhou et al. (2024), eq. 2, https://arxiv.org/abs/2406.11827
  """
  good, bad, live = ratios(chosen, rejected, ref_chosen, ref_rejected)

  def exponent(signals, collision):
    logps = signals.token_logps
    logps = logps if collision is None else logps - collision
    logps = jnp.where(signals.mask != 0, logps, 0.0)
    return jnp.sum(logps, axis=1) / jnp.maximum(signals.length, 1)

  weight = numerics.exp(
    exponent(chosen, chosen_collision) + exponent(rejected, rejected_collision)
  )
  weight = jax.lax.stop_gradient(jnp.where(live, weight, 0.0))
  loss = -weight * jax.nn.log_sigmoid(beta * (good - bad))
  loss, metrics = finish(loss, beta * good, beta * bad, live)
  return loss, metrics | {'weight': weight}


def ld_dpo(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
  alpha: float = 0.5,
) -> PairLoss:
  """Length-desensitised DPO: tokens beyond the shorter side count alpha.

  loss = -log sigmoid(beta D), each log-probability being
  sum over t <= l of log p_t + alpha * sum over t > l of log p_t,
  l = min(|y_w|, |y_l|)

  Position counts the completion's tokens. alpha 1 is DPO; 0 ignores the tail.
  Reads `token_logps` and `mask` of all four.

  Reference: Liu et al. (2024), https://arxiv.org/abs/2409.06411
  """
  live = alive(chosen, rejected)
  shorter = jnp.minimum(chosen.length, rejected.length)

  def desensitised(signals, mask):
    position = jnp.cumsum(mask, axis=1)  # 1 on the first completion token
    weight = jnp.where(position <= shorter[:, None], 1.0, alpha)
    counts = (mask != 0) & live[:, None]
    return jnp.sum(jnp.where(counts, weight * signals.token_logps, 0.0), axis=1)

  def gap(signals, ref):
    fixed = jax.lax.stop_gradient(ref)
    return desensitised(signals, signals.mask) - desensitised(
      fixed, signals.mask
    )

  good, bad = gap(chosen, ref_chosen), gap(rejected, ref_rejected)
  loss = -jax.nn.log_sigmoid(beta * (good - bad))
  return finish(loss, beta * good, beta * bad, live)


def spin(
  chosen: SequenceSignals,
  rejected: SequenceSignals,
  ref_chosen: SequenceSignals,
  ref_rejected: SequenceSignals,
  *,
  beta: float = 0.1,
) -> PairLoss:
  """Self-play fine-tuning: prefer the demonstration over one's own sample.

  loss = log(1 + exp(-beta D))

  The formula is DPO's; the data differ: `chosen` is the demonstration,
  `rejected` a sample of the previous iterate, and both references are that
  iterate, refreshed in every round. `hinge` is the paper's other choice of
  loss. A pair whose two sides are equal has no gradient: drop it.

  Reference: Chen et al. (2024), https://arxiv.org/abs/2401.01335
  """
  return sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta=beta)
