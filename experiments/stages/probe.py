"""`Likelihoods`: how far a stage moved the two sides of pairs of its start."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders

__all__ = ['Likelihoods']


@dataclasses.dataclass(frozen=True)
class Likelihoods(in_graph.HeldOut):
  """Probe: `probe(params, base_params, key) -> {name: scalar}`.

  Of each of `num_problems` the base writes `answers` answers; where some are
  right and some wrong, the first right one is chosen and the first wrong one
  rejected, as in the pairs that are trained on.

  chosen, rejected  mean change of the log-probability of these answers from
                    base to policy, in nats an answer; nan without a pair
  pairs             share of problems that give one

  task  whose verifier says 1.0 of what is right
  part  'test' or 'validation': halves of the held-out problems that have none
        in common
  """

  model: ModelConfig
  task: Any
  num_problems: int
  heldout_fraction: float
  answers: int
  part: str

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    examples = self.problems(key)
    drawn, rewards = in_graph.generate_and_verify(
      base_params, self.model, self.task, examples,
      jax.random.fold_in(key, 3), group_size=self.answers,
      decoder=functools.partial(decoders.sample, temperature=1.0),
    )  # fmt: skip
    batch = rollout.assemble_groups(
      examples.prompt, examples.prompt_mask, drawn
    )
    change = self._logps(params, batch) - self._logps(base_params, batch)
    change = change.reshape(rewards.shape)
    live = jnp.max(rewards, axis=1) > jnp.min(rewards, axis=1)
    mean = lambda at: (
      jnp.sum(
        jnp.where(live, jnp.take_along_axis(change, at[:, None], 1)[:, 0], 0.0)
      )
      / jnp.sum(live)
    )
    return {
      'chosen': mean(jnp.argmax(rewards, axis=1)),
      'rejected': mean(jnp.argmin(rewards, axis=1)),
      'pairs': jnp.mean(live.astype(jnp.float32)),
    }

  def _logps(self, params: PyTree, batch: Batch) -> Array:
    """[R] of whole answers."""
    signals = transformer.token_logps(
      params, self.model, batch.tokens, batch.mask,
      segment_ids=batch.segment_ids, positions=batch.positions,
    )  # fmt: skip
    return masked.sum(signals.logps, batch.mask, axis=1)
