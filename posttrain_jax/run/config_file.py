"""Config files: where they are, and what is wrong with one that does not run.

`read` gives what `get_config` of a file returns. A file of one's own may hold
any fault that Python has: it becomes one sentence with the file and the line.
"""

import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

import ml_collections

from posttrain_jax import trainers
from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest

__all__ = ['find', 'read', 'recipes', 'shipped']

# What the files of the package are called in every text.
_SHIPPED = re.compile(r'configs/[^/]+\.py')
_told: set[str] = set()


def _folder() -> Path | None:
  """Where the config files of the installed package are."""
  spec = importlib.util.find_spec('configs')
  return Path(spec.origin).parent if spec and spec.origin else None


def shipped(name: str) -> Path | None:
  """The file configs/NAME.py that came with the package; None: none did."""
  folder = _folder()
  file = folder / f'{name}.py' if folder else None
  return file if file and file.is_file() else None


def recipes(paradigm: str) -> tuple[str, ...]:
  """Names of the recipes that the shipped config file of a paradigm takes; ()
  where none came with the package."""
  file = shipped(paradigm)
  theirs = getattr(_module(file), 'recipes', None) if file else None
  return tuple(theirs.rows(paradigm)) if theirs else ()


def recipe(name: str) -> str:
  """Told where a name that no config file has is that of a recipe."""
  kinds = [kind for kind in trainers.KINDS if name in recipes(kind)]
  given = ' or '.join(f'configs/{kind}.py:recipe={name}' for kind in kinds)
  return f'"{name}" is a recipe: {given}' if kinds else ''


def find(path: str) -> Path:
  """A config file: as given; 'configs/NAME.py' is also one of the package.

  Raises:
    ValueError: there is none, with the nearest one.
  """
  given = Path(paths.expanded(path))
  if given.is_file():
    if given.suffix != '.py':
      raise ValueError(f'{given} is no config file: its name does not end .py')
    return given
  if _SHIPPED.fullmatch(path) and (ours := shipped(given.stem)):
    if path not in _told:
      _told.add(path)
      print(f'note: {path} is not here: {ours} is read', file=sys.stderr)
    return ours
  folder = _folder()
  names = [] if folder is None else [file.name for file in folder.glob('*.py')]
  near = [f'configs/{name}' for name in names if not name.startswith('_')]
  if f'configs/{given.name}' in near:
    raise ValueError(
      f'no config file "{path}". Did you mean "configs/{given.name}", that of '
      'the package?'
    )
  if f'configs/{given.stem}.py' in near:
    raise ValueError(
      f'no config file "{path}". Did you mean "configs/{given.stem}.py"?'
    )
  if told := recipe(given.stem):
    raise ValueError(f'no config file "{path}". {told}')
  near += [
    f'{file}' for file in given.parent.glob('*.py') if file.stem[0] != '_'
  ]
  raise ValueError(f'no config file "{path}".{nearest(path, set(near))}')


def _line(error: BaseException, file: Path) -> str:
  """'FILE:LINE' of the last line of a file that an error came through."""
  if isinstance(error, SyntaxError) and error.filename == str(file):
    return f'{file}:{error.lineno}'
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(file)]
  return f'{file}:{lines[-1]}' if lines else f'{file}'


def _told_as(error: Exception, file: Path) -> ValueError:
  """What a fault in a config file is for whoever gave the file."""
  what = error.msg if isinstance(error, SyntaxError) else str(error)
  kind = type(error).__name__
  named = what if isinstance(error, ValueError) else f'{kind}: {what}'
  return ValueError(f'{_line(error, file)}: {named}')


def _module(file: Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(file.stem, file)
  assert spec is not None and spec.loader is not None  # it ends in .py
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def read(file: Path, arg: str = '') -> ml_collections.ConfigDict:
  """What `get_config(arg)` of a config file returns.

  Raises:
    ValueError: it cannot be run, or returns no config; with file and line. What
      a file of the package says of its argument is said as it is.
  """
  try:
    module = _module(file)
    if not hasattr(module, 'get_config'):
      raise ValueError(f'{file} defines no get_config(arg)')
    takes = inspect.signature(module.get_config).parameters
    if arg and not takes:
      raise ValueError(f'{file}: get_config() takes no argument, not "{arg}"')
    config = module.get_config(arg or None) if takes else module.get_config()
  except Exception as error:
    sentence = isinstance(error, ValueError)
    ours = shipped(file.stem)
    if sentence and ours is not None and ours.samefile(file):
      raise
    if sentence and str(file) in str(error):
      raise
    raise _told_as(error, file) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f'{file}: get_config() returns {type(config).__name__}, not an '
      'ml_collections.ConfigDict; its last line is "return c"'
    )
  return config
