"""`Answers`: greedy answers to every test, and as under which rule they are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import vocab


@dataclasses.dataclass(frozen=True)
class Test:
  """A test's problems, as `lab.of_probe` counts them."""

  task: Any
  place: int
  count: int
  fraction: float
  part: str

  def problems(self, key: Array) -> Example:
    """The problems [count, ...] that `key` stands for."""
    key = jax.random.fold_in(key, self.place)
    return in_graph.problems(
      self.task, key, self.count, self.fraction, self.part
    )


@dataclasses.dataclass(frozen=True)
class Answers:
  """Probe: greedy answers to the problems of several tests, in one batch.

  tasks     (name of a test, task)
  count     problems of each
  fraction  of problems that are held out
  part      'test' or 'validation'

  Of each test arrays [count] of 0 and 1: NAME (right), NAME_parrot (right if
  the other rule held), NAME_thought (there is a '>').
  """

  model: ModelConfig
  tasks: tuple[tuple[str, Any], ...]
  count: int
  fraction: float
  part: str

  def tests(self) -> dict[str, Test]:
    return {
      name: Test(task, place, self.count, self.fraction, self.part)
      for place, (name, task) in enumerate(self.tasks)
    }

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    width = max(task.prompt_length for _, task in self.tasks)
    length = max(task.completion_length for _, task in self.tasks)
    parts = [test.problems(key) for test in self.tests().values()]
    wide = lambda x: jnp.pad(x, ((0, 0), (0, width - x.shape[1])))
    samples = rollout.generate(
      params,
      self.model,
      jnp.concatenate([wide(part.prompt) for part in parts]),
      jnp.concatenate([wide(part.prompt_mask) for part in parts]),
      key,
      group_size=1,
      max_new_tokens=length,
      decoder=decoders.greedy,
      eos_id=vocab.EOS,
      pad_id=vocab.PAD,
    )
    shape = (len(parts), self.count, length)
    said = samples.completion.reshape(shape)
    mask = samples.mask.reshape(shape)
    thought = (said == vocab.token('>')) & (mask != 0)
    found = {}
    for i, (name, task) in enumerate(self.tasks):
      verdict = jax.vmap(task.verify)(parts[i], said[i], mask[i])
      found |= {
        name: verdict['reward'],
        f'{name}_parrot': verdict['other_rule'],
        f'{name}_thought': jnp.any(thought[i], axis=1).astype(jnp.float32),
      }
    return found
