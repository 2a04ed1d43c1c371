"""An audit of a rubric: how far its features go with what is really wanted."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import arrays
from posttrain_jax.rollout import decoders

__all__ = ['Audit']


@dataclasses.dataclass(frozen=True)
class Audit:
  """`audit(params, base_params, key) -> {name: scalar}`, jit- and vmap-able.

  model             of the policy
  task              an in-graph task; its verifier finds the features
  features          names of what the verifier finds, one a weight
  before            weights of features that the answers say nothing of
  gold              what is really wanted, of what the verifier finds
  num_problems      problems, drawn from `key`
  samples           answers to each
  heldout_fraction  share of problems that training leaves out; 0 = no split
  temperature       of the answers
  part              'test' or 'validation': halves of what training leaves out
                    without a common problem; '' = both

  Gives 'weight/NAME' of each feature, by `rewards.arrays.audit` of all answers,
  and 'gold', their mean. Between stages of `lab.rounds` it is what `lab.Look`
  looks with; the weights become inputs of the next stage as
  `rewards.audited.weights.0`, and so on.

  Raises:
    ValueError: no feature, another number of weights before, or something that
      the verifier does not find.
  """

  model: ModelConfig
  task: Any
  features: tuple[str, ...]
  before: tuple[float, ...]
  gold: str = 'reward'
  num_problems: int = 64
  samples: int = 4
  heldout_fraction: float = 0.0
  temperature: float = 1.0
  part: str = ''

  def __post_init__(self):
    if not self.features or len(self.features) != len(self.before):
      raise ValueError(
        f'an audit of {len(self.features)} features with weights before='
        f'{self.before}: it needs one for each, and at least one'
      )
    known = list(jax.eval_shape(self._found_of_one, jax.random.key(0)))
    for name in (*self.features, self.gold):
      if name not in known:
        raise ValueError(
          f'the verifier finds no "{name}".{nearest(name, known)}'
        )

  # Not of `in_graph.HeldOut`: either module may be read first.
  def problems(self, key: Array) -> Example:
    """The problems [num_problems, ...] that `key` stands for."""
    return in_graph.problems(
      self.task, key, self.num_problems, self.heldout_fraction, self.part
    )

  def _found_of_one(self, key: Array) -> dict[str, Array]:
    """What the verifier finds of the oracle's answer to a problem."""
    example = self.task.sample(key)
    answer = self.task.solve(example, key)
    return self.task.verify(example, answer.tokens, answer.mask)

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    examples = self.problems(key)
    samples, _ = in_graph.generate_and_verify(
      params,
      self.model,
      self.task,
      examples,
      jax.random.fold_in(key, 1),
      group_size=self.samples,
      decoder=functools.partial(decoders.sample, temperature=self.temperature),
    )
    over_group = jax.vmap(self.task.verify, (None, 0, 0))
    found = jax.vmap(over_group)(examples, samples.completion, samples.mask)
    flat = lambda name: found[name].reshape(-1)
    features = jnp.stack([flat(name) for name in self.features], axis=1)
    weights = arrays.audit(features, flat(self.gold), jnp.array(self.before))
    named = {f'weight/{k}': weights[i] for i, k in enumerate(self.features)}
    return {**named, 'gold': jnp.mean(flat(self.gold))}
