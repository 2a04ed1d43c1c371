"""Equal tuning: one grid for all arms, that grows for all where one asks.

found = tune({'sft': train_sft, 'grpo': train_grpo}, [3e-4, 1e-3, 3e-3], score)
found['sft'].chosen, found['sft'].tried[found['sft'].chosen]
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ['Tuned', 'best', 'check_equal', 'tune']


def best(
  tried: Mapping[Any, Any], score: Callable[[Any], Any], close: float = 0.0
) -> Any:
  """The key of what has the highest mean of `score` over seeds, a stage or what
  was measured of it; the first of equals, and of those that are up to `close`
  below it. One of which a seed failed (nan) comes last. An arm's tuning: score
  on validation problems."""

  def mean(key: Any) -> float:
    value = float(np.mean(score(tried[key])))
    return -math.inf if math.isnan(value) else value

  found = {key: mean(key) for key in tried}
  least = max(found.values()) - close
  return next(key for key, value in found.items() if value >= least)


@dataclasses.dataclass(frozen=True)
class Tuned:
  """What an arm tried, and which of it is taken.

  tried   {value of the grid: stage}
  chosen  the value with the best score
  edge    whether it is the first or last, though the grid has grown
  """

  tried: Mapping[float, Any]
  chosen: float
  edge: bool

  @property
  def entry(self) -> dict[str, Any]:
    """For `Arm.tuned`."""
    return {'grid': sorted(self.tried), 'chosen': self.chosen}


def tune(
  arms: Mapping[str, Callable[[float], Any]],
  grid: Sequence[float],
  score: Callable[[str, Any], Any],
  extend: int = 2,
  close: float = 0.0,
) -> dict[str, Tuned]:
  """Tries every value of the grid with every arm, and chooses for each.

  Where an arm's best is the first or last value, the grid goes on there by the
  ratio of its two outermost values, for all arms, so that all of them have the
  same tries; at most `extend` times at each end.

  Args:
    arms: {arm: value -> stage}.
    grid: positive, ascending, at least two values.
    score: (arm, stage) -> one number a seed; higher is better. By the rule that
      the study names before it runs, on validation problems.
    extend: how often the grid may grow at each end.
    close: a score that is so little below the best is as good, and the lowest
      of such values is taken: where scores level off, the edge of a grid is
      else chosen by noise.

  Raises:
    ValueError: a grid that is not as said, no arms, `close` below 0.
  """
  values = list(grid)
  rising = all(a < b for a, b in zip(values, values[1:]))
  if len(values) < 2 or values[0] <= 0 or not rising:
    raise ValueError(f'grid {values}: at least two positive values, ascending')
  if not 0 <= close < math.inf:
    raise ValueError(f'close={close} is no finite number >= 0')
  if not arms:
    raise ValueError('no arms to tune')
  tried: dict[str, dict[float, Any]] = {arm: {} for arm in arms}
  left = {'low': extend, 'high': extend}
  while True:
    for arm, make in arms.items():
      for value in values:
        if value not in tried[arm]:
          tried[arm][value] = make(value)
    chosen = {
      arm: best(
        {value: tried[arm][value] for value in values},
        lambda stage, arm=arm: score(arm, stage),
        close,
      )
      for arm in arms
    }
    more = False
    if values[0] in chosen.values() and left['low']:
      left['low'] -= 1
      values, more = [_next(values[1], values[0]), *values], True
    if values[-1] in chosen.values() and left['high']:
      left['high'] -= 1
      values, more = [*values, _next(values[-2], values[-1])], True
    if not more:
      break
  return {
    arm: Tuned(tried[arm], chosen[arm], chosen[arm] in (values[0], values[-1]))
    for arm in arms
  }


def _next(before: float, last: float) -> float:
  """The value after `last`, in two digits as people write grids."""
  value = last * last / before
  return round(value, 1 - math.floor(math.log10(value)))


def check_equal(arms: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises ValueError where arms tune the same key with more or fewer tries.

  arms  as in results.json
  """
  tries: dict[str, dict[int, str]] = {}
  for name, arm in arms.items():
    for key, tuned in (arm.get('tuned') or {}).items():
      tries.setdefault(key, {}).setdefault(len(tuned['grid']), name)
  for key, found in tries.items():
    if len(found) > 1:
      shown = ', '.join(f'{n} values for "{arm}"' for n, arm in found.items())
      raise ValueError(
        f'{key} is not tuned alike: {shown}; every arm has the same number of '
        'tries'
      )
