"""A second form of the policy-gradient losses: float64, one token at a time.

Written from the formulas, not from the code under test. Every function takes
the log-probabilities twice: `x`, which is differentiated, and `fixed`, the
same numbers wherever the method detaches them. Finite differences over `x`
then give the gradient that the method means.

Rows are lists of the counted tokens only; `on_tokens` does the bookkeeping.
"""

import math

import numpy as np


def ragged(seed=0, rows=4, width=6, spread=0.3):
  """Rows of different lengths with holes; the last one is padding."""
  rng = np.random.default_rng(seed)
  logps = -np.abs(rng.normal(size=(rows, width))) - 0.05
  old = logps + spread * rng.normal(size=(rows, width))
  advantages = rng.normal(size=(rows, width))
  mask = (rng.random((rows, width)) < 0.7).astype(float)
  mask[0], mask[-1] = 1.0, 0.0
  mask[1, 0] = 1.0
  return logps, old, advantages, mask


def _clip(value, low, high):
  return min(max(value, low), high)


def _exp(value):
  return math.exp(_clip(value, -20.0, 20.0))


def _ppo(ratio, advantage, low, high):
  return max(
    -advantage * ratio, -advantage * _clip(ratio, 1.0 - low, 1.0 + high)
  )


def on_tokens(row_loss, x, fixed, old, advantages, mask, **hparams):
  """[B, T] array of `row_loss`, which sees one row's counted tokens."""
  out = np.zeros(mask.shape)
  for b in range(mask.shape[0]):
    at = [t for t in range(mask.shape[1]) if mask[b, t]]
    if at:
      extra = {
        name: value[b, at] if isinstance(value, np.ndarray) else value
        for name, value in hparams.items()
      }
      out[b, at] = row_loss(
        x[b, at], fixed[b, at], old[b, at], advantages[b, at], **extra
      )
  return out


def reinforce(x, fixed, old, advantages):
  return [-a * p for p, a in zip(x, advantages)]


def ppo_clip(
  x, fixed, old, advantages, clip_low, clip_high, dual_clip=0.0, delta=0.0
):
  losses = []
  for p, o, a in zip(x, old, advantages):
    ratio = _exp(p - o)
    capped = min(ratio, delta) if delta else ratio
    loss = max(-a * capped, -a * _clip(ratio, 1 - clip_low, 1 + clip_high))
    if a < 0 and dual_clip:
      loss = min(loss, -a * dual_clip)
    losses.append(loss)
  return losses


def ppo_clip_sequence_mask(
  x, fixed, old, advantages, clip_low, clip_high, threshold
):
  drift = sum(o - p for p, o in zip(fixed, old)) / len(old)
  return [
    0.0
    if a < 0 and drift > threshold
    else _ppo(_exp(p - o), a, clip_low, clip_high)
    for p, o, a in zip(x, old, advantages)
  ]


def sapo(x, fixed, old, advantages, temperature_positive, temperature_negative):
  losses = []
  for p, o, a in zip(x, old, advantages):
    tau = temperature_positive if a > 0 else temperature_negative
    gate = 4 / tau / (1 + math.exp(-tau * (_exp(p - o) - 1)))
    losses.append(-gate * a)
  return losses


def luffy_shaped(x, fixed, old, advantages, gamma):
  return [
    -a * math.exp(p) / (math.exp(p) + gamma) for p, a in zip(x, advantages)
  ]


def gspo(x, fixed, old, advantages, clip_low, clip_high):
  product = math.prod(math.exp(p - o) for p, o in zip(x, old))
  ratio = product ** (1 / len(old))
  return [_ppo(ratio, a, clip_low, clip_high) for a in advantages]


def gspo_token(x, fixed, old, advantages, clip_low, clip_high):
  product = math.prod(math.exp(p - o) for p, o in zip(fixed, old))
  ratio = product ** (1 / len(old))
  return [
    _ppo(ratio * math.exp(p) / math.exp(f), a, clip_low, clip_high)
    for p, f, a in zip(x, fixed, advantages)
  ]


def luspo(x, fixed, old, advantages, clip_low, clip_high):
  losses = gspo(x, fixed, old, advantages, clip_low, clip_high)
  return [len(old) * loss for loss in losses]


def gmpo(x, fixed, old, advantages, clip_low, clip_high):
  product = 1.0
  for p, o, a in zip(x, old, advantages):
    ratio = math.exp(p - o)
    clipped = _clip(ratio, math.exp(-clip_low), math.exp(clip_high))
    if a > 0:
      product *= min(ratio, clipped)
    elif a < 0:
      product *= max(ratio, clipped)
  return [-a * product ** (1 / len(old)) for a in advantages]


def vespo(
  x,
  fixed,
  old,
  advantages,
  power_positive,
  decay_positive,
  power_negative,
  decay_negative,
):
  w = math.prod(math.exp(f - o) for f, o in zip(fixed, old))
  losses = []
  for p, a in zip(x, advantages):
    power = power_positive if a >= 0 else power_negative
    decay = decay_positive if a >= 0 else decay_negative
    losses.append(-(w**power) * math.exp(decay * (1 - w)) * a * p)
  return losses


def cispo(x, fixed, old, advantages, clip_low, clip_high):
  return [
    -_clip(_exp(f - o), 1 - clip_low, 1 + clip_high) * a * p
    for p, f, o, a in zip(x, fixed, old, advantages)
  ]


def truncated_is(x, fixed, old, advantages, max_ratio):
  return [
    -min(_exp(f - o), max_ratio) * a * p
    for p, f, o, a in zip(x, fixed, old, advantages)
  ]


def sequence_truncated_is(x, fixed, old, advantages, max_ratio):
  w = math.prod(math.exp(f - o) for f, o in zip(fixed, old))
  return [-min(w, max_ratio) * a * p for p, a in zip(x, advantages)]


def masked_is(x, fixed, old, advantages, min_ratio, max_ratio):
  losses = []
  for p, f, o, a in zip(x, fixed, old, advantages):
    ratio = _exp(f - o)
    losses.append(
      -ratio * a * p if min_ratio <= ratio <= max_ratio else 0.0 * p
    )
  return losses


def topr(x, fixed, old, advantages):
  w = math.prod(math.exp(f - o) for f, o in zip(fixed, old))
  return [
    -(1.0 if a >= 0 else min(w, 1.0)) * a * p for p, a in zip(x, advantages)
  ]


def decoupled_ppo_clip(
  x, fixed, old, advantages, proximal_logps, clip_low, clip_high, max_weight
):
  return [
    min(_exp(q - o), max_weight) * _ppo(_exp(p - q), a, clip_low, clip_high)
    for p, o, a, q in zip(x, old, advantages, proximal_logps)
  ]


def _covariances(fixed, advantages, mask):
  """{(b, t): centred product} over counted tokens."""
  at = [tuple(i) for i in np.argwhere(mask)]
  mean_p = sum(fixed[i] for i in at) / len(at)
  mean_a = sum(advantages[i] for i in at) / len(at)
  return {i: (fixed[i] - mean_p) * (advantages[i] - mean_a) for i in at}


def kl_cov(x, fixed, old, advantages, mask, cov_ratio, kl_coef):
  covariance = _covariances(fixed, advantages, mask)
  budget = max(1, math.floor(cov_ratio * len(covariance)))
  chosen = sorted(covariance, key=covariance.get, reverse=True)[:budget]
  out = np.zeros(mask.shape)
  for i in covariance:
    out[i] = -advantages[i] * math.exp(x[i] - old[i])
    if i in chosen:
      out[i] += kl_coef * abs(x[i] - old[i])
  return out


def clip_cov_all(
  x, fixed, old, advantages, mask, clip_low, clip_high, cov_low, cov_high
):
  """`clip_cov` with a budget for every eligible token: nothing is random."""
  covariance = _covariances(fixed, advantages, mask)
  out = np.zeros(mask.shape)
  for i, value in covariance.items():
    ratio, a = math.exp(fixed[i] - old[i]), advantages[i]
    clipped = (a > 0 and ratio > 1 + clip_high) or (
      a < 0 and ratio < 1 - clip_low
    )
    if clipped or not cov_low < value < cov_high:
      out[i] = _ppo(math.exp(x[i] - old[i]), a, clip_low, clip_high)
  return out
