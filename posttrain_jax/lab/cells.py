"""Cells of a grid that train side by side, as rows of one program: `Cells`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ['Cell', 'Cells']

# Of a grid: its (key, value) pairs.
Cell = tuple[tuple[str, float], ...]


class Cells:
  """Cells of a grid, several of them side by side in one program.

  A lab of `places` times as many seeds as a cell has trains them: with as many
  as the runs that follow, it takes their compiled programs (`Lab.beside`).

    cells = lab.Cells(train, score, places=4, seeds=2)
    lab.tune({'sft': lambda rate: cells.add({RATE: rate})}, grid,
             lambda arm, cell: cells.score(cell))

  train   {key: one number a row} -> a stage; a row is a cell's seed
  score   of such a stage, one number a row
  places  cells that one program takes
  seeds   of each
  """

  def __init__(
    self,
    train: Callable[[dict[str, list[float]]], Any],
    score: Callable[[Any], np.ndarray],
    places: int,
    seeds: int,
  ):
    self._train, self._score = train, score
    self._places, self._seeds = places, seeds
    self._waiting: list[Cell] = []
    self._found: dict[Cell, np.ndarray] = {}

  def add(self, values: Mapping[str, float]) -> Cell:
    """Has a cell trained with the next ones."""
    cell = tuple(sorted(values.items()))
    if cell not in self._found and cell not in self._waiting:
      self._waiting.append(cell)
    return cell

  def score(self, cell: Cell) -> np.ndarray:
    """[seeds] of a cell; trains those that wait, where it is one of them.

    Raises:
      ValueError: a cell that was not added.
    """
    if cell not in self._found and cell not in self._waiting:
      raise ValueError(f'cell {dict(cell)} was not added, so it is not trained')
    while cell not in self._found:
      now = self._waiting[: self._places]
      del self._waiting[: self._places]
      rows = now + [now[-1]] * (self._places - len(now))
      values = {
        key: [dict(row)[key] for row in rows for _ in range(self._seeds)]
        for key in dict(cell)
      }
      scores = np.asarray(self._score(self._train(values)))
      self._found |= zip(now, scores.reshape(self._places, self._seeds))
    return self._found[cell]
