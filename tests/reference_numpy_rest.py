"""Second forms, in float64 NumPy, of what the other reference files leave out.

One row, group or position at a time, written from the formulas. `x0` and the
like are the numbers that a method holds still.
"""

import itertools
import math

import jax
import numpy as np


def softmax(z, temperature=1.0):
  e = np.exp((z - z.max()) / temperature)
  return e / e.sum()


def log_sigmoid(x):
  return -math.log1p(math.exp(-x))


def positions(mask):
  return [tuple(index) for index in np.argwhere(mask != 0)]


# losses.supervised and losses.preference


def otr(z, z0, data, num_samples):
  """The loss given the uniform numbers that choose the samples."""
  mask, tokens = data['mask'], data['tokens']
  with jax.enable_x64(True):
    uniform = jax.random.uniform(
      jax.random.key(1), (*mask.shape, num_samples), np.float64
    )
  total = 0.0
  for b, t in positions(mask):
    ladder = np.cumsum(softmax(z0[b, t], 1.3))
    logps = np.log(softmax(z[b, t]))
    for u in np.asarray(uniform)[b, t]:
      drawn = int((ladder <= u * ladder[-1]).sum())
      prize = 1.0 if drawn == tokens[b, t] else -0.1
      total -= prize * logps[drawn] / num_samples
  return total


def _sorted_loss(high, low, smoothing):
  return [
    -(1 - smoothing) * log_sigmoid(0.1 * (a - b))
    - smoothing * log_sigmoid(0.1 * (b - a))
    for a, b in zip(sorted(high), sorted(low))
  ]


def aot(sums, smoothing):
  """`sums` [pairs, 4]: chosen, rejected, and both under the reference."""
  w, l, ref_w, ref_l = sums.T
  return _sorted_loss(w - l, ref_w - ref_l, smoothing)


def aot_unpaired(sums, smoothing):
  w, l, ref_w, ref_l = sums.T
  return _sorted_loss(w - ref_w, l - ref_l, smoothing)


# losses.distillation: p student, q teacher


def kl(p, q):
  return float((p * (np.log(p) - np.log(q))).sum())


def generalized_jsd(p, q, beta):
  if beta == 0.0:
    return kl(q, p)
  if beta == 1.0:
    return kl(p, q)
  m = beta * q + (1 - beta) * p
  return beta * kl(q, m) + (1 - beta) * kl(p, m)


def on_top(p, q, chosen, tail):
  """Both distributions on the `chosen` tokens and, for 'bucket', the rest."""
  others = np.setdiff1d(np.arange(len(p)), chosen)
  if tail == 'bucket':
    return [np.append(x[chosen], x[others].sum()) for x in (p, q)]
  return [x[chosen] / x[chosen].sum() for x in (p, q)]


def distill(student, teacher, held, mask, *, beta, temperature=1.0,
            top=None, k=0, tail='bucket'):  # fmt: skip
  out = np.zeros(mask.shape)
  for b, t in positions(mask):
    p, q = (softmax(z[b, t], temperature) for z in (student, teacher))
    if top:
      fixed = {'student': held, 'teacher': teacher}[top][b, t]
      p, q = on_top(p, q, np.argsort(-fixed)[:k], tail)
    out[b, t] = generalized_jsd(p, q, beta)
  return out


# losses.regularizers: d = log pi / ref, r = pi / old

K3 = lambda d: np.exp(-d) - 1 + d
TAKEN = {
  'kl_k1': lambda d, r, d0, r0: d,
  'kl_k2': lambda d, r, d0, r0: d**2 / 2,
  'kl_k3': lambda d, r, d0, r0: K3(d),
  'kl_k3_plus': lambda d, r, d0, r0: K3(d0) + d**2 / 2 - d0**2 / 2,
  'kl_k1_corrected': lambda d, r, d0, r0: r * d,
  'kl_k2_corrected': lambda d, r, d0, r0: r0 * d**2 / 2,
  'kl_k3_corrected': lambda d, r, d0, r0: r * K3(d),
}


def full_js(p, q):
  return 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)


FULL = {
  'full_kl_reverse': kl,
  'full_kl_forward': lambda p, q: kl(q, p),
  'full_js': full_js,
  'full_entropy': lambda p, q: float((p * np.log(p)).sum()),
}


# losses.value


def value_loss(name, value, target, old, size):
  error = value - target
  if name == 'unclipped':
    return error**2 / 2
  if name == 'huber':
    e = abs(error)
    return e**2 / 2 if e < size else size * (e - size / 2)
  held = min(max(value, old - size), old + size)
  return max(error**2, (held - target) ** 2) / 2


# losses.reduce


def reduced(name, loss, mask, *, length=0.0, group_size=1):
  rows = [loss[b][mask[b] != 0] for b in range(len(mask))]
  live = [row for row in rows if len(row)]
  if name == 'token_mean':
    return sum(row.sum() for row in live), mask.sum()
  if name == 'sequence_mean':
    return sum(row.mean() for row in live), len(live)
  if name == 'prompt_mean':
    groups = [
      np.concatenate(rows[i : i + group_size])
      for i in range(0, len(rows), group_size)
    ]
    live = [group for group in groups if len(group)]
    return sum(group.mean() for group in live), len(live)
  total = sum(row.sum() for row in live)
  if name == 'fixed_length':
    total /= length or mask.shape[1]
  return total, len(live)


# advantages


def spread(x, epsilon):
  return math.sqrt(sum((x - x.mean()) ** 2) / (len(x) - 1)) + epsilon


def scaled(centered, over):
  variance = sum((over - over.mean()) ** 2) / (len(over) - 1)
  return centered / math.sqrt(variance + 1e-8)


def pass_at_k(rewards, k):
  sets = list(itertools.combinations(range(len(rewards)), k))
  wins = np.array([any(rewards[i] > 0.5 for i in s) for s in sets], float)
  if wins.std() == 0:
    return np.zeros(len(rewards))
  return np.array([
    np.mean([w for w, s in zip(wins, sets) if i in s]) - wins.mean()
    for i in range(len(rewards))
  ]) / wins.std()  # fmt: skip


def label_in_group(rewards):
  out = []
  for *own, label in rewards:
    group = [*own, sum(own) / len(own) if max(own) >= label else label]
    mean = sum(group) / len(group)
    out.append([(r - mean) / spread(np.array(group), 1e-4) for r in group])
  return np.array(out)


def advantage(name, rewards, greedy):
  centered = np.array([row - sum(row) / len(row) for row in rewards])
  flat = rewards.reshape(-1)
  return {
    'raw': lambda: rewards,
    'signed': lambda: np.array([
      [1.0 if r > 0.5 else -1.0 for r in row] for row in rewards
    ]),
    'remax': lambda: np.array([row - g for row, g in zip(rewards, greedy)]),
    'group_centered': lambda: centered,
    'leave_one_out': lambda: np.array([
      [r - np.delete(row, i).mean() for i, r in enumerate(row)]
      for row in rewards
    ]),
    'group_normalized': lambda: np.array([
      c / spread(row, 1e-4) for c, row in zip(centered, rewards)
    ]),
    'label_in_group': lambda: label_in_group(rewards),
    'batch_whitened': lambda: scaled(rewards - flat.mean(), flat),
    'group_centered_batch_whitened': lambda: scaled(
      centered, centered.reshape(-1)
    ),
    'group_centered_batch_scaled': lambda: centered / spread(flat, 1e-4),
    'pass_at_k': lambda: np.array([pass_at_k(row, 2) for row in rewards]),
  }[name]()  # fmt: skip


def gae(rewards, values, mask, gamma, lam):
  advantages, returns = np.zeros(mask.shape), np.zeros(mask.shape)
  for b in range(len(mask)):
    at = np.flatnonzero(mask[b])
    ahead = [*values[b, at[1:]], 0.0]
    delta = rewards[b, at] + gamma * np.array(ahead) - values[b, at]
    for i, t in enumerate(at):
      powers = (gamma * lam) ** np.arange(len(at) - i)
      advantages[b, t] = powers @ delta[i:]
      returns[b, t] = advantages[b, t] + values[b, t]
  return {'out': advantages, 'returns': returns}


def discounted_returns(rewards, mask, gamma):
  out = np.zeros(mask.shape)
  for b in range(len(mask)):
    total = 0.0
    for t in np.flatnonzero(mask[b])[::-1]:
      total = rewards[b, t] + gamma * total
      out[b, t] = total
  return out


def whitened_returns(rewards, mask, gamma):
  """Each token's return against those of all tokens, one by one."""
  returns = discounted_returns(rewards, mask, gamma)
  every = [returns[b, t] for b, t in zip(*np.nonzero(mask))]
  mean = sum(every) / len(every)
  variance = sum((x - mean) ** 2 for x in every) / (len(every) - 1)
  out = np.zeros(mask.shape)
  for b, t in zip(*np.nonzero(mask)):
    out[b, t] = (returns[b, t] - mean) / np.sqrt(variance + 1e-8)
  return out


def last_token_rewards(rewards, mask):
  out = np.zeros(mask.shape)
  for b in range(len(mask)):
    if mask[b].any():
      out[b, np.flatnonzero(mask[b])[-1]] = rewards[b]
  return out


def segment_rewards(rewards, ends, mask):
  out = np.zeros(mask.shape)
  for b, s in np.ndindex(ends.shape):
    if 0 <= ends[b, s] < mask.shape[1] and mask[b, ends[b, s]]:
      out[b, ends[b, s]] += rewards[b, s]
  return out


# token_weights


def fait(data):
  out = data['mask'].copy()
  for b in range(len(out)):
    changed = (data['marks'][b] != 0) & (out[b] != 0)
    wrong = data['wrong'][b][data['wrong_marks'][b] != 0]
    right = data['logps'][b][changed]
    gap = (right.mean() if len(right) else 0.0) - (
      wrong.mean() if len(wrong) else 0.0
    )
    out[b, changed] = 1 + 2.0 / (1 + math.exp(gap))
  return out
