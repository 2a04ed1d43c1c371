"""What a model answers to problems that it was never trained on: `Answers`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import split, vocab

__all__ = ['Answers', 'reported', 'texts']


@dataclasses.dataclass(frozen=True)
class Answers:
  """`answers(params, None, key) -> {name: array}`, as `lab.Lab.measure` asks.

  To each of N held-out problems that `key` stands for, the most likely answer:
    right   [N] 1.0 where the verifier accepts it
    tokens  [N, C] the answer, and `mask` [N, C], 1 on its tokens
  and where `samples` are asked for, at temperature 1:
    sampled  [N] the share of them that are right

  batch  problems at a time (memory); N is a multiple of it
  """

  model: ModelConfig
  task: Any
  num_problems: int
  batch: int
  heldout_fraction: float
  samples: int = 0

  def problems(self, key: Array) -> Example:
    """The problems [N, ...] of a key."""
    return in_graph.problems(
      self.task, key, self.num_problems, self.heldout_fraction
    )

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params  # nothing here compares with it
    parts = jax.tree.map(
      lambda x: x.reshape(-1, self.batch, *x.shape[1:]), self.problems(key)
    )

    def draw(part: Example, size: int, decoder: Callable):
      samples, rewards = in_graph.generate_and_verify(
        params,
        self.model,
        self.task,
        part,
        jax.random.fold_in(key, 1),
        group_size=size,
        decoder=decoder,
      )
      return samples, (rewards > 0.5).astype(jnp.float32)

    def answered(part: Example) -> dict[str, Array]:
      samples, right = draw(part, 1, decoders.greedy)
      found = {
        'right': right[:, 0],
        'tokens': samples.completion[:, 0],
        'mask': samples.mask[:, 0],
      }
      if self.samples:
        _, right = draw(part, self.samples, decoders.sample)
        found['sampled'] = jnp.mean(right, axis=1)
      return found

    found = jax.lax.map(answered, parts)
    return jax.tree.map(
      lambda x: x.reshape(self.num_problems, *x.shape[2:]), found
    )


def reported(answers: Answers, problems: Example) -> np.ndarray:
  """[N] whether a problem is reported; rates are chosen by the others."""
  there = jax.vmap(
    lambda x: split.in_part(answers.task, x, answers.heldout_fraction, 'test')
  )
  return np.asarray(jax.jit(there)(problems))


def texts(tokens: Any, mask: Any) -> list[str]:
  """[N, C] tokens as N texts, without the token that ends them."""
  pairs = zip(np.asarray(tokens, np.int32), np.asarray(mask))
  return [vocab.decode(row, kept).removesuffix('<eos>') for row, kept in pairs]
