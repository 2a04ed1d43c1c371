"""`Levels`: accuracy on each level of a family of problems, in one program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks.mixture import Mixture

__all__ = ['Levels']


@dataclasses.dataclass(frozen=True)
class Levels:
  """Probe: answers to as many problems of each task of a mixture.

  task   its weights are not looked at
  each   problems of each level
  part   'test' or 'validation'

  One answer to each problem, drawn at `temperature`.

  accuracy           [levels] share of right answers
  accuracy/problems  [levels, each] what these are means of
  """

  model: ModelConfig
  task: Mixture
  each: int
  heldout_fraction: float
  temperature: float
  part: str

  def problems(self, key: Array) -> Example:
    """The problems [levels * each, ...] that `key` stands for, by level."""
    count = len(self.task.tasks)
    found = []
    for level in range(count):
      weights = tuple(float(level == other) for other in range(count))
      found.append(
        in_graph.problems(
          dataclasses.replace(self.task, weights=weights),
          jax.random.fold_in(key, level), self.each, self.heldout_fraction,
          self.part,
        )
      )  # fmt: skip
    rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    ids = jnp.arange(count * self.each, dtype=rows.prompt_id.dtype)
    return rows.replace(prompt_id=ids)

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    draw = functools.partial(decoders.sample, temperature=self.temperature)
    _, rewards = in_graph.generate_and_verify(
      params, self.model, self.task, self.problems(key),
      jax.random.fold_in(key, len(self.task.tasks)), group_size=1, decoder=draw,
    )  # fmt: skip
    right = rewards[:, 0].reshape(-1, self.each)
    return {'accuracy': jnp.mean(right, axis=1), 'accuracy/problems': right}
