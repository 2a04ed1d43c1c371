"""In-graph procedural tasks: one file each, each with one class `Task`.

A task is a frozen dataclass; its fields are its difficulty, its methods are
pure, unbatched and jit- and vmap-able:

  task.prompt_length, task.completion_length    static sizes (with the EOS)
  task.sample(key) -> Example
  task.verify(example, completion [C], mask [C]) -> {'reward': [], ...}
  task.solve(example, key) -> Text, the oracle's completion with its EOS (with
      its chain of thought, where the task has one)

A task in turns has two members more (`rollout.environments`):

  task.guide             the environment that answers the model
  task.episode(example)  its state before the first token

Its completion is the whole transcript, answers included.

`verify` gives 1.0 for a right completion, 0.0 for a wrong or malformed one. The
completion may be shorter or longer than `completion_length`. All tasks speak
the vocabulary of `tasks.vocab`.
"""

import dataclasses
import importlib
from typing import Any

from posttrain_jax.core.resolve import nearest

__all__ = [
  'addition',
  'backtracking',
  'formats',
  'multiplication',
  'modular',
  'sorting',
  'countdown',
  'make24',
  'digit_sums',
  'picks',
  'card_sums',
  'running_sums',
  'attributes',
  'sudoku',
  'list_functions',
  'frozen_lake',
  'sokoban',
  'facts',
  'catalogue',
  'entity_tracking',
  'calculator',
  'dictionary',
  'frozen_lake_game',
  'sokoban_game',
]


def make(name: str, **difficulty) -> Any:
  """The task called `name` with its difficulty.

  Raises:
    ValueError: unknown task or knob, with the nearest valid one, or a knob's
      value that the task cannot honour.
  """
  if name not in __all__:
    raise ValueError(f'unknown task "{name}".{nearest(name, __all__)}')
  task = importlib.import_module(f'posttrain_jax.tasks.{name}').Task
  known = [field.name for field in dataclasses.fields(task)]
  for key in difficulty:
    if key not in known:
      raise ValueError(
        f'task "{name}" has no knob "{key}".{nearest(key, known)}'
      )
  return task(**difficulty)


def defaults(name: str, **overrides) -> dict[str, Any]:
  """Config entry of a task: its name and every knob."""
  task = make(name, **overrides)
  knobs = {
    field.name: getattr(task, field.name) for field in dataclasses.fields(task)
  }
  return {'name': name, **knobs}
