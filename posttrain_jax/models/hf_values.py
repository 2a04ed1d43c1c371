"""Values of a JSON file, checked: errors name file, key and what is valid."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from posttrain_jax.core import lfs
from posttrain_jax.models.architectures import Architecture

__all__ = ['Source', 'read_json', 'refuse']


def read_json(file: Path) -> dict[str, Any]:
  """The object in a JSON file; errors name the file."""
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{file}: no such file; a local folder with config.json and safetensors '
      'is needed'
    ) from None
  except ValueError as error:
    told = lfs.pointer(file) or f'not JSON: {error}'
    raise ValueError(f'{file}: {told}') from error
  if not isinstance(content, dict):
    raise ValueError(f'{file}: an object is needed, not {content!r:.40}')
  return content


def refuse(file: Path, key: str, value, supported: Iterable) -> NoReturn:
  """Raises ValueError for a value that is not one of `supported`."""
  shown = f'{value!r}'
  shown = shown if len(shown) < 400 else f'{shown[:400]}...'
  raise ValueError(
    f'{file}: {key}={shown} is not supported. Supported: '
    + (', '.join(repr(x) for x in supported) or 'leaving it out')
  )


class Source(NamedTuple):
  """A config.json and what its class says of it."""

  file: Path
  values: dict[str, Any]
  architecture: Architecture

  def name(self, key: str) -> str:
    """What the class calls Llama's `key`."""
    return self.architecture.names.get(key, key)

  def has(self, key: str) -> bool:
    return self.name(key) in self.values

  def get(self, key: str, default: Any = None) -> Any:
    """The value of a key; absent or null: the class's default, or `default`."""
    value = self.values.get(self.name(key))
    if value is None:
      value = self.architecture.defaults.get(key, default)
    return value

  def number(
    self, key: str, kind: type, default=None, *, zero: bool = False
  ) -> Any:
    """A positive number (or `zero`).

    Raises:
      ValueError: it is something else, or missing where there is no default.
    """
    return number(
      self.file, self.name(key), self.get(key, default), kind, zero=zero
    )

  def flag(self, key: str, default: bool = False) -> bool:
    """A truth value."""
    value = self.get(key, default)
    if value not in (False, True):
      refuse(self.file, self.name(key), value, (False, True))
    return bool(value)


def number(file: Path, key: str, value, kind: type, *, zero: bool = False):
  """`value` as a positive `kind`."""
  if value is None:
    raise ValueError(f'{file}: key "{key}" is missing')
  accepted = (int, float) if kind is float else (int,)
  right = isinstance(value, accepted) and not isinstance(value, bool)
  if not right or value < 0 or (value == 0 and not zero):
    sign = 'non-negative' if zero else 'positive'
    raise ValueError(f'{file}: {key}={value!r} is no {sign} {kind.__name__}')
  return kind(value)
