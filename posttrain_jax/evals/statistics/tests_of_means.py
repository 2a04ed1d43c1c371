"""Tests of a mean against any bound, that few seeds do not tie to 1/2^n.

  one_sided     paired t: is the mean above a bound
  t_interval    the interval that belongs to it
  resampled     seeds and their problems drawn anew: is the mean above a bound
  smallest_shown  the true difference that a number of seeds could show

d is one difference a seed, or one a seed and problem.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from posttrain_jax.evals.statistics.comparisons import ROUNDING, Interval

__all__ = [
  'hierarchical_means',
  'one_sided',
  'resampled',
  'share_at_most',
  'smallest_shown',
  't_interval',
]

POWER = 0.8  # of `smallest_shown`


def _spread(d: np.ndarray, bound: float) -> float:
  """Standard deviation; 0 where it is rounding."""
  spread = float(np.std(d, ddof=1))
  scale = max(float(np.abs(d).max()), abs(bound))
  return 0.0 if spread <= ROUNDING * scale else spread


def one_sided(d: Sequence[float] | np.ndarray, bound: float) -> float:
  """p-value of 'the mean is at most `bound`': small where it is above.

  Student's paired t-test. Differences without any spread have no t; the share
  1/2^n of sign vectors that a sign test would give stands for it.

  Reference: Student (1908), https://doi.org/10.2307/2331554

  Args:
    d: [N] one difference a seed, N >= 2.
    bound: in the unit of d.

  Raises:
    ValueError: fewer than two differences.
  """
  d = np.asarray(d, np.float64)
  if d.size < 2:
    raise ValueError(f'{d.size} seeds have no spread; nearest valid: 2')
  spread, over = _spread(d, bound), float(np.mean(d)) - bound
  scale = max(float(np.abs(d).max()), abs(bound))
  if spread == 0.0:
    # A decimal margin that is met exactly is neither above nor below it.
    return 0.5**d.size if over > ROUNDING * scale else 1.0
  return float(stats.t.sf(over / (spread / math.sqrt(d.size)), d.size - 1))


def t_interval(
  d: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Interval:
  """Student's interval of a mean; nan as both ends where one value is all."""
  d = np.asarray(d, np.float64)
  mean = float(np.mean(d))
  if d.size < 2:
    return Interval(mean, math.nan, math.nan, int(d.size))
  error = _spread(d, 0.0) / math.sqrt(d.size)
  half = float(stats.t.ppf(0.5 + confidence / 2, d.size - 1)) * error
  return Interval(mean, mean - half, mean + half, int(d.size))


def hierarchical_means(
  d: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
  """[resamples] means of seeds drawn anew, and of each seed its problems.

  The problems of a seed are drawn anew every time that the seed is drawn; both
  arms keep the same ones, since d is their difference.

  Reference: Davison & Hinkley (1997), Bootstrap Methods and their Application,
  section 3.8

  Args:
    d: [S, N] differences by seed and problem.
    resamples: how many.
    seed: of the drawing.
  """
  d = np.asarray(d, np.float64)
  if d.ndim != 2 or not d.size:
    raise ValueError(f'd has seeds and problems [S, N], not {d.shape}')
  rng = np.random.default_rng(seed)
  seeds, problems = d.shape
  means = np.empty(resamples)
  rows = max(1, 4_000_000 // d.size)
  for start in range(0, resamples, rows):
    count = min(rows, resamples - start)
    drawn = rng.integers(seeds, size=(count, seeds, 1))
    of = rng.integers(problems, size=(count, seeds, problems))
    means[start : start + count] = d[drawn, of].mean((1, 2))
  return means


def resampled(
  d: np.ndarray, bound: float, resamples: int = 10_000, seed: int = 0
) -> float:
  """p-value of 'the mean is at most `bound`' by `hierarchical_means`."""
  return share_at_most(hierarchical_means(d, resamples, seed), bound)


def share_at_most(means: np.ndarray, bound: float) -> float:
  """The share of resampled means, and of the one observed, up to `bound`."""
  slack = 1e-9 * max(1.0, abs(bound))
  return float((np.sum(means <= bound + slack) + 1) / (means.size + 1))


def smallest_shown(
  spread: float, seeds: int, level: float, power: float = POWER
) -> float:
  """How far beyond a bound a true mean has to lie for `one_sided` to show it.

  Args:
    spread: standard deviation of the difference over seeds.
    seeds: how many there are.
    level: that p has to reach; alpha over the number of claims, since Holm's
      first step asks for that.
    power: chance to show it.

  Returns:
    In the unit of `spread`; inf below two seeds.

  Raises:
    ValueError: a spread below 0, a level or power outside (0, 1).
  """
  if spread < 0 or not 0 < level < 1 or not 0 < power < 1:
    raise ValueError(
      f'spread={spread}, level={level}, power={power}: a spread from 0 on, a '
      'level and a power between 0 and 1'
    )
  if seeds < 2:
    return math.inf
  if spread == 0:
    return 0.0
  limit = float(stats.t.isf(level, seeds - 1))
  short = lambda far: float(stats.nct.sf(limit, seeds - 1, far)) - power
  high = limit + 10.0
  while not short(high) >= 0:  # nan far out counts as not yet
    high *= 1.5
    if high > 1e6:
      return math.inf
  return float(optimize.brentq(short, 0.0, high)) * spread / math.sqrt(seeds)
