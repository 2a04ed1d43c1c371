"""What rewards of texts share: an answer's text, its end, the right answer.

Runs in worker processes, so nothing here may import jax.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

__all__ = [
  'accepted',
  'boxed',
  'either',
  'empty',
  'final',
  'gold',
  'null',
  'number',
  'numbers',
  'picked',
  'same_number',
  'spoken',
  'text_of',
]

# Columns with the right answer, where none is named: TRL's, then GSM8K's.
ANSWERS = ('solution', 'answer')
GSM8K = '####'  # what stands before the answer in that data set
_TAGGED = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
_BOX = re.compile(r'\\(?:boxed|fbox)\s*\{')
_FRACTION = re.compile(r'\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}')
_WHOLE = r'(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)'
_PLAIN = rf'(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?'
# A sign after a word, a number or a bracket is an operator.
_SIGN = r'(?:(?<![\w)\]}.])[-+\u2212])?'
_NUMBER = re.compile(rf'{_SIGN}\$?{_PLAIN}(?:\s*/\s*{_PLAIN})?')


def text_of(completion: str | Sequence[dict]) -> str:
  """The text of a completion: a string, or messages (their contents)."""
  if isinstance(completion, str):
    return completion
  return ''.join(str(turn.get('content') or '') for turn in completion)


def spoken(text: str) -> str:
  """What follows the thoughts; '' where they never end."""
  thoughts, found, rest = text.rpartition('</think>')
  if found:
    return rest
  return '' if '<think>' in text else text


def boxed(text: str) -> str | None:
  """What stands in the last \\boxed{...} that is closed."""
  found = None
  for match in _BOX.finditer(text):
    depth, at = 1, match.end()
    while depth and at < len(text):
      # An escaped brace is a brace of a set.
      if text[at] == '\\':
        at += 1
      else:
        depth += {'{': 1, '}': -1}.get(text[at], 0)
      at += 1
    if not depth:
      found = text[match.end() : at - 1].strip()
  return found


def final(text: str) -> str:
  """The answer of a completion, as far as it is marked.

  After the thoughts: what stands in the last <answer>...</answer>, else in the
  last \\boxed{...}, else after the last '####', else all of it.
  """
  text = spoken(text)
  if tagged := _TAGGED.findall(text):
    text = tagged[-1]
  inside = boxed(text)
  if inside is not None:
    return inside
  return text.rpartition(GSM8K)[2].strip()


def gold(value: Any) -> str:
  """The right answer of a column's value; after '####', as in GSM8K."""
  return str(value).rpartition(GSM8K)[2].strip()


def null(value: Any) -> bool:
  """Whether a column's value is none at all: null or nan."""
  return value is None or (isinstance(value, float) and math.isnan(value))


def empty(value: Any) -> bool:
  """Whether a column's value says nothing: null, nan, a blank text, or a list
  that has nothing but these."""
  if isinstance(value, str):
    return not value or value.isspace()
  if isinstance(value, list | tuple):
    return all(map(empty, value))
  return null(value)


def accepted(answer: Any) -> list:
  """The right answers that a column's value lists: itself, where it is no list;
  without those that are empty."""
  listed = answer if isinstance(answer, list | tuple) else [answer]
  return [one for one in listed if not empty(one)]


def either(names: Sequence[str]) -> str:
  """'"a" or "b"', for messages."""
  return ' or '.join(f'"{name}"' for name in names)


def picked(columns: dict[str, Any], column: str) -> list:
  """The column called `column`; '': the first there is of ANSWERS, also in
  rows where it is empty and the next one is not.

  Raises:
    ValueError: there is no such column.
  """
  for name in (column,) if column else ANSWERS:
    if name in columns:
      return columns[name]
  raise ValueError(f'no column {either((column,) if column else ANSWERS)}')


def _value(text: str) -> int | float | None:
  """A number as Python's; None for one that no float holds."""
  text = re.sub(r'[\s$,+]', '', text).replace('\u2212', '-')
  above, _, below = text.partition('/')
  try:
    if not below:
      value = int(above) if above.lstrip('-').isdigit() else float(above)
    else:
      value = float(above) / float(below)
    return value if math.isfinite(value) else None
  except (ValueError, OverflowError, ZeroDivisionError):
    return None


def numbers(text: str) -> list[int | float]:
  """All numbers of a text: signs, thousands, fractions; % and $ are passed
  over."""
  text = _FRACTION.sub(r'\1/\2', text)
  found = (_value(match.group()) for match in _NUMBER.finditer(text))
  return [value for value in found if value is not None]


def number(text: str) -> int | float | None:
  """The last number of an answer."""
  return next(reversed(numbers(text)), None)


def same_number(a: int | float, b: int | float, tolerance: float) -> bool:
  """Whether `a` is `b`, up to a share `tolerance` of `b`."""
  if isinstance(a, int) and isinstance(b, int):
    return a == b or abs(a - b) <= tolerance * abs(b)
  return abs(float(a) - float(b)) <= tolerance * abs(float(b))
