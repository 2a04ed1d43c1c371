"""Calls reward functions in a worker process: the package's, and one's own.

No jax here: a worker is made to be light, and to be thrown away.
"""

import functools
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from posttrain_jax.core.names import nearest
from posttrain_jax.rewards import texts
from posttrain_jax.rewards.texts import sandbox

__all__ = ['FACTS', 'Server', 'Spec']

# What a function is called with beside the columns: TRL's three always, these
# where it names them.
ALWAYS = ('prompts', 'completions', 'completion_ids')
FACTS = ('finished', 'max_completion_length')


class Spec(NamedTuple):
  """A reward function: its name, whether it is one of the package's, and its
  hyperparameters."""

  name: str
  own: bool
  params: dict[str, Any]


def _told(error: BaseException) -> str:
  """The last line of a traceback, with the place it speaks of."""
  line = traceback.format_exception_only(error)[-1].strip()
  frames = traceback.extract_tb(error.__traceback__)
  if not frames:
    return line[:400]
  last = frames[-1]
  return f'{line[:400]} ({os.path.basename(last.filename)}:{last.lineno})'


def _load(name: str) -> Callable:
  """The function at 'module:function'.

  Raises:
    ValueError: no such module or function, with the nearest one; or what is
      there cannot be called.
  """
  path, _, attribute = name.partition(':')
  try:
    found: Any = importlib.import_module(path)
  except Exception as error:
    told = _told(error)
    raise ValueError(f'reward "{name}": no module "{path}": {told}') from None
  for part in attribute.split('.'):
    if not hasattr(found, part):
      public = [
        x for x, y in vars(found).items() if x[0] != '_' and callable(y)
      ]
      raise ValueError(
        f'reward "{name}": no "{part}" in {path}.{nearest(part, public)}'
      )
    found = getattr(found, part)
  if not callable(found):
    raise ValueError(f'reward "{name}" is {type(found).__name__}, no function')
  if inspect.iscoroutinefunction(found):
    raise ValueError(f'reward "{name}" is async: write a plain function')
  return found


class _NoRewards(ValueError):
  """A function returned something else than a list of a reward a row."""


class _Reward:
  """One function, and which arguments it takes."""

  def __init__(self, spec: Spec):
    self.spec = spec
    function = _load(spec.name) if spec.own else getattr(texts, spec.name)
    self._function = functools.partial(function, **spec.params)
    parameters = inspect.signature(function).parameters.values()
    named = [
      p for p in parameters
      if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]  # fmt: skip
    self.all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    self.takes = {p.name for p in named}
    for p in parameters:
      if p.kind is p.POSITIONAL_ONLY:
        raise ValueError(
          f'reward "{spec.name}": argument "{p.name}" cannot be given by name'
        )
    for key in spec.params:
      if key not in self.takes and not self.all:
        raise ValueError(
          f'reward "{spec.name}" takes no "{key}".{nearest(key, self.takes)}'
        )
    given = {*ALWAYS, *FACTS, *spec.params}
    self.needs = sorted(
      p.name for p in named if p.default is p.empty and p.name not in given
    )

  def arguments(self, request: dict[str, list]) -> dict[str, list]:
    """Of all that is known, what the function takes."""
    return {
      key: value
      for key, value in request.items()
      if key not in self.spec.params
      and (key in self.takes or (self.all and key not in FACTS))
    }

  def __call__(self, request: dict[str, list]) -> list[float | None]:
    """Raises _NoRewards where it returns no list of as many rewards."""
    size = len(request['completions'])
    found = self._function(**self.arguments(request))
    if isinstance(found, str) or not hasattr(found, '__len__'):
      raise _NoRewards(f'it returned {type(found).__name__}, not a list')
    if len(found) != size:
      raise _NoRewards(f'{len(found)} rewards for {size} completions')
    return [_number(value) for value in found]


def _number(value: Any) -> float | None:
  """A reward as a float; None for None and nan, as in TRL.

  Raises:
    ValueError: it is infinite, or no number.
  """
  if value is None:
    return None
  try:
    value = float(value)
  except (TypeError, ValueError):
    raise ValueError(f'a reward is {value!r}, no number') from None
  if math.isinf(value):
    raise ValueError(f'a reward is {value}')
  return None if math.isnan(value) else value


def _loaded(spec: Spec) -> _Reward | ValueError:
  try:
    return _Reward(spec)
  except ValueError as error:
    return error


def _row(request: dict[str, Any], index: int) -> dict[str, Any]:
  return {
    key: value[index : index + 1] if isinstance(value, list) else value
    for key, value in request.items()
  }


class Server:
  """The reward functions of a run.

  specs   `Spec` of each
  folder  where modules are looked for that are found nowhere else
  """

  def __init__(self, specs: Sequence[Spec], folder: str):
    if folder not in sys.path:
      sys.path.append(folder)
    # All at once: an import is slow, and no call should pay for it.
    self._rewards = [_loaded(Spec(*spec)) for spec in specs]

  def _reward(self, index: int) -> _Reward:
    reward = self._rewards[index]
    if isinstance(reward, ValueError):
      raise reward
    return reward

  def describe(self, index: int) -> list[str]:
    """Names of columns that function `index` needs, of one's own functions.

    Raises:
      ValueError: it cannot be used, with the reason.
    """
    reward = self._reward(index)
    spec = reward.spec
    if spec.name == 'unit_tests' and not spec.own:
      keys = ('seconds', 'memory', 'processes', 'isolation')
      sandbox.check(sandbox.Limits(*(spec.params[key] for key in keys)))
    if spec.name == 'math_verify' and not spec.own:
      texts.math_verify(['1'], ['1'], answer=['1'])  # it may not be there
    return reward.needs if spec.own else []

  def score(
    self, index: int, request: dict[str, Any]
  ) -> tuple[list[float | None], list[str], str]:
    """(rewards, '' or what went wrong for each, why rows were tried alone) of
    completions.

    One's own functions are called with all rows, the package's row by row. Rows
    of a call that raises are tried again one at a time: those that raise alone
    have None; all have it where what is returned is no reward a row.
    """
    reward, size = self._reward(index), len(request['completions'])
    alone = ''
    if reward.spec.own:
      try:
        return reward(request), [''] * size, ''
      except _NoRewards as error:  # a row alone would hide it
        return [None] * size, [_told(error)] * size, ''
      except Exception as error:
        alone = _told(error)
        if size == 1:
          return [None], [alone], ''
    rewards: list[float | None] = []
    errors = []
    for row in range(size):
      try:
        rewards += reward(_row(request, row))
        errors.append('')
      except Exception as error:
        rewards.append(None)
        errors.append(_told(error))
    return rewards, errors, alone
