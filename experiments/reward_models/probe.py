"""What a policy writes: right or not, and what it has of a verdict's parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders

__all__ = ['Parts']


@dataclasses.dataclass(frozen=True)
class Parts(in_graph.HeldOut):
  """Probe: one answer at temperature 1 to each of N held-out problems.

  parts  names of what the verdict says besides
  part   'test' or 'validation': halves that have no problem in common

  right   share of right answers; right/problems [N] of which it is the mean
  a part  its mean
  length  tokens of an answer
  """

  model: ModelConfig
  task: Any
  parts: tuple[str, ...]
  num_problems: int
  heldout_fraction: float
  part: str

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    samples, rewards = in_graph.generate_and_verify(
      params, self.model, self.task, examples, jax.random.fold_in(key, 1),
      group_size=1, decoder=functools.partial(decoders.sample, temperature=1.0),
    )  # fmt: skip
    verify = jax.vmap(self.task.verify)
    found = verify(examples, samples.completion[:, 0], samples.mask[:, 0])
    return {
      'right': jnp.mean(rewards),
      'right/problems': rewards[:, 0],
      **{name: jnp.mean(found[name]) for name in self.parts},
      'length': jnp.mean(jnp.sum(samples.mask[:, 0], axis=1)),
    }
