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
