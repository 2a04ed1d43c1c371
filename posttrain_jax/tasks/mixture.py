"""A weighted mixture of in-graph tasks, itself a task."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, split, vocab
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Draws the task of each problem by weight.

  tasks    the tasks, none of them in turns; two of one kind with different
           knobs are two tasks
  weights  one per task, not negative; only their proportions matter. An array
           [tasks] may be traced, and is not checked

  `Example.answer` is {'task': index, '<index>_<name>': that task's answer},
  with zeros in the answers of the tasks that were not drawn. Under `vmap` every
  task is computed for every row, so a batch costs what all of them cost.
  """

  tasks: tuple[Any, ...]
  weights: tuple[float, ...] | Array

  def __post_init__(self):
    base.check(len(self.tasks) > 0, 'mixture: tasks is empty')
    for name, task in zip(self.names, self.tasks):
      base.check(
        getattr(task, 'guide', None) is None,
        f'mixture: task "{name}" is played in turns, and the environment of a '
        'mixture would have to be that of all its tasks; give it a run alone',
      )
    base.check(
      len(self.weights) == len(self.tasks),
      f'mixture: {len(self.weights)} weights for {len(self.tasks)} tasks',
    )
    if isinstance(self.weights, jax.Array):
      return
    fine = all(math.isfinite(w) and w >= 0 for w in self.weights)
    base.check(
      fine and sum(self.weights) > 0,
      f'mixture: weights={self.weights} must be finite and not negative, and '
      'at least one positive',
    )

  @property
  def names(self) -> tuple[str, ...]:
    """'<index>_<name>' of each task: its key in `Example.answer`."""
    modules = [type(task).__module__.rsplit('.', 1)[-1] for task in self.tasks]
    return tuple(f'{i}_{module}' for i, module in enumerate(modules))

  @property
  def prompt_length(self) -> int:
    return max(task.prompt_length for task in self.tasks)

  @property
  def completion_length(self) -> int:
    return max(task.completion_length for task in self.tasks)

  def _index(self, key: Array) -> Array:
    """Which task a problem is of."""
    if isinstance(self.weights, jax.Array):
      return base.pick(key, self.weights)
    # Task i is drawn where the point falls into its part of the weights.
    ends = jnp.cumsum(jnp.array(self.weights, jnp.float32))
    point = jax.random.uniform(key) * ends[-1]
    last = max(i for i, weight in enumerate(self.weights) if weight > 0)
    return jnp.minimum(jnp.sum(ends <= point), last)

  def sample(self, key: Array) -> Example:
    task_key, problem_key = jax.random.split(key)
    index = self._index(task_key)
    shapes = [jax.eval_shape(task.sample, key).answer for task in self.tasks]

    def branch(i):
      def draw(key):
        example = self.tasks[i].sample(key)
        answers = {
          name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
          for name, shape in zip(self.names, shapes)
        }
        answers[self.names[i]] = example.answer
        size = self.prompt_length - example.prompt.shape[0]
        return example.replace(
          prompt=jnp.pad(example.prompt, (0, size)),
          prompt_mask=jnp.pad(example.prompt_mask, (0, size)),
          answer={'task': jnp.int32(i), **answers},
        )

      return draw

    branches = [branch(i) for i in range(len(self.tasks))]
    return jax.lax.switch(index, branches, problem_key)

  def _part(self, i: int, example: Example) -> Example:
    """The problem as task i knows it."""
    size = self.tasks[i].prompt_length
    return example.replace(
      prompt=example.prompt[:size],
      prompt_mask=example.prompt_mask[:size],
      answer=example.answer[self.names[i]],
    )

  def identity(self, example: Example) -> Array:
    """The drawn task's own identity: held out here is held out there."""
    parts = [
      lambda e, i=i, task=task: split.identity(task, self._part(i, e))
      for i, task in enumerate(self.tasks)
    ]
    width = max(jax.eval_shape(part, example).shape[0] for part in parts)

    def padded(part):
      def switch(e):
        values = part(e)
        fill = width - values.shape[0]
        return jnp.pad(values, (0, fill), constant_values=-1)

      return switch

    return jax.lax.switch(
      example.answer['task'], [padded(part) for part in parts], example
    )

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """The drawn task's verdict; components that it does not have are 0."""

    def verdict(i):
      return lambda: self.tasks[i].verify(
        self._part(i, example), completion, mask
      )

    count = len(self.tasks)
    components = {}
    for i in range(count):
      components |= jax.eval_shape(verdict(i))

    def branch(i):
      def full():
        zeros = {k: jnp.zeros(x.shape, x.dtype) for k, x in components.items()}
        return zeros | verdict(i)()

      return full

    branches = [branch(i) for i in range(count)]
    return jax.lax.switch(example.answer['task'], branches)

  def solve(self, example: Example, key: Array) -> Text:
    def branch(i):
      def text(key):
        solution = self.tasks[i].solve(self._part(i, example), key)
        return vocab.fit(solution, self.completion_length)

      return text

    branches = [branch(i) for i in range(len(self.tasks))]
    return jax.lax.switch(example.answer['task'], branches, key)
