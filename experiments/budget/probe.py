"""`Judged`: what a judge says of sampled answers to held-out problems."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders

__all__ = ['Judged']


@dataclasses.dataclass(frozen=True)
class Judged(in_graph.HeldOut):
  """Probe: one answer to each of `num_problems`, drawn at `temperature`.

  task  `formats` with a format that is wanted
  part  'test' or 'validation': halves of the held-out problems that have none
        in common

  accuracy  share of answers that are right, in the wanted format
  form      share of answers in the wanted format, right or not
  accuracy/problems  [N] what accuracy is the mean of
  """

  model: ModelConfig
  task: Any
  num_problems: int
  heldout_fraction: float
  temperature: float
  part: str

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    draw = functools.partial(decoders.sample, temperature=self.temperature)
    drawn, _ = in_graph.generate_and_verify(
      params, self.model, self.task, examples, jax.random.fold_in(key, 1),
      group_size=1, decoder=draw,
    )  # fmt: skip
    verify = jax.vmap(jax.vmap(self.task.verify, (None, 0, 0)), (0, 0, 0))
    said = verify(examples, drawn.completion, drawn.mask)
    right = said['reward'][:, 0]
    return {
      'accuracy': jnp.mean(right),
      'form': jnp.mean(said[self.task.wanted]),
      'accuracy/problems': right,
    }
