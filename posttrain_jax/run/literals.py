"""Values of a config as a command line writes them."""

import ast
import json
from typing import Any

__all__ = ['kind', 'listed']


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; of two equal keys, JSON itself would lose the first."""
  out = dict(pairs)
  if len(out) != len(pairs):
    raise ValueError('a key stands twice')
  return out


def listed(text: str) -> tuple:
  """The items of a list as JSON or Python writes it, or with commas between.

  A lone object is a list of one. True, false and null are JSON's or Python's.

  Raises:
    TypeError: it is written as one value.
    ValueError, SyntaxError: it is no literal, or an object has a key twice.
  """
  if not text.startswith(('(', '[', '{')):
    return tuple(item for item in text.split(',') if item)
  try:
    found = json.loads(text, object_pairs_hook=_object)
  except json.JSONDecodeError:
    found = ast.literal_eval(text)
  if isinstance(found, dict):
    return (found,)
  if not isinstance(found, list | tuple):
    raise TypeError(f'{found!r} is no list')
  return tuple(found)


def kind(value: Any) -> str:
  """'an int', 'a str' of a value."""
  name = type(value).__name__
  return f'an {name}' if name[0] in 'aeiou' else f'a {name}'
