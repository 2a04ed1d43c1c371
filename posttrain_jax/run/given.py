"""What the last steps were given, for the record of one that fails."""

from typing import Any

import numpy as np
from flax import traverse_util

from posttrain_jax.core import hosts

__all__ = ['Given', 'tree']

# The loop looks at a step's metrics when the next one is on its way.
LOOKED_BACK = 2


class Given:
  """The last few trees that were put here, by their step."""

  def __init__(self):
    self._steps: dict[int, Any] = {}

  def put(self, step: int, given: dict[str, Any]) -> None:
    """Takes the tree of a step; forgets those that nothing asks for."""
    self._steps[step] = given
    for old in [s for s in self._steps if s <= step - LOOKED_BACK]:
      del self._steps[old]

  def get(self, step: int) -> dict[str, np.ndarray]:
    """The tree of a step, {'a/b': array}; all processes have to ask for it."""
    flat = traverse_util.flatten_dict(self._steps.get(step, {}), sep='/')
    return {name: hosts.whole(flat[name]) for name in sorted(flat)}


def tree(given: dict[str, np.ndarray]) -> dict[str, Any]:
  """The nested dict of what `Given.get` gives."""
  return traverse_util.unflatten_dict(given, sep='/')
