"""Values of a user's data in error messages: short, on one line, printable."""

import json
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = ['listed', 'quoted', 'shown']

LENGTH = 60  # characters of a value
NAMES = 8  # of a list
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 3, 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LENGTH


def _printable(text: str) -> str:
  """Half characters, which no terminal takes, by their escapes."""
  return text.encode('utf-8', 'backslashreplace').decode()


def shown(value: Any) -> str:
  """A value as Python writes it, cut to about 60 characters."""
  text = _printable(_REPR.repr(value))
  return text if len(text) <= 2 * LENGTH else text[: 2 * LENGTH] + '...'


def quoted(name: Any) -> str:
  """A name in double quotes, on one line."""
  name = str(name)
  cut = name if len(name) <= LENGTH else name[:LENGTH] + '...'
  return _printable(json.dumps(cut, ensure_ascii=False))


def listed(names: Iterable[Any]) -> str:
  """The first few names, and how many more there are."""
  names = list(names)
  more = f' and {len(names) - NAMES} more' if len(names) > NAMES else ''
  return ', '.join(quoted(name)[1:-1] for name in names[:NAMES]) + more
