"""`Searches`: how often a policy is right, and how much it searches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import diagnostics
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab


@dataclasses.dataclass(frozen=True)
class Searches:
  """Probe: held-out problems, greedily and with `samples` answers each.

  greedy      share of right greedy answers
  accuracy    of answers at temperature 1; passk, k = samples, problems with a
              right one among them
  formed      answers that are well-formed, right or wrong
  length      tokens of an answer at temperature 1, its EOS included
  backtracks  '#' in it
  """

  model: ModelConfig
  task: Any
  num_problems: int
  samples: int
  heldout_fraction: float

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    problems = in_graph.problems(
      self.task, key, self.num_problems, self.heldout_fraction
    )
    answer = lambda decoder, size: in_graph.generate_and_verify(
      params, self.model, self.task, problems, jax.random.fold_in(key, 1),
      group_size=size, decoder=decoder,
    )  # fmt: skip
    _, greedy = answer(decoders.greedy, 1)
    drawn, rewards = answer(decoders.sample, self.samples)
    right = rewards > 0.5
    stuck = (drawn.completion == vocab.token('#')) & (drawn.mask > 0)
    return {
      'greedy': jnp.mean(greedy > 0.5),
      'accuracy': jnp.mean(right),
      'passk': jnp.mean(diagnostics.pass_at_k(right, self.samples)),
      # A wrong answer is worth something if it is well-formed.
      'formed': jnp.mean(rewards > 0.0),
      'length': jnp.mean(jnp.sum(drawn.mask, axis=-1)),
      'backtracks': jnp.mean(jnp.sum(stuck, axis=-1).astype(jnp.float32)),
    }
