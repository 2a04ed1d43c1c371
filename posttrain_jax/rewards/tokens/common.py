"""What rewards of tokens share: what they see, the oracle, the task's parts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from posttrain_jax.core.types import Array, Example
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.tasks import vocab

MARKER = '>'

Rewards = tuple[Array, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class World:
  """What rewards of tokens may look at.

  task         an in-graph task
  model        of the policy
  temperature  of the policy's own answers, or how a learner scores them
               (`decoders.view`)
  """

  task: Any
  model: ModelConfig
  temperature: float | Callable[..., Array] = 1.0


def solve(task: Any, examples: Example, key: Array) -> vocab.Text:
  """The oracle's completions, one a problem."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, examples.prompt_id)
  return jax.vmap(task.solve)(examples, keys)


def ids_of(key: str, characters: str) -> np.ndarray:
  """Tokens of the characters of a hyperparameter.

  Raises:
    ValueError: a character that is none of the vocabulary's.
  """
  try:
    return vocab.encode(characters)
  except ValueError as error:
    raise ValueError(f'token_rewards.{key}: {error}') from None


def parts_of(task: Any) -> tuple[Any, ...]:
  """The tasks inside a mixture or behind a condition; else the task."""
  if hasattr(task, 'tasks'):
    return tuple(x for part in task.tasks for x in parts_of(part))
  return parts_of(task.task) if hasattr(task, 'task') else (task,)


def thinks(task: Any) -> bool:
  """Whether some oracle writes a thought before its answer."""
  return any(
    getattr(part, 'chain_of_thought', False) for part in parts_of(task)
  )


def answer_length(task: Any) -> int:
  """Tokens of the longest final answer with its EOS."""
  direct = [
    dataclasses.replace(part, chain_of_thought=False)
    if getattr(part, 'chain_of_thought', False)
    else part
    for part in parts_of(task)
  ]
  return max(part.completion_length for part in direct)
