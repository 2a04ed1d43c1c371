"""Calls reward functions in a worker process: the package's, and one's own.

No jax here: a worker is made to be light, and to be thrown away.
"""

import functools
import inspect
import math
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from posttrain_jax.core.names import closest, nearest
from posttrain_jax.rewards import functions, texts
from posttrain_jax.rewards.texts import sandbox

__all__ = ['FACTS', 'KEYS', 'Server', 'Spec']

# What a function is called with beside the columns: TRL's three always, these
# where it names them.
ALWAYS = ('prompts', 'completions', 'completion_ids')
FACTS = ('finished', 'max_completion_length')
SLIP = 0.7  # how like a known key one is that is a slip of it
# Of an entry of `config.rewards`, besides what its function is given.
KEYS = ('name', 'weight', 'label', 'verdict')


class Spec(NamedTuple):
  """A reward function: its name, whether it is one of the package's, and its
  hyperparameters."""

  name: str
  own: bool
  params: dict[str, Any]


class _Reward:
  """One function, and which arguments it takes."""

  def __init__(self, spec: Spec, folder: str):
    self.spec = spec
    if spec.own:
      function = functions.load(spec.name, folder)
    else:
      function = getattr(texts, spec.name)
    self.named = functions.named(spec.name, function)
    self._function = functools.partial(function, **spec.params)
    parameters = inspect.signature(function).parameters.values()
    named = [
      p for p in parameters
      if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]  # fmt: skip
    self.all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    self.takes = {p.name for p in named}
    known = {*self.takes, *KEYS} - {*ALWAYS, *FACTS}
    for key in spec.params:
      # A slip of the pen would go into **columns without a word.
      slip = closest(key, known, SLIP)
      if key not in self.takes and (slip or not self.all):
        raise ValueError(
          f'reward {self.named} has no argument "{key}" by name, and it is no '
          f'key of an entry.{nearest(key, known)}'
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

  def __call__(
    self, request: dict[str, list]
  ) -> tuple[list[float | None], list[str]]:
    """(rewards, '' or what is wrong with each of them) of completions; raises
    what the function does."""
    size = len(request['completions'])
    found = self._function(**self.arguments(request))
    if wrong := _no_list(found, size):
      told = f'reward {self.named} returned {wrong}'
      return [None] * size, [told] * size
    read = [_number(value) for value in found]
    return [value for value, _ in read], [
      wrong and f'reward {self.named} returned {wrong}' for _, wrong in read
    ]


def _no_list(found: Any, size: int) -> str:
  """What was returned in place of a list of `size` rewards; '': it is one."""
  # A dict would be read as its keys, and a set has no order.
  try:
    count = -1 if isinstance(found, str | bytes | Mapping | Set) else len(found)
  except TypeError:  # arrays of no axis, too
    count = -1
  if count < 0:
    return f'{type(found).__name__}, not a list'
  if count != size:
    rewards = 'reward' if count == 1 else 'rewards'
    asked = 'completion' if size == 1 else 'completions'
    return f'{count} {rewards} for {size} {asked}'
  return ''


def _number(value: Any) -> tuple[float | None, str]:
  """(a reward as a float, '' or what it is instead); None stays None.

  NaN is a fault, where TRL takes it for None: who means that an entry does not
  apply says None, and a NaN is mostly a division by zero.
  """
  if value is None:
    return None, ''
  if isinstance(value, str | bytes):
    return None, f'{repr(value)[:100]}, no number'
  try:
    number = float(value)
  except Exception:  # what other libraries' arrays raise, too
    return None, f'{str(repr(value))[:100]}, no number'
  if not math.isfinite(number):
    return None, f'{number}, no finite number'
  return number, ''


def _loaded(spec: Spec, folder: str) -> _Reward | ValueError:
  try:
    return _Reward(spec, folder)
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
    self._rewards = [_loaded(Spec(*spec), folder) for spec in specs]

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
    have None. So has what is no finite number, and all where what is returned
    is no reward a row; neither is asked for again, as a row alone may hide it.
    """
    reward, size = self._reward(index), len(request['completions'])
    alone = ''
    if reward.spec.own:
      try:
        return *reward(request), ''
      except Exception as error:
        alone = functions.told(error)
        if size == 1:
          return [None], [alone], ''
    rewards: list[float | None] = []
    errors: list[str] = []
    for row in range(size):
      try:
        said, wrong = reward(_row(request, row))
        rewards += said
        errors += wrong
      except Exception as error:
        rewards.append(None)
        errors.append(functions.told(error))
    return rewards, errors, alone
