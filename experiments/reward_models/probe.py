"""What a policy writes, right or not, and what a reward model says of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.evals.measures.ranking import ranked
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.tasks import vocab

__all__ = ['Scored', 'above', 'bar']

PARTS = ('vowels', 'score')
POINTS = 201  # of the distribution of scores, evenly from 0 to 1


@dataclasses.dataclass(frozen=True)
class Scored:
  """Probe `scored(params, scorer_params, key)` of a policy and a reward model.

  model   of the policy; `scorer` of the reward model
  problems, samples  held-out problems N, answers S to each, at temperature 1
  part    'test' or 'validation': halves that have no problem in common

  right           share of right answers; right/problems [N] by problem
  vowels, score   what answers have of these, on average, as the verdict says
  ranked          how often the reward model has a right answer above a wrong
                  one of the same problem
  quantiles       [POINTS] of its scores
  """

  model: ModelConfig
  scorer: ModelConfig
  task: Any
  num_problems: int
  samples: int
  heldout_fraction: float
  part: str

  def problems(self, key: Array) -> Example:
    """The problems [N, ...] that `key` stands for."""
    return in_graph.problems(
      self.task, key, self.num_problems, self.heldout_fraction, self.part
    )

  def __call__(
    self, params: PyTree, scorer_params: PyTree, key: Array
  ) -> dict[str, Array]:
    examples = self.problems(key)
    samples = rollout.generate(
      params, self.model, examples.prompt, examples.prompt_mask,
      jax.random.fold_in(key, 1), group_size=self.samples,
      max_new_tokens=self.task.completion_length, decoder=_draw,
      eos_id=vocab.EOS, pad_id=vocab.PAD, prompt_ids=examples.prompt_id,
    )  # fmt: skip
    verify = jax.vmap(jax.vmap(self.task.verify, (None, 0, 0)))
    found = verify(examples, samples.completion, samples.mask)
    right = found['reward']
    scores = answers.answer_scores(
      scorer_params, self.scorer, examples, samples
    )
    return {
      'right': jnp.mean(right),
      'right/problems': jnp.mean(right, axis=1),
      **{name: jnp.mean(found[name]) for name in PARTS},
      'ranked': ranked(scores, right),
      'quantiles': jnp.quantile(scores, jnp.linspace(0.0, 1.0, POINTS)),
    }


_draw = functools.partial(rollout.decoders.sample, temperature=1.0)


def bar(quantiles: np.ndarray, right: float) -> float:
  """The score above which there are as many answers as are right."""
  shares = np.linspace(0.0, 1.0, POINTS)
  return float(np.interp(1.0 - right, shares, quantiles))


def above(quantiles: np.ndarray, score: float) -> float:
  """The share of answers with a higher score."""
  shares = np.linspace(0.0, 1.0, POINTS)
  # Equal scores would be no function: the higher share of them counts.
  return float(1.0 - np.interp(score, np.maximum.accumulate(quantiles), shares))
