"""Frontiers, intervals and the fixed sentences of the quickstart: pure NumPy.

Everything is in percentage points. A mean and its 95% interval are Student's t
over the seeds (`evals.statistics.t_interval`). Each seed has its own training
problems, samples and test problems, so the interval covers all three; the base
model is one and the same, so it says nothing about other base models.
'Clearly' is a mean difference of CLEAR points or more whose interval lies above
0.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain_jax.evals.statistics import Interval, t_interval

__all__ = ['CLEAR', 'Statement', 'chosen', 'front', 'kept_at', 'statements']

CLEAR = 5.0

# Rows of (accuracy, retention), one for each rate, of one seed.
Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Statement:
  """A sentence that was fixed before any run, and whether it holds.

  difference  in percentage points, with its 95% interval
  """

  text: str
  holds: bool
  difference: Interval


def chosen(validation: Mapping[float, np.ndarray]) -> float:
  """The rate with the best mean over seeds of {rate: [S] accuracy on the
  validation problems}; the lowest of equals."""
  means = {rate: float(np.mean(x)) for rate, x in validation.items()}
  return max(sorted(means), key=means.__getitem__)


def front(points: Points) -> np.ndarray:
  """[F, 2] points that no other one beats in both, by rising accuracy."""
  kept: list[tuple[float, float]] = []
  for point in sorted(set(points), key=lambda p: (-p[0], -p[1])):
    if not kept or point[1] > kept[-1][1]:
      kept.append(point)
  return np.array(kept[::-1])


def kept_at(points: Points, level: float) -> float:
  """Retention at an accuracy on the new task, read off the front.

  Between two points of the front it is on the line that joins them; below the
  first, that of the first. nan above the last: it was not reached.
  """
  found = front(points)
  if level > found[-1, 0] + 1e-9:
    return float('nan')
  return float(np.interp(level, found[:, 0], found[:, 1]))


def matched(
  arm: Sequence[Points], other: Sequence[Points]
) -> tuple[np.ndarray, np.ndarray]:
  """(level, difference) [S] each: how much more of the old tasks `arm` keeps.

  The level of a seed is the accuracy that both reach: the best of `other`, or
  of `arm` where that is lower.
  """
  best = lambda points: max(accuracy for accuracy, _ in points)
  levels = np.array([min(best(a), best(b)) for a, b in zip(arm, other)])
  differences = [
    kept_at(a, level) - kept_at(b, level)
    for a, b, level in zip(arm, other, levels)
  ]
  return levels, np.array(differences)


def clearly(differences: np.ndarray) -> tuple[bool, Interval]:
  """Whether a mean of differences [S], in points, is clearly above 0."""
  interval = t_interval(differences)
  return interval.mean >= CLEAR and interval.low > 0, interval


def statements(
  base: np.ndarray,
  accuracy: Mapping[str, np.ndarray],
  fronts: Mapping[str, Sequence[Points]],
) -> list[Statement]:
  """The sentences, judged.

  Args:
    base: [S] accuracy of the base model, in %.
    accuracy: {arm: [S] accuracy at its chosen rate}, in %.
    fronts: {arm: for each seed the points of all rates}, in %.
  """
  gained, gain = clearly(accuracy['grpo'] - base)
  _, more = matched(fronts['grpo'], fronts['sft'])
  keeps, kept = clearly(more)
  return [
    Statement(
      'GRPO stands clearly above the base model on the new task.', gained, gain
    ),
    Statement(
      'At the same accuracy on the new task, GRPO keeps clearly more of the '
      'old tasks than SFT.',
      keeps,
      kept,
    ),
  ]
