"""`Listed`: the chance of every name of the catalogue, by temperature."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from experiments.flows.probes import of_chances
from posttrain_jax import rollout
from posttrain_jax.core.types import Array, PyTree, Rollout
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.tasks import vocab

__all__ = ['Listed']


@dataclasses.dataclass(frozen=True)
class Listed:
  """Probe: {measure: [heats]} of `of_chances` of all names, means over groups
  of users; every one is read off, whole and with its end.

  heats  temperatures that answers are drawn at
  tries  that different names are counted in
  """

  model: ModelConfig
  task: Any
  tries: int
  heats: tuple[float, ...]

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    del base_params, key
    task = self.task
    users = jnp.arange(task.groups)
    examples = jax.vmap(lambda user: task.of_group(user, 0))(users)
    ends = jnp.pad(
      jnp.asarray(task.names), ((0, 0), (0, 1)), constant_values=vocab.EOS
    )
    answers = jnp.broadcast_to(ends, (task.groups, *ends.shape))
    whole = jnp.ones(answers.shape, jnp.float32)
    rows = rollout.assemble_groups(
      examples.prompt,
      examples.prompt_mask,
      Rollout(answers, whole, 0.0 * whole, whole[..., 0]),
    )

    def at(heat: Array) -> dict[str, Array]:
      signals = transformer.token_logps(
        params, self.model, rows.tokens, rows.mask, heat,
        segment_ids=rows.segment_ids, positions=rows.positions,
      )  # fmt: skip
      logps = signals.logps.sum(axis=1).reshape(answers.shape[:2])
      return {k: jnp.mean(x) for k, x in of_chances(logps, self.tries).items()}

    return jax.lax.map(at, jnp.asarray(self.heats))
