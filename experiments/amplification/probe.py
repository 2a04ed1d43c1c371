"""`Formats`: what a policy answers in, and how often that is right."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.evals.measures import diversity
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import formats

NAMES = tuple(formats.LETTERS)


@dataclasses.dataclass(frozen=True)
class Formats(in_graph.HeldOut):
  """Probe: `samples` answers at temperature 1 to each of `num_problems`.

  accuracy, passk (k = samples), distinct (different answers / samples);
  share_NAME  share of answers that begin as the format NAME
  right_NAME  share of answers that do and are right
  With `by_problem` also accuracy, passk, distinct and shares by problem [N], as
  NAME/problems.

  part  'test' or 'validation': halves of the held-out problems that have none
        in common; '' = both
  """

  model: ModelConfig
  task: Any
  num_problems: int
  samples: int
  heldout_fraction: float
  part: str = ''
  by_problem: bool = False

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    problems = self.problems(key)
    drawn, _ = in_graph.generate_and_verify(
      params, self.model, self.task, problems, jax.random.fold_in(key, 1),
      group_size=self.samples, decoder=decoders.sample,
    )  # fmt: skip
    verify = jax.vmap(jax.vmap(self.task.verify, (None, 0, 0)), (0, 0, 0))
    verdicts = verify(problems, drawn.completion, drawn.mask)
    right = verdicts['reward']
    each = {
      'accuracy': jnp.mean(right, axis=1),
      'passk': jnp.max(right, axis=1),
      'distinct': diversity.distinct(drawn.completion, drawn.mask),
    }
    each |= {
      f'share_{name}': jnp.mean(verdicts[name], axis=1) for name in NAMES
    }
    found = {name: jnp.mean(x) for name, x in each.items()}
    for name in NAMES:
      found[f'right_{name}'] = jnp.mean(verdicts[name] * right)
    if self.by_problem:
      found |= {f'{name}/problems': x for name, x in each.items()}
    return found
