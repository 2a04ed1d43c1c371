"""What is kept against what was gained, along all rates and steps of an arm.

An arm is a cloud of points [P]: one for each learning rate and snapshot, and
the base, which has gained nothing. Its frontier is the upper concave hull of
the cloud. It is found on validation problems; what is reported is measured on
test problems of the same points, so that a lucky point earns nothing.
"""

import dataclasses

import numpy as np

__all__ = ['Point', 'hull', 'mixed', 'rank_correlation', 'weights_at']


@dataclasses.dataclass(frozen=True)
class Point:
  """One model of an arm, of all seeds S.

  name   'rate, step'
  new    {'test' or 'validation': [S, N] right answers on the new task}
  kept   the same on the base tasks
  """

  name: str
  new: dict[str, np.ndarray]
  kept: dict[str, np.ndarray]

  def gain(self, base: 'Point', part: str) -> np.ndarray:
    """[S] points gained on the new task."""
    return 100.0 * (self.new[part].mean(1) - base.new[part].mean(1))

  def retention(self, part: str) -> np.ndarray:
    """[S] accuracy on the base tasks, in %."""
    return 100.0 * self.kept[part].mean(1)


def hull(gain: np.ndarray, kept: np.ndarray) -> list[int]:
  """Indices of the upper concave hull, by gain: from point 0, the base, to the
  point that gained most. Points that gained nothing are left out."""
  order = [0, *sorted(
    (i for i in range(1, len(gain)) if gain[i] > gain[0]),
    key=lambda i: (gain[i], kept[i]),
  )]  # fmt: skip
  found: list[int] = []
  for i in order:
    while found and gain[found[-1]] == gain[i]:
      found.pop()  # as far with less kept
    while len(found) > 1:
      a, b = found[-2:]
      run, rise = gain[b] - gain[a], kept[b] - kept[a]
      if rise * (gain[i] - gain[a]) > (kept[i] - kept[a]) * run:
        break
      found.pop()
    found.append(i)
  return found


def weights_at(gain: np.ndarray, kept: np.ndarray, at: float) -> np.ndarray:
  """[P] shares, of sum 1, of the two hull points around a gain; where no point
  gets there, all of the one that gained most."""
  corners = hull(gain, kept)
  shares = np.zeros(len(gain))
  for a, b in zip(corners, corners[1:]):
    if gain[a] <= at <= gain[b]:
      share = (at - gain[a]) / (gain[b] - gain[a])
      shares[a], shares[b] = 1.0 - share, share
      return shares
  shares[corners[-1]] = 1.0
  return shares


def mixed(points: list[Point], at: float) -> dict[str, np.ndarray]:
  """An arm at a gain of `at` points; `points` begin with the base.

  Returns {'kept': [S, N] right answers on the base tasks, interpolated between
  the two points that validation problems say, 'gain': [S] that it is on test
  problems, 'most': [S] gain of the point that gained most}.
  """
  base = points[0]
  means = lambda part, of: np.array([of(x, part).mean() for x in points])
  gain = means('validation', lambda x, part: x.gain(base, part))
  kept = means('validation', lambda x, part: x.retention(part))
  shares = weights_at(gain, kept, at)
  most = points[int(np.argmax(gain))]
  return {
    'kept': sum(w * x.kept['test'] for w, x in zip(shares, points) if w),
    'gain': sum(w * x.gain(base, 'test') for w, x in zip(shares, points)),
    'most': most.gain(base, 'test'),
  }


def _ranks(x: np.ndarray) -> np.ndarray:
  """Places 1..n; equal numbers share the mean of theirs."""
  _, place, count = np.unique(x, return_inverse=True, return_counts=True)
  last = np.cumsum(count)
  return (last - 0.5 * (count - 1))[place]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Spearman's; nan where one of them is constant."""
  a, b = _ranks(np.asarray(x)), _ranks(np.asarray(y))
  a, b = a - a.mean(), b - b.mean()
  size = float(np.sqrt((a @ a) * (b @ b)))
  return float(a @ b) / size if size else float('nan')
