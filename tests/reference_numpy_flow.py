"""Second forms, in float64 NumPy, of reward-model, unpaired and flow losses.

One row at a time, written from the formulas; a row is a list of its counted
tokens. `x0` and the like are the numbers that a method holds still.
"""

import math

import numpy as np


def ls(x):
  return -math.log(1 + math.exp(-x))


def sig(x):
  return 1 / (1 + math.exp(-x))


# losses.reward_model


def bradley_terry(w, l, m, *, center=0.0, smoothing=0.0):
  d = w - l - m
  log_loss = -(1 - smoothing) * ls(d) - smoothing * ls(-d)
  return log_loss + center * (w + l) ** 2


def soft_label(w, l, m, p, *, center=0.0):
  return -p * ls(w - l - m) - (1 - p) * ls(l + m - w) + center * (w + l) ** 2


def soft_margin(w, l, strength, *, center=0.0):
  """Of a doubted pair both orders count, each with its own margin."""
  kept = -ls(w - l - strength)
  turned = -ls(l - w + strength)
  p = sig(strength) if strength < 0 else 1.0
  return p * kept + (1 - p) * turned + center * (w + l) ** 2


def preference_strength(gaps):
  """`gaps` of one pair under each model."""
  mean = sum(gaps) / len(gaps)
  return mean, math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))


def flip(chosen, rejected, strength, count):
  weakest = sorted(range(len(strength)), key=lambda b: strength[b])[:count]
  pairs = [
    (rejected[b], chosen[b], 1.0)
    if b in weakest
    else (chosen[b], rejected[b], 0.0)
    for b in range(len(strength))
  ]
  return [np.array(column) for column in zip(*pairs)]


def meta_difference(rewards):
  k = len(rewards)
  pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
  return 2 / k**2 * sum(sig(abs(rewards[i] - rewards[j])) for i, j in pairs)


def attribute_regression(scores, targets):
  errors = [s - t for s, t in zip(scores, targets)]
  if not errors:
    return 0.0, 0.0
  return (
    sum(e**2 for e in errors) / len(errors),
    sum(abs(e) for e in errors) / len(errors),
  )


# losses.preference, single answers


def bco(rho, desirable, *, beta, delta):
  return -ls(beta * rho - delta) if desirable else -ls(delta - beta * rho)


def apo_zero_unpaired(rho, desirable, *, beta, weights):
  if desirable:
    return weights[0] * (1 - sig(beta * rho))
  return weights[1] * sig(beta * rho)


def sft(chosen):
  """One loss per pair of all chosen answers: the token mean, N times."""
  tokens = sum(len(answer) for answer in chosen)
  return [-sum(answer) * len(chosen) / tokens for answer in chosen]


# losses.flow: the counted tokens of one answer


def trajectory_balance(p, f, reward):
  return (f[0] + sum(p) - reward) ** 2


def var_tb(groups):
  """`groups` of (p, reward), those that are not empty; one loss for each."""
  losses = []
  for group in groups:
    zeta = [sum(p) - reward for p, reward in group]
    losses += [(z - np.mean(zeta)) ** 2 for z in zeta]
  return losses


def detailed_balance(p, f, reward):
  f = [*f, reward]
  return [(f[t] + p[t] - f[t + 1]) ** 2 for t in range(len(p))]


def pieces(p, f, lam):
  """Over all pieces of a path whose states have the flows `f`."""
  total = weights = 0.0
  for i in range(len(f)):
    for j in range(i + 1, len(f)):
      weight = lam ** (j - i)
      total += weight * (f[i] + sum(p[i:j]) - f[j]) ** 2
      weights += weight
  return total / weights if weights else 0.0


def sub_trajectory_balance(p, f, reward, *, lam):
  return pieces(p, [*f, reward], lam)


def detailed_balance_stop(p, stop, reward):
  return [
    (reward[t] + p[t] + stop[t + 1] - reward[t + 1] - stop[t]) ** 2
    for t in range(len(p) - 1)
  ] + [0.0] * bool(len(p))


def sub_trajectory_balance_stop(p, stop, reward, *, lam):
  return pieces(p, [r - s for r, s in zip(reward, stop)], lam)


# losses.contrastive and advantages.progress_rewards


def cosine(a, b):
  return a @ b / math.sqrt((a @ a) * (b @ b))


def info_nce(anchors, positives, temperature, ceiling):
  """One loss per row of those that exist."""
  losses = []
  for i, anchor in enumerate(anchors):
    near = min(cosine(anchor, positives[i]), ceiling)
    others = [math.exp(cosine(anchor, p) / temperature) for p in positives]
    losses.append(-math.log(math.exp(near / temperature) / sum(others)))
  return losses


def value_pooled(hidden, values):
  weights = [math.exp(v) for v in values]
  return sum(w * h for w, h in zip(weights, hidden)) / sum(weights)


def progress_rewards(success, start, ends, mask):
  out = np.zeros(len(mask))
  for after, end in zip(success, ends):
    if 0 <= end < len(mask) and mask[end]:
      out[end] += after - start
      start = after
  return out
