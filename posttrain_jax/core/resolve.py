"""Names become code in one place: `resolve(room, name, **hparams)`."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax

from posttrain_jax.core.names import nearest


def hparams_of(function: Callable) -> dict[str, Any]:
  """Keyword-only parameters that have a default: a part's hyperparameters."""
  return {
    name: parameter.default
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
    and parameter.default is not parameter.empty
  }


def arrays_of(function: Callable) -> list[str]:
  """Keyword-only parameters without a default: arrays the caller must pass."""
  return [
    name
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
    and parameter.default is parameter.empty
  ]


def lookup(room: ModuleType, name: str) -> Callable:
  """The function called `name` in `room.__all__`, or in `room.SELECTABLE`.

  Raises:
    ValueError: no such name; the message has the nearest valid one.
  """
  names = getattr(room, 'SELECTABLE', room.__all__)
  if name not in names:
    where = room.__name__.removeprefix('posttrain_jax.')
    function = getattr(room, name, None)
    # What another list of the room has is of other uses.
    lists = [x for x in vars(room).values() if isinstance(x, list | tuple)]
    new = inspect.isfunction(function) and not any(name in x for x in lists)
    if new and not name.startswith('_'):
      listed = 'SELECTABLE' if hasattr(room, 'SELECTABLE') else '__all__'
      raise ValueError(
        f'{where} has "{name}", which its {listed} does not list: add it there'
      )
    raise ValueError(f'no "{name}" in {where}.{nearest(name, names)}')
  return getattr(room, name)


def resolve(room: ModuleType, name: str, **hparams) -> functools.partial:
  """`room.name` with its hyperparameters bound.

  Raises:
    ValueError: unknown name or hyperparameter, with the nearest valid one.
  """
  function = lookup(room, name)
  known = hparams_of(function)
  for key in hparams:
    if key not in known:
      raise ValueError(
        f'"{name}" takes no hyperparameter "{key}".{nearest(key, known)}'
      )
  return functools.partial(function, **hparams)


def part(room: ModuleType, name: str, **overrides) -> dict[str, Any]:
  """Config entry for a room's function: its name and every default.

  Defaults live in the function signature; this copies them into the config, so
  that `--config.loss.clip_high=0.28` works for every method.
  """
  hparams = hparams_of(lookup(room, name))
  for key in overrides:
    if key not in hparams:
      raise ValueError(
        f'"{name}" takes no hyperparameter "{key}".{nearest(key, hparams)}'
      )
  return {'name': name, **hparams, **overrides}


def active(coefficient: Any) -> bool:
  """Whether a coefficient takes part: all but zero, and every traced one.

  A sweep traces it, and then one program serves its values, zero among them.
  """
  return isinstance(coefficient, jax.core.Tracer) or bool(coefficient)
