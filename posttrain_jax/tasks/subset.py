"""A limited number of a task's problems, as a data set of that size would be.

  train = Subset(task, count=100, fraction=0.125)

Problem i of the set is the same in every run of one seed, and so is its
demonstration: the oracle's randomness comes from the problem, not from the
step. Nothing is stored; a problem is drawn again from its number.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.keys import seed_key
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, split
from posttrain_jax.tasks.vocab import Text

__all__ = ['Subset']


@dataclasses.dataclass(frozen=True)
class Subset:
  """`count` training problems of a task, drawn evenly, with repetition.

  task      the task that they are of; it judges the answers
  count     how many; two of them may be equal where the task has few problems;
            may be traced, and is then not checked
  seed      which ones; may be traced (sweeps)
  fraction  share of all problems that is held out of them
  """

  task: Any
  count: int | Array
  seed: int | Array = 0
  fraction: float = 0.0

  def __post_init__(self):
    if not isinstance(self.count, jax.core.Tracer):
      base.check(self.count >= 1, f'problems.count={self.count} is below 1')

  def __getattr__(self, name: str) -> Any:
    # Sizes, verifier, environment and the rest are the task's own.
    if name.startswith('__') or name == 'task':
      raise AttributeError(name)
    return getattr(self.task, name)

  def _seed_key(self) -> Array:
    seed = self.seed
    if isinstance(seed, jax.core.Tracer):  # a sweep traces floats
      seed = seed.astype(jnp.uint32)
    return seed_key(seed)

  def problem(self, index: Array | int) -> Example:
    """Problem 0 <= index < count."""
    key = jax.random.fold_in(self._seed_key(), index)
    return split.sample(self.task, key, heldout=False, fraction=self.fraction)

  def sample(self, key: Array) -> Example:
    count = jnp.asarray(self.count, jnp.int32)
    return self.problem(jax.random.randint(key, (), 0, count))

  def solve(self, example: Example, key: Array) -> Text:
    """The demonstration that belongs to the problem, whatever the key."""
    del key
    word = split.fingerprint(split.identity(self.task, example))
    own = jax.random.fold_in(self._seed_key(), word)
    return self.task.solve(example, own)
