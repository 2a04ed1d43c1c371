"""reasoning-gym's tasks by name: their knobs, problems and verifiers.

Runs in worker processes, so nothing here may import jax.
"""

import copy
import dataclasses
import functools
import hashlib
import random
from typing import Any

import numpy as np

from posttrain_jax.core.names import nearest
from posttrain_jax.data import gym_scores

__all__ = ['Server', 'knobs', 'make_config', 'names']

# reasoning-gym's own names for what we set ourselves.
RESERVED = ('seed', 'size')
PLAIN = (bool, int, float, str, type(None))


def _datasets() -> dict[str, tuple[type, type]]:
  """{name: (dataset class, config class)}."""
  try:
    from reasoning_gym import factory
  except ImportError as error:
    raise ValueError(
      'tasks "text:NAME" are those of reasoning-gym, which is not installed: '
      'pip install "posttrain_jax[envs]"'
    ) from error
  return factory.DATASETS


def names() -> list[str]:
  """Names of all tasks but those of `gym_scores.LEFT_OUT`.

  Raises:
    ValueError: reasoning-gym is not installed.
  """
  return sorted(_datasets().keys() - gym_scores.LEFT_OUT)


def _classes(name: str) -> tuple[type, type]:
  if name in gym_scores.LEFT_OUT:
    raise ValueError(
      f'task "text:{name}" is left out: {gym_scores.LEFT_OUT[name]}'
    )
  if name not in names():
    raise ValueError(f'unknown task "text:{name}".{nearest(name, names())}')
  return _datasets()[name]


def _is_plain(value: Any) -> bool:
  if isinstance(value, list | tuple):
    return all(map(_is_plain, value))
  return type(value) in PLAIN


def knobs(name: str) -> dict[str, Any]:
  """A task's knobs and their defaults, as its author set them.

  Those that a config file cannot hold (dates, enumerations) are left out.

  Raises:
    ValueError: unknown task, with the nearest one, or one that is left out,
      with the reason.
  """
  defaults = _classes(name)[1]()
  found = {
    field.name: getattr(defaults, field.name)
    for field in dataclasses.fields(defaults)
    if field.name not in RESERVED
  }
  return {key: value for key, value in found.items() if _is_plain(value)}


def make_config(name: str, values: dict[str, Any]) -> Any:
  """The task's config object (of seed 0) with knobs `values`.

  Raises:
    ValueError: unknown task or knob, or a value that the task refuses.
  """
  known = knobs(name)
  for key in values:
    if key not in known:
      raise ValueError(
        f'task "text:{name}" has no knob "{key}".{nearest(key, known)}'
      )
  # A config holds sequences as tuples; some tasks insist on lists.
  values = {
    key: type(known[key])(value)
    if isinstance(known[key], list | tuple)
    else value
    for key, value in values.items()
  }
  config = _classes(name)[1](seed=0, **values)
  try:
    # Some config classes have none.
    getattr(config, 'validate', lambda: None)()
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(f'task "text:{name}": {error}') from error
  return config


def _base(seed: int) -> int:
  """The first of 2^31 generator seeds; those of other `seed`s lie elsewhere."""
  digest = hashlib.sha256(str(seed).encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


class Server:
  """One task's generator and verifier, of problems by number.

  Problem `number` < 2^31 is a function of (name, seed, knobs, number).
  """

  def __init__(self, name: str, seed: int, knobs: dict[str, Any]):
    self._name, self._dataset = name, _classes(name)[0]
    self._config, self._base = make_config(name, knobs), _base(seed)
    # Some tasks draw by `size`, or make all problems of a data set at once: a
    # long stream is made of data sets as long as the task's author meant.
    self._size = self._config.size
    self._block = functools.lru_cache(64)(self._make_block)
    self._entry = functools.lru_cache(1024)(self._make_entry)

  def _make_block(self, block: int) -> Any:
    # Most tasks seed problem i by `seed + i`: blocks must not overlap.
    seed = self._base + block * self._size
    self._seed_globals(seed)
    return self._dataset(dataclasses.replace(self._config, seed=seed))

  def _make_entry(self, number: int) -> dict[str, Any]:
    block, index = divmod(number, self._size)
    data = self._block(block)
    self._seed_globals(self._base + number)
    return data[index]

  def _seed_globals(self, seed: int) -> None:
    """For generators that draw from the shared random states."""
    random.seed(seed)
    np.random.seed(seed)

  def generate(self, number: int) -> dict[str, Any]:
    """{question: text, answer: text, or None where the task has no oracle}.

    Raises:
      ValueError: the generator's answer is none (`gym_scores.unsolved`).
    """
    entry = self._entry(number)
    if told := gym_scores.unsolved(self._name, entry):
      raise ValueError(told)
    answer = entry['answer']
    return {
      'question': str(entry['question']),
      'answer': None if answer is None else str(answer),
    }

  def score(self, number: int, text: str) -> float:
    """The score of an answer to problem `number`, 1.0 if right.

    It is the task's own, with the corrections of `gym_scores`.
    """
    data = self._block(number // self._size)
    # A copy: a verifier may change the entry, and others read it after it.
    entry = copy.deepcopy(self._entry(number))
    own = lambda text: float(data.score_answer(text, entry))
    return gym_scores.score(self._name, text, entry, own)
