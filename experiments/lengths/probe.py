"""`Lengths`: greedy answers to problems, how long they are and in what form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab

__all__ = ['Lengths', 'kappa']

SAYS = vocab.token('=')  # in a column that says what it adds


@dataclasses.dataclass(frozen=True)
class Lengths(in_graph.HeldOut):
  """Probe: `probe(params, base_params, key) -> {name: [num_problems]}`.

  right     1.0 where the greedy answer is right
  length    its tokens, with the one that ends it
  finished  1.0 where it ends by itself
  spelled   1.0 where it says what is added in some column

  task  whose verifier says 1.0 of what is right
  part  'test' or 'validation': halves of the held-out problems that have none
        in common
  """

  model: ModelConfig
  task: Any
  num_problems: int
  heldout_fraction: float
  part: str

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    said, rewards = in_graph.generate_and_verify(
      params, self.model, self.task, self.problems(key),
      jax.random.fold_in(key, 1), group_size=1, decoder=decoders.greedy,
    )  # fmt: skip
    spelled = jnp.any((said.completion == SAYS) & (said.mask > 0), axis=-1)
    return {
      'right': rewards[:, 0],
      'length': jnp.sum(said.mask, axis=-1)[:, 0],
      'finished': said.finished[:, 0],
      'spelled': spelled.astype(jnp.float32)[:, 0],
    }


def kappa(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """[S] Cohen's kappa of two answers, yes (1) or no (0), to each of [S, N].

  1: they agree on all, 0: as often as by chance, and where one of them always
  says the same.
  """
  first, second = np.asarray(first, bool), np.asarray(second, bool)
  agree = np.mean(first == second, axis=1)
  p, q = first.mean(1), second.mean(1)
  chance = p * q + (1.0 - p) * (1.0 - q)
  room = 1.0 - chance
  return np.where(room > 0, (agree - chance) / np.where(room > 0, room, 1), 0.0)
