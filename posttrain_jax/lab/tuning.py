"""Equal tuning: one grid for all arms, that grows for all where one asks.

found = tune({'sft': train_sft, 'grpo': train_grpo}, [3e-4, 1e-3, 3e-3], score)
found['sft'].chosen, found['sft'].tried[found['sft'].chosen]

`tune_together` does the same where an arm has several numbers to choose,
`tune_cells` where several values train side by side in one program.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.lab.cells import Cells

__all__ = [
  'Together',
  'Tuned',
  'best',
  'check_equal',
  'tune',
  'tune_cells',
  'tune_together',
]


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
  made = {
    arm: lambda values, make=make: make(values['value'])
    for arm, make in arms.items()
  }
  found = tune_together(made, {'value': grid}, score, extend, close)
  return {
    arm: Tuned(
      {cell[0]: stage for cell, stage in x.tried.items()},
      x.chosen['value'],
      bool(x.edges),
    )
    for arm, x in found.items()
  }


def tune_cells(
  arms: Mapping[str, Cells],
  key: str,
  grid: Sequence[float],
  extend: int = 2,
  close: float = 0.0,
) -> dict[str, Tuned]:
  """`tune` of the number `key`, by the arms' own scores; several values of an
  arm train side by side. What was tried are cells: `arms[arm].score(cell)`."""
  return tune(
    {
      arm: lambda value, cells=cells: cells.add({key: value})
      for arm, cells in arms.items()
    },
    grid,
    lambda arm, cell: arms[arm].score(cell),
    extend,
    close,
  )


@dataclasses.dataclass(frozen=True)
class Together:
  """What an arm tried of several grids, and which cell of them is taken.

  grids   {name: values, ascending}, as they have grown
  tried   {one value of each grid, in their order: stage}
  chosen  {name: value} of the cell with the best score
  edges   names whose chosen value is the first or last of its grid
  """

  grids: Mapping[str, tuple[float, ...]]
  tried: Mapping[tuple[float, ...], Any]
  chosen: Mapping[str, float]
  edges: tuple[str, ...]

  @property
  def stage(self) -> Any:
    """The stage of the chosen cell."""
    return self.tried[tuple(self.chosen[name] for name in self.grids)]

  def entry(self, name: str) -> dict[str, Any]:
    """Of one grid, for `Arm.tuned`."""
    return {'grid': list(self.grids[name]), 'chosen': self.chosen[name]}


def tune_together(
  arms: Mapping[str, Callable[[dict[str, float]], Any]],
  grids: Mapping[str, Sequence[float]],
  score: Callable[[str, Any], Any],
  extend: int = 2,
  close: float = 0.0,
) -> dict[str, Together]:
  """`tune` of several numbers: every cell of their grids with every arm.

  Each grid grows as the one of `tune` does, for all arms.

  Args:
    arms: {arm: {name: value} -> stage}.
    grids: {name: positive values, ascending, at least two}.
    score: (arm, stage) -> one number a seed; higher is better.
    extend: how often a grid may grow at each end.
    close: as of `tune`; of cells that are as good the first is taken, in the
      order of the grids.

  Raises:
    ValueError: a grid that is not as said, no grids, no arms, `close` below 0.
  """
  values = {name: list(grid) for name, grid in grids.items()}
  if not values:
    raise ValueError('no grids to tune')
  for name, grid in values.items():
    rising = all(a < b for a, b in zip(grid, grid[1:]))
    if len(grid) < 2 or grid[0] <= 0 or not rising:
      whose = f'grid {grid}' if name == 'value' else f'grid {grid} of "{name}"'
      raise ValueError(f'{whose}: at least two positive values, ascending')
  if not 0 <= close < math.inf:
    raise ValueError(f'close={close} is no finite number >= 0')
  if not arms:
    raise ValueError('no arms to tune')
  tried: dict[str, dict[tuple, Any]] = {arm: {} for arm in arms}
  left = {(name, end): extend for name in values for end in (0, -1)}
  while True:
    for arm, make in arms.items():
      for cell in itertools.product(*values.values()):
        if cell not in tried[arm]:
          tried[arm][cell] = make(dict(zip(values, cell)))
    # In the order of the grids: the first of equals is the lowest.
    chosen = {
      arm: dict(zip(values, best(
        dict(sorted(own.items())),
        lambda stage, arm=arm: score(arm, stage),
        close,
      )))
      for arm, own in tried.items()
    }  # fmt: skip
    grown = _grown(values, list(chosen.values()), left)
    if not grown:
      break
    values = grown
  kept = {name: tuple(grid) for name, grid in values.items()}
  return {
    arm: Together(
      kept,
      tried[arm],
      own,
      tuple(x for x in kept if own[x] in (kept[x][0], kept[x][-1])),
    )
    for arm, own in chosen.items()
  }


def _grown(
  values: Mapping[str, list[float]],
  chosen: Sequence[Mapping[str, float]],
  left: dict[tuple[str, int], int],
) -> dict[str, list[float]]:
  """The grids with a value more at each end where an arm's best is and that may
  still grow, which is counted in `left`; {} where none has one."""
  grown, more = {}, False
  for name, grid in values.items():
    taken = {own[name] for own in chosen}
    longer = list(grid)
    if grid[0] in taken and left[name, 0]:
      left[name, 0] -= 1
      longer, more = [_next(grid[1], grid[0]), *longer], True
    if grid[-1] in taken and left[name, -1]:
      left[name, -1] -= 1
      longer, more = [*longer, _next(grid[-2], grid[-1])], True
    grown[name] = longer
  return grown if more else {}


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
