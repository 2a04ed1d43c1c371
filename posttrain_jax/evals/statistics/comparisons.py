"""Intervals and tests for one number a seed: paired, unpaired, and several.

Everything is on the host and in float64. The seed is the independent unit,
never the problem.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

EXACT_SEEDS = 14  # 2^14 sign vectors
# Relative; values come from float32 programs, whose sums round differently.
ROUNDING = 1e-6

Values = Sequence[float] | np.ndarray | Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean over `count` seeds and its confidence interval [low, high]."""

  mean: float
  low: float
  high: float
  count: int

  def __str__(self) -> str:
    return f'{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]'


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One arm against another.

  difference   mean of the first minus the second; its count is `count`
  p_value      two-sided
  p_greater    one-sided: small where the first is greater
  p_less       one-sided: small where the first is less
  effect_size  Cohen's d: the difference in standard deviations (of the paired
               differences, or pooled over the arms). Where these have no spread
               it is 0 without a difference, else +-inf; with too few seeds for
               a spread it is nan
  wins         pairs of seeds in which the first is greater (ties are none)
  count        pairs of seeds; unpaired: every seed with every other
  """

  difference: Interval
  p_value: float
  p_greater: float
  p_less: float
  effect_size: float
  wins: int
  count: int


def interval(
  values: Sequence[float] | np.ndarray,
  confidence: float = 0.95,
  resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Bootstrap interval of a mean over seeds.

  Bias-corrected and accelerated (BCa); the percentile interval where that is
  not defined. Equal values give an interval of no width, one value gives nan
  as both ends.

  Reference: Efron (1987), https://doi.org/10.1080/01621459.1987.10478410

  Args:
    values: [N], one a seed, N >= 1.
    confidence: between 0 and 1.
    resamples: resampled means.
    seed: of the resampling.

  Raises:
    ValueError: values is empty, no vector or not finite; confidence out of
      range.
  """
  values = _vector('values', values)
  return _bootstrap((values,), lambda x, axis: np.mean(x, axis=axis),
                    confidence, resamples, seed)  # fmt: skip


def paired(
  a: Values,
  b: Values,
  confidence: float = 0.95,
  resamples: int = 10_000,
  seed: int = 0,
) -> Comparison:
  """Compares two arms seed by seed: sign-flip test and bootstrap interval.

  The p-values are the share of all 2^N ways of swapping the two arms within
  seeds whose mean difference is at least as extreme: exact for N <= 14, else
  over `resamples` random ways (and the one observed). Differences below 1e-6 of
  the values are rounding, and count as none.

  Reference: Fisher (1935), The Design of Experiments, section 21; Phipson &
  Smyth (2010), https://doi.org/10.2202/1544-6115.1585, for the Monte Carlo form

  Args:
    a, b: [N] in the order of the same seeds, or {seed: value}.
    confidence: of the interval of the difference.
    resamples: of the interval, and of the test above 14 seeds.
    seed: of the resampling.

  Raises:
    ValueError: different seeds, or a value that is not finite; the message
      names the seed.
  """
  a, b = _pairs(a, b)
  scale = np.maximum(np.abs(a), np.abs(b))
  d = np.where(np.abs(a - b) <= ROUNDING * scale, 0.0, a - b)
  difference = _bootstrap((d,), lambda x, axis: np.mean(x, axis=axis),
                          confidence, resamples, seed)  # fmt: skip
  sums = _flipped_sums(d, resamples, seed)
  spread = np.std(d, ddof=1) if d.size > 1 else math.nan
  return Comparison(
    difference,
    *_p_values(sums, d.sum(), d.size > EXACT_SEEDS, np.abs(d).sum()),
    effect_size=_cohen(difference.mean, spread, scale.max()),
    wins=int(np.sum(d > 0)),
    count=d.size,
  )


def unpaired(
  a: Sequence[float] | np.ndarray,
  b: Sequence[float] | np.ndarray,
  confidence: float = 0.95,
  resamples: int = 10_000,
  seed: int = 0,
) -> Comparison:
  """Compares two arms whose seeds have nothing to do with each other.

  A permutation test of Welch's t, which unlike that of the plain difference
  stays right where the arms' spreads differ and there are many seeds. Exact
  where at most 2^14 splits of the seeds into two arms exist. `difference.count`
  is the smaller arm's number of seeds.

  Reference: Janssen (1997), https://doi.org/10.1016/S0167-7152(97)00043-6

  Args:
    a, b: [N] and [M], at least two each.
    confidence, resamples, seed: as in `paired`.

  Raises:
    ValueError: fewer than two values, or one that is not finite.
  """
  a, b = _vector('a', a), _vector('b', b)
  if min(a.size, b.size) < 2:
    raise ValueError(
      f'arms of {a.size} and {b.size} seeds have no spread to compare with; '
      'nearest valid: 2 each'
    )
  gap = lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis)
  difference = _bootstrap((a, b), gap, confidence, resamples, seed)
  everyone = np.concatenate([a, b])
  scale = np.abs(everyone).max()
  observed = _welch(everyone[None], a.size, scale)[0]
  splits, sampled = _splits(everyone.size, a.size, resamples, seed)
  statistics = _welch(everyone[splits], a.size, scale)
  pooled = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
  return Comparison(
    difference,
    *_p_values(statistics, observed, sampled, 1.0 + abs(observed)),
    effect_size=_cohen(difference.mean, pooled, scale),
    wins=int(np.sum(a[:, None] > b[None])),
    count=a.size * b.size,
  )


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
  """P-values adjusted for being several, in the order given.

  Rejecting those <= alpha has a chance of at most alpha to reject any true
  null hypothesis, however the tests depend on each other.

  Reference: Holm (1979), https://www.jstor.org/stable/4615733

  Raises:
    ValueError: a p-value is not between 0 and 1.
  """
  p = np.asarray(p_values, np.float64)
  for index, value in enumerate(p):
    if not 0.0 <= value <= 1.0:
      raise ValueError(f'p_values[{index}]={value} is not between 0 and 1')
  order = np.argsort(p, kind='stable')
  steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
  adjusted = np.empty_like(p)
  adjusted[order] = np.minimum(steps, 1.0)
  return adjusted.tolist()


def _vector(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(f'{name} must be a non-empty vector, not {values.shape}')
  for index, value in enumerate(values):
    if not math.isfinite(value):
      raise ValueError(
        f'{name} of seed {index} is {value}, not a finite number'
      )
  return values


def _pairs(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
  """Both arms' values in the order of the same seeds."""
  named = isinstance(a, Mapping), isinstance(b, Mapping)
  if all(named):
    for seed in sorted(a.keys() ^ b.keys()):
      arm = 'b' if seed in a else 'a'
      raise ValueError(f'seed {seed} is missing in arm {arm}')
    seeds = sorted(a)
    a, b = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
  elif any(named):
    raise ValueError('one arm names its seeds and the other does not')
  else:
    if len(a) != len(b):
      arm = 'a' if len(a) < len(b) else 'b'
      raise ValueError(
        f'arms have {len(a)} and {len(b)} values: seed {min(len(a), len(b))} '
        f'is missing in arm {arm}'
      )
    seeds = range(len(a))
  for arm, values in (('a', a), ('b', b)):
    for seed, value in zip(seeds, values):
      if not math.isfinite(value):
        raise ValueError(f'arm {arm} of seed {seed} is {value}, not finite')
  return _vector('a', a), _vector('b', b)


def _bootstrap(
  samples: tuple[np.ndarray, ...],
  statistic: Callable,
  confidence: float,
  resamples: int,
  seed: int,
) -> Interval:
  if not 0.0 < confidence < 1.0:
    raise ValueError(
      f'confidence must be between 0 and 1 (0.95 is 95%), not {confidence}'
    )
  count = min(x.size for x in samples)
  mean = float(statistic(*samples, axis=-1))
  if count == 1:
    return Interval(mean, math.nan, math.nan, 1)
  if all(np.ptp(x) == 0 for x in samples):
    return Interval(mean, mean, mean, count)
  for method in ('BCa', 'percentile'):
    with warnings.catch_warnings():
      # Where BCa is not defined it says so by nan, and by a warning.
      warnings.simplefilter('ignore')
      found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // max(x.size for x in samples)),
        confidence_level=confidence,
        method=method,
        vectorized=True,
        rng=np.random.default_rng(seed),
      ).confidence_interval
    if np.isfinite(found.low) and np.isfinite(found.high):
      break
  return Interval(mean, float(found.low), float(found.high), count)


def _flipped_sums(d: np.ndarray, resamples: int, seed: int) -> np.ndarray:
  """Sums of d over sign vectors: all of them, or random ones."""
  if d.size <= EXACT_SEEDS:
    bits = np.arange(2**d.size)[:, None] >> np.arange(d.size)[None]
    return (1 - 2 * (bits & 1)) @ d
  rng = np.random.default_rng(seed)
  rows = max(1, 1_000_000 // d.size)
  parts = [
    rng.choice((-1.0, 1.0), (min(rows, resamples - start), d.size)) @ d
    for start in range(0, resamples, rows)
  ]
  return np.concatenate(parts)


def _splits(
  total: int, first: int, resamples: int, seed: int
) -> tuple[np.ndarray, bool]:
  """Orders [R, total] whose leading `first` are one arm; whether at random."""
  if math.comb(total, first) <= 2**EXACT_SEEDS:
    chosen = np.array(list(itertools.combinations(range(total), first)))
    inside = np.zeros((len(chosen), total), bool)
    np.put_along_axis(inside, chosen, True, axis=1)
    return np.argsort(~inside, axis=1, kind='stable'), False
  rng = np.random.default_rng(seed)
  orders = np.tile(np.arange(total), (resamples, 1))
  return rng.permuted(orders, axis=1), True


def _welch(values: np.ndarray, first: int, scale: float) -> np.ndarray:
  """Welch's t [R] of values [R, N + M], the leading `first` against others."""
  a, b = values[:, :first], values[:, first:]
  gap = a.mean(1) - b.mean(1)
  error = np.sqrt(a.var(1, ddof=1) / a.shape[1] + b.var(1, ddof=1) / b.shape[1])
  # Two arms of no spread: finite, and beyond every split that has some.
  return gap / np.maximum(error, max(1e-9 * scale, 1e-300))


def _p_values(
  found: np.ndarray, observed: float, sampled: bool, scale: float
) -> tuple[float, float, float]:
  """(two-sided, greater, less); equal up to rounding counts as extreme."""
  slack = 1e-9 * scale
  extreme = (
    np.abs(found) >= abs(observed) - slack,
    found >= observed - slack,
    found <= observed + slack,
  )
  # What was observed is one of the possible ways; random ones may miss it.
  extra = int(sampled)
  return tuple(
    float((np.sum(x) + extra) / (found.size + extra)) for x in extreme
  )


def _cohen(mean: float, spread: float, scale: float) -> float:
  if math.isnan(spread):
    return math.nan
  if spread <= ROUNDING * scale:
    return math.copysign(math.inf, mean) if mean else 0.0
  return float(mean / spread)
