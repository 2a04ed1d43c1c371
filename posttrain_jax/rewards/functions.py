"""Reward functions of one's own: found by name, held to how they are called.

No jax here, as in `server`.
"""

import importlib
import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain_jax.core.names import closest, nearest

__all__ = ['load', 'named', 'place', 'told']

# Of what a function is called with, what says something of an answer.
OF_ANSWERS = ('completions', 'completion_ids', 'finished')
# Frames of Python's own import, which say nothing of a module's fault.
_IMPORTS = ('<frozen', importlib.__file__, __file__)


def told(error: BaseException) -> str:
  """The last line of a traceback, with the place it speaks of."""
  line = traceback.format_exception_only(error)[-1].strip()
  frames = traceback.extract_tb(error.__traceback__)
  if not frames:
    return line[:400]
  last = frames[-1]
  return f'{line[:400]} ({os.path.basename(last.filename)}:{last.lineno})'


def place(function: Callable) -> str:
  """'file.py:12', where a function begins; '': it is of no file."""
  for found in (function, getattr(type(function), '__call__', None)):  # noqa: B004
    code = getattr(inspect.unwrap(found), '__code__', None) if found else None
    if code is not None:
      return f'{os.path.basename(code.co_filename)}:{code.co_firstlineno}'
  return ''


def named(name: str, function: Callable) -> str:
  """'"module:function" (file.py:12)', as messages call it."""
  where = place(function)
  return f'"{name}"' + (f' ({where})' if where else '')


def _modules(path: str, folder: str) -> list[str]:
  """Import paths of what lies in a folder where a module is looked for."""
  parents = path.split('.')[:-1]
  try:
    there = sorted(Path(folder, *parents).iterdir())
  except OSError:
    return []
  names = [
    x.stem if x.suffix == '.py' else x.name
    for x in there
    if (x.suffix == '.py' and x.stem != '__init__')
    or (x.is_dir() and any(x.glob('*.py')))
  ]
  return ['.'.join([*parents, name]) for name in names if name.isidentifier()]


def _module(name: str, folder: str) -> Any:
  """The module of 'module:function'.

  Raises:
    ValueError: there is none, with the one in `folder` that may be meant; or
      what stands in it fails, with the file and the line.
  """
  path, _, attribute = name.partition(':')
  try:
    return importlib.import_module(path)
  except SyntaxError as error:  # of the file, or of one that it imports
    file = os.path.basename(error.filename or path)
    line = f':{error.lineno}' if error.lineno else ''
    raise ValueError(f'reward "{name}": {file}{line}: {error.msg}') from None
  except (Exception, SystemExit) as error:
    frames = [
      frame
      for frame in traceback.extract_tb(error.__traceback__)
      if not frame.filename.startswith(_IMPORTS)
    ]
    line = traceback.format_exception_only(error)[-1].strip()[:400]
    if frames:  # first the module's own line, then what that came to
      at = [f'{os.path.basename(x.filename)}:{x.lineno}' for x in frames]
      inner = f' ({at[-1]})' if at[-1] != at[0] else ''
      raise ValueError(
        f'reward "{name}": {path} cannot be imported: {at[0]}: {line}{inner}'
      ) from None
    if not isinstance(error, ModuleNotFoundError):
      raise ValueError(
        f'reward "{name}": {path} cannot be imported: {line}'
      ) from None
    near = closest(path, _modules(path, folder))
    hint = f'. Did you mean "{near}:{attribute}"?' if near else ''
    raise ValueError(
      f'reward "{name}": no module "{path}" in {folder}, nor where Python '
      f'looks for modules{hint}'
    ) from None


def load(name: str, folder: str) -> Callable:
  """The function at 'module:function'.

  folder  where the nearest one is looked for; it is on Python's path

  Raises:
    ValueError: no such module or function, with the nearest one; a module that
      cannot be imported; what is there cannot be called, or not as rewards are.
  """
  path, _, attribute = name.partition(':')
  found = _module(name, folder)
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
  _check_called(name, found)
  return found


def _check_called(name: str, function: Callable) -> None:
  """Raises ValueError for a function that cannot be given the answers."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    raise ValueError(
      f'reward {named(name, function)} does not say what it takes: write a '
      'function that calls it'
    ) from None
  for p in parameters:
    if p.kind is p.POSITIONAL_ONLY:
      raise ValueError(
        f'reward {named(name, function)}: argument "{p.name}" cannot be given '
        'by name'
      )
  takes = [
    p.name
    for p in parameters
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
  ]
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return
  if not set(takes) & set(OF_ANSWERS):
    raise ValueError(
      f'reward {named(name, function)} does not take "completions", and would '
      'see no answer: it is called by name, as f(prompts, completions, '
      f'**columns). It takes: {", ".join(takes) or "(nothing)"}'
    )
