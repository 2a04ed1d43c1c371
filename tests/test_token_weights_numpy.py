"""Token weights a second time: float64 NumPy, row by row, on compact rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import token_weights
from posttrain_jax.core.types import TokenSignals

NAMES = ('logps', 'entropy', 'ref', 'other', 'old', 'marks')


def make(seed):
  """Random arrays [10, 6]; row 3 has no tokens, others have holes."""
  rng = np.random.default_rng(seed)
  shape = (10, 6)
  mask = (rng.uniform(size=shape) < 0.7).astype(float)
  mask[:, 1], mask[3] = 1.0, 0.0
  data = {name: -rng.uniform(0.05, 3.0, shape) for name in NAMES}
  data['entropy'] = -data['entropy']
  data['marks'] = (rng.uniform(size=shape) < 0.4).astype(float)
  data['correct'] = (rng.uniform(size=shape[0]) < 0.5).astype(float)
  return data, mask


def rows(data, mask):
  """One dict of compact arrays, and numbers, per row that has tokens."""
  for b in range(len(mask)):
    at = np.flatnonzero(mask[b])
    if len(at):
      yield (
        b,
        at,
        {
          name: array[b, at] if array.ndim == 2 else array[b]
          for name, array in data.items()
        },
      )


def place(mask, pieces):
  out = np.zeros_like(mask)
  for b, at, values in pieces:
    out[b, at] = values
  return out


def by_row(function, data, mask):
  return place(
    mask, [(b, at, function(row)) for b, at, row in rows(data, mask)]
  )


def renormalised(keep, mask):
  return keep * mask.sum() / max(keep.sum(), 1)


def batch_top(score, mask, fraction):
  order = sorted(
    zip(*np.nonzero(mask)), key=lambda index: (-score[index], index)
  )
  keep = np.zeros_like(mask)
  for index in order[: math.ceil(fraction * len(order) - 1e-6)]:
    keep[index] = 1.0
  return keep


def row_top(score, fraction):
  keep = np.zeros(len(score))
  size = max(math.ceil(fraction * len(score) - 1e-6), 1)
  keep[np.argsort(-score, kind='stable')[:size]] = 1.0
  return keep


def tau_of(data, mask):
  return np.median([-row['logps'].mean() for _, _, row in rows(data, mask)])


def talr(data, mask):
  raw = by_row(lambda r: np.exp(r['logps']) ** (1 / tau_of(data, mask)),
               data, mask)  # fmt: skip
  return raw / raw.sum() * mask.sum()


def talr_floor(data, mask):
  tau = tau_of(data, mask)
  return by_row(
    lambda r: np.maximum(np.exp(r['logps'] / tau), 0.01), data, mask
  )


def easy_rows(data, mask):
  tau = np.median([-row['ref'].mean() for _, _, row in rows(data, mask)])
  weigh = lambda r: np.full(len(r['ref']), math.exp(r['ref'].mean() / tau))
  return by_row(weigh, data, mask)


def prefix_only(data, mask):
  keep = by_row(lambda r: np.arange(len(r['logps'])) < 2, data, mask)
  return renormalised(keep, mask)


def threshold(data, mask):
  inside = lambda r: (np.exp(r['logps']) >= 0.2) * 1.0
  return renormalised(by_row(inside, data, mask), mask)


def ss_token(data, mask):
  def keep(row):
    gain = row['logps'] - row['other']
    span = max(np.ptp(gain), 1e-300)
    return row_top((gain - gain.min()) / span - row['old'], 0.6)

  return renormalised(by_row(keep, data, mask), mask)


def shad(data, mask):
  def weigh(row):
    is_reasoning = -row['other'] > -row['old']
    loss, count = -row['logps'], len(row['logps'])
    groups = [is_reasoning, ~is_reasoning]
    score = [math.exp(loss[g].mean() / 3.0) if g.any() else 0.0 for g in groups]
    out = np.zeros(count)
    for g, s in zip(groups, score):
      if g.any():
        out[g] = s / sum(score) / g.sum() * count
    return out

  return by_row(weigh, data, mask)


def fait(data, mask):
  out = mask.copy()
  for b, at, row in rows(data, mask):
    changed = row['marks'] != 0
    right = row['logps'][changed].mean() if changed.any() else 0.0
    all_marks = data['marks'][b] != 0
    wrong = data['other'][b][all_marks].mean() if all_marks.any() else 0.0
    boost = 1 + 2.0 / (1 + math.exp(right - wrong))
    out[b, at[changed]] = boost
  return out


def key_tokens(data, mask):
  def weigh(row):
    keys = row['marks'] != 0
    count, others = keys.sum(), (~keys).sum()
    w = np.ones(len(keys))
    if 0 < count < others:
      w[keys] = min(others / count, 9.0)
    return w * len(w) / w.sum()

  return by_row(weigh, data, mask)


def srft_rollouts(data, mask):
  def weigh(row):
    is_right = row['correct'] == 1
    return 0.1 * math.exp(row['entropy'].mean()) if is_right else 1.0

  return by_row(weigh, data, mask)


def q_tuning(data, mask):
  table = list(rows(data, mask))
  ppl = np.array([math.exp(-row['logps'].mean()) for _, _, row in table])
  ent = np.array([row['entropy'].mean() for _, _, row in table])
  wanted = math.ceil(0.25 * len(table))

  def quadrants(a):
    lo, hi = (
      (lambda x: x <= np.quantile(x, a)),
      (lambda x: x >= np.quantile(x, 1 - a)),
    )
    second = hi(ppl) & lo(ent)
    return second, lo(ppl) & hi(ent) & ~second

  low, high = 0.0, 0.49
  for _ in range(10):
    middle = (low + high) / 2
    if np.logical_or(*quadrants(middle)).sum() < wanted:
      low = middle
    else:
      high = middle
  second, fourth = quadrants(high)
  chosen = set(np.flatnonzero(second | fourth))
  scaled = [(x - x.min()) / np.ptp(x) for x in (ppl, ent)]
  for i in np.argsort(-abs(scaled[0] - scaled[1]), kind='stable'):
    if len(chosen) < wanted:
      chosen.add(i)
  keep = np.zeros_like(mask)
  for i in chosen:
    b, at, row = table[i]
    keep[b, at] = 1.0
    if second[i]:
      local = np.where(mask[b], np.exp(-data['logps'][b]), 0.0)
      sides = np.append(local[1:], 0) + np.append(0, local[:-1])
      keep[b, at] = row_top(-(0.5 * local + 0.5 * sides)[at], 0.5)
  return renormalised(keep, mask)


CASES = {
  'uniform': ({}, {}, lambda d, m: m),
  'prob_power': (
    {},
    {'alpha': 0.7},
    lambda d, m: m * np.exp(d['logps']) ** 0.7,
  ),
  'threshold': ({}, {}, threshold),
  'chord_phi': (
    {},
    {},
    lambda d, m: m * np.exp(d['logps']) * (1 - np.exp(d['logps'])),
  ),
  'high_entropy': ({}, {}, lambda d, m: batch_top(d['entropy'], m, 0.2)),
  'prefix_only': ({}, {'length': 2}, prefix_only),
  'talr': ({}, {}, talr),
  'talr_floor': ({}, {}, talr_floor),
  'easy_rows': ({}, {}, easy_rows),
  'reward_weighted': (
    {'scores': 'correct'},
    {'temperature': 0.4},
    lambda d, m: by_row(
      lambda r: np.full(len(r['logps']), math.exp(r['correct'] / 0.4)), d, m
    ),
  ),
  'srft_entropy': (
    {},
    {},
    lambda d, m: by_row(lambda r: 0.5 * np.exp(-r['entropy'].mean()), d, m),
  ),
  'srft_rollouts': ({'correct': 'correct'}, {}, srft_rollouts),
  'rho1': (
    {},
    {'scope': 'sequence'},
    lambda d, m: renormalised(
      by_row(lambda r: row_top(r['ref'] - r['logps'], 0.6), d, m), m
    ),
  ),
  'token_cleaning': (
    {'base_logps': 'other'},
    {},
    lambda d, m: renormalised(batch_top(d['ref'] - d['other'], m, 0.6), m),
  ),
  # Half of each: the score is twice the mean of gain and attention.
  'ss_token': (
    {'history_logps': 'other', 'prompt_attention': 'attention'},
    {},
    ss_token,
  ),
  'critical_tokens': (
    {'critical': 'marks'},
    {},
    lambda d, m: renormalised(m * d['marks'], m),
  ),
  'shad': ({'shuffled_logps': 'other', 'base_logps': 'old'}, {}, shad),
  'fait': (
    {
      'changed': 'marks',
      'wrong_logps': 'other',
      'wrong_changed': 'marks',
    },
    {},
    fait,
  ),
  'key_tokens': ({'keys': 'marks'}, {}, key_tokens),
  'q_tuning': ({}, {}, q_tuning),
}


def test_every_weight_has_a_second_implementation():
  assert set(CASES) == set(token_weights.__all__)


@pytest.mark.parametrize('name', token_weights.__all__)
def test_matches_numpy(name):
  extra, hparams, second = CASES[name]
  with jax.enable_x64(True):

    @jax.jit
    def run(data, mask):
      record = TokenSignals(
        logps=data['logps'], entropy=data['entropy'], ref_logps=data['ref']
      )
      arrays = {array: data[key] for array, key in extra.items()}
      return getattr(token_weights, name)(record, mask, **arrays, **hparams)

    for seed in range(4):
      data, mask = make(seed)
      arrays = data | {'attention': -data['old']}
      ours = np.asarray(run(jax.tree.map(jnp.asarray, arrays), mask))
      np.testing.assert_allclose(ours, second(data, mask), atol=1e-10)
