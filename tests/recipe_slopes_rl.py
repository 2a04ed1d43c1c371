"""Slopes of a form of RL, by central differences."""

import numpy as np
from recipe_answers_rl import Tables

__all__ = ['directions', 'slopes']


def directions(shape: tuple[int, ...]) -> list[np.ndarray]:
  """Random ones: through all rows, and through one row each.

  A gradient that is wrong anywhere is wrong along a random direction; those of
  one row say where.
  """
  rng = np.random.default_rng(11)
  everywhere = [rng.standard_normal(shape) for _ in range(4)]
  alone = []
  for row in range(shape[0]):
    one = np.zeros(shape)
    one[row] = rng.standard_normal(shape[1:])
    alone.append(one)
  return everywhere + alone


def slopes(form, real, size: float = 1e-6) -> np.ndarray:
  """The form's slope along each of the directions, by central differences.

  real  what a recipe's own objective gave: `recipe_harness_rl.Real`
  """
  states = real.live.states

  def at(direction, step):
    moved = Tables(states + step * direction)
    return form.value(moved, real.live, real.data)

  return np.array(
    [
      (at(x, size) - at(x, -size)) / (2 * size)
      for x in directions(states.shape)
    ]
  )
