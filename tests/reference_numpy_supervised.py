"""Supervised losses a second time: float64 NumPy, one token at a time.

Every function returns the loss of the whole batch, the sum over its tokens,
for logits z. Whatever a method detaches is computed from `z0` instead: with
z0 held still, finite differences over z give the gradient the method defines.
"""

import math

import numpy as np


def log_softmax(x):
  return x - x.max() - math.log(np.exp(x - x.max()).sum())


def rows(data):
  """(row, position, token) of each counted token, row by row."""
  for b in range(data['tokens'].shape[0]):
    positions = [
      t for t in range(data['tokens'].shape[1]) if data['mask'][b, t]
    ]
    yield b, [(t, int(data['tokens'][b, t])) for t in positions]


def logp(z, b, t, token):
  return log_softmax(z[b, t])[token]


def nll(z, z0, data):
  return -sum(logp(z, b, t, y) for b, row in rows(data) for t, y in row)


def label_smoothing(z, z0, data):
  total = 0.0
  for b, row in rows(data):
    for t, y in row:
      target = np.full(z.shape[-1], 0.1 / z.shape[-1])
      target[y] += 0.9
      total -= target @ log_softmax(z[b, t])
  return total


def dft(z, z0, data):
  return -sum(
    math.exp(logp(z0, b, t, y)) * logp(z, b, t, y)
    for b, row in rows(data)
    for t, y in row
  )


def prob_alpha(z, z0, data, alpha):
  return sum(
    (1 - math.exp(logp(z, b, t, y)) ** alpha) / alpha
    for b, row in rows(data)
    for t, y in row
  )


def prob_threshold(z, z0, data, low, high):
  kept = [
    -logp(z, b, t, y)
    for b, row in rows(data)
    for t, y in row
    if low <= math.exp(logp(z0, b, t, y)) <= high
  ]
  return sum(kept) / len(kept) * data['mask'].sum()


def ift(z, z0, data):
  total = 0.0
  for b, row in rows(data):
    loss = {t: -logp(z, b, t, y) for t, y in row}
    future = {
      t: sum(0.95 ** (i - t) * loss[i] for i in loss if i >= t) for t in loss
    }
    mean = sum(future.values()) / max(len(future), 1)
    total += sum(future[t] / mean * loss[t] for t in loss)
  return total


def kl(log_p, log_q):
  return sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q))


def asft(z, z0, data, direction):
  total = dft(z, z0, data)
  for b, row in rows(data):
    for t, _ in row:
      base, own = log_softmax(data['ref_z'][b, t]), log_softmax(z[b, t])
      pair = (base, own) if direction == 'forward' else (own, base)
      total += 0.05 * kl(*pair)
  return total


def psft(z, z0, data):
  return -sum(
    min(math.exp(logp(z, b, t, y) - logp(data['old_z'], b, t, y)), 1.28)
    for b, row in rows(data)
    for t, y in row
  )


def iw_sft(z, z0, data, level):
  total = 0.0
  for b, row in rows(data):
    gap = [logp(z0, b, t, y) - logp(data['ref_z'], b, t, y) for t, y in row]
    for (t, y), d in zip(row, gap):
      if level == 'sequence':
        weight = min(max(math.exp(np.mean(gap)), 0.0), 16.0)
      else:
        weight = min(max(math.exp(d), 0.2), 1.8)
      total -= weight * logp(z, b, t, y)
  return total


def reward(z, b, row, data, beta):
  ref = data['ref_z']
  return beta * sum(logp(z, b, t, y) - logp(ref, b, t, y) for t, y in row)


def f_sft(z, z0, data, divergence):
  total = 0.0
  for b, row in rows(data):
    if not row:
      continue
    u = reward(z, b, row, data, 0.1)
    assert u > -0.5
    total -= {
      'total_variation': u,
      'chi2': u - u**2 / 4,
      'hellinger': u / (1 + u),
      'js': math.log(2 - math.exp(-u)),
      'reverse_kl': -math.exp(-1 - u),
    }[divergence] / 0.1
  return total


def poft(z, z0, data):
  total = 0.0
  for b, row in rows(data):
    if row:
      score = np.mean([logp(z, b, t, y) for t, y in row])
      margin = 2.0 * (score - data['scores'][b]) + 0.3
      total += math.log(1 + math.exp(-margin))
  return total


def una(z, z0, data, link, beta=0.03):
  total = 0.0
  for b, row in rows(data):
    if row:
      q = 1 / (1 + math.exp(-reward(z, b, row, data, beta)))
      s = data['scores'][b]
      if link == 'mse':
        total += (q - s) ** 2
      else:
        total -= s * math.log(q) + (1 - s) * math.log(1 - q)
  return total


def uft_implicit(z, z0, data):
  return una(z, z0, {**data, 'scores': np.ones(len(z))}, 'mse')


def unlikelihood(z, z0, data):
  total = nll(z, z0, data)
  for b, row in rows(data):
    for t, y in row:
      seen = {int(c) for c in data['tokens'][b, :t]} - {y}
      total -= 0.7 * sum(math.log(1 - math.exp(logp(z, b, t, c))) for c in seen)
  return total


def unlikelihood_negative(z, z0, data):
  total = 0.0
  for b, row in rows(data):
    for t, y in row:
      own = logp(z, b, t, y)
      is_bad = data['negative'][b, t]
      total -= 0.7 * math.log(1 - math.exp(own)) if is_bad else own
  return total


def forgetting(z, z0, data):
  good, bad = [], []
  for b, row in rows(data):
    for t, y in row:
      (bad if data['negative'][b, t] else good).append(-logp(z, b, t, y))
  return (np.mean(good) - 0.1 * np.mean(bad)) * data['mask'].sum()


def nft(z, z0, data, prompt_weight):
  total = 0.0
  for b, row in rows(data):
    r = data['rate'][b]
    w = {'linear': 1 - r, 'sqrt': math.sqrt((1 - r) / r), 'none': 1.0}
    for t, y in row:
      old = logp(data['old_z'], b, t, y)
      ratio = math.exp(logp(z, b, t, y) - old)
      frozen = math.exp(logp(z0, b, t, y) - old)
      if data['correct'][b]:
        loss = -math.log(ratio)
      else:
        # The clamped value, moved by the unclamped argument's change.
        implicit, at = (1 - r * ratio) / (1 - r), (1 - r * frozen) / (1 - r)
        loss = -math.log(max(at, 0.9) + implicit - at)
      total += w[prompt_weight] * loss
  return total


def irl_discriminator(z, z0, data):
  total = 0.0
  for b, row in rows(data):
    for t, _ in row:
      d = 1 / (1 + math.exp(-z[b, t, 0]))
      y = 0.9 if data['correct'][b] else 0.1
      total -= y * math.log(d) + (1 - y) * math.log(1 - d)
  return total


def otr_exact(z, z0, data, temperature=1.3):
  total = 0.0
  for b, row in rows(data):
    for t, y in row:
      q = np.exp(log_softmax(z0[b, t] / temperature))
      prize = np.full(len(q), -0.1)
      prize[y] = 1.0
      total -= (q * prize) @ log_softmax(z[b, t])
  return total
