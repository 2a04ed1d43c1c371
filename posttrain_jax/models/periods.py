"""Layers that repeat: a loop over them compiles each different one once.

The layers of most models are alike. Those of others come in a pattern (Gemma's
windows), and a few may stand before it (a first layer without experts) or after
its last whole repetition.
"""

from typing import NamedTuple

import jax

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.parameters import holders

__all__ = ['Period', 'layer_of', 'place_in', 'repeated']


class Period(NamedTuple):
  """Layers first .. first + size - 1, which come `times` times in a row."""

  first: int
  size: int
  times: int

  @property
  def end(self) -> int:
    """The first layer after all of them."""
    return self.first + self.size * self.times


def repeated(config: ModelConfig) -> Period:
  """The period that leaves the fewest layers to compile; the shortest one."""
  count = config.num_layers
  word = [
    (config.kind(i), config.rope_kind(i), config.sparse(i))
    for i in range(count)
  ]
  best, least = Period(0, count, 1), count
  for size in range(1, count // 2 + 1):
    for first in range(count - 2 * size + 1):
      if first + size >= least:
        break
      end = first + size
      while end < count and word[end] == word[end - size]:
        end += 1
      times = (end - first) // size
      compiled = count - (times - 1) * size
      if compiled < least:
        best, least = Period(first, size, times), compiled
  return best


def place_in(
  stack: tuple[int, ...], layer: int, period: Period, turn: Array | int
) -> Array | int:
  """Where a stack has the layer that comes `turn` periods after `layer`.

  stack  the layers that a stack has, in its order; `layer` is one of them
  """
  inside = range(period.first, period.first + period.size)
  return stack.index(layer) + turn * sum(i in inside for i in stack)


def layer_of(
  stacks: dict[str, PyTree],
  layer: int,
  period: Period,
  turn: Array | int,
  config: ModelConfig,
) -> dict[str, PyTree]:
  """The parameters of the layer `turn` periods after `layer`, of all stacks."""
  made = {}
  for name, stack in stacks.items():
    there = holders(name, config)
    if layer in there:
      at = place_in(there, layer, period, turn)
      made[name] = jax.tree.map(
        lambda w, at=at: jax.lax.dynamic_index_in_dim(w, at, 0, False), stack
      )
  return made
