"""JSON Lines: where the lines of a file lie, and what a line says.

Whatever is odd about a file is told as 'file:line: what', in one short line: a
ValueError never holds more than a few characters of the data.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from posttrain_jax.data.quoting import quoted, shown

__all__ = ['array', 'lines', 'parse']

MAX_LINE = 2**26  # bytes; a longer line is no record
MAX_ARRAY = 2**28  # bytes; a larger array is not held in memory
BOM = b'\xef\xbb\xbf'


def lines(path: str, shown_as: str = '') -> Iterator[tuple[int, int, bytes]]:
  """(number from 1, offset in bytes, bytes) of every line that is not blank.

  shown_as  the path for messages, where it is another

  Raises:
    ValueError: a line longer than MAX_LINE, or a file that cannot be read.
  """
  shown_as = shown_as or path
  offset, number = 0, 0
  try:
    with open(path, 'rb') as file:
      while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
          told = ': is it one JSON array?' if line[:1] == b'[' else ''
          raise ValueError(
            f'{shown_as}:{number}: a line of more than {MAX_LINE:,} bytes'
            f'{told}; one record a line is expected'
          )
        if line.strip().removeprefix(BOM):
          yield number, offset, line
        offset += len(line)
  except OSError as error:
    raise ValueError(f'"{shown_as}" cannot be read: {error.strerror}') from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; of two equal keys, JSON itself would lose the first."""
  out = dict(pairs)
  if len(out) != len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'key {quoted(twice)} stands twice in one object')
  return out


def _constant(name: str) -> Any:
  raise ValueError(f'{name} is not JSON; write null, or leave the key out')


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


# What cuts the cells of a table, and the argument of csv that says so.
_CUT = {
  'commas': '',
  'tabs': ", delimiter='\\t'",
  'semicolons': ", delimiter=';'",
}
_CELL = re.compile(r'\s*"?[A-Za-z_][\w .-]{0,60}"?\s*')


def _table(text: str) -> str:
  """What cuts the names of columns that a line is; '' where it is none."""
  for mark, name in ((',', 'commas'), ('\t', 'tabs'), (';', 'semicolons')):
    cells = text[:2000].split(mark)
    if len(cells) > 1 and all(_CELL.fullmatch(cell) for cell in cells):
      return name
  return ''


def _syntax(text: str, error: json.JSONDecodeError) -> str:
  """What is wrong with a line that is no JSON, with what stands there."""
  here = text[error.pos : error.pos + 20]
  told = f'character {error.pos + 1}: {error.msg}'
  if '\0' in here[:1]:
    return f'character {error.pos + 1}: a NUL byte; the file is damaged'
  if '\r' in text and '\n' not in text:
    return f'{told}; lines end in CR alone: end them in LF'
  if mark := _table(text):
    return (
      f'no JSON but a table, cut at {mark}; write it as JSON lines: python -c '
      f'"import csv, json; [print(json.dumps(r)) for r in csv.DictReader('
      f"open('x.csv', encoding='utf-8-sig', newline='')"
      f'{_CUT[mark]})]" > x.jsonl'
    )
  if error.pos >= len(text):
    return f'{told} at the end of the line; one whole record a line is expected'
  return f'{told}, found {shown(here)}'


def _decoded(data: bytes, where: str) -> Any:
  """The JSON value of some bytes; a byte order mark is passed over."""
  try:
    text = data.strip().removeprefix(BOM).decode('utf-8')
    return _DECODER.decode(text)
  except UnicodeDecodeError as error:
    byte = error.object[error.start]
    raise ValueError(
      f'{where}: byte {error.start + 1} (0x{byte:02x}) is not UTF-8'
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(f'{where}: {_syntax(text, error)}') from None
  except RecursionError:
    raise ValueError(f'{where}: nested too deeply') from None
  except ValueError as error:
    raise ValueError(f'{where}: {str(error)[:200]}') from None


def parse(line: bytes, where: str) -> dict[str, Any]:
  """The JSON object of a line.

  A byte order mark before it is passed over.

  Raises:
    ValueError: bytes that are not UTF-8, no JSON, not an object, nested too
      deeply, a key that stands twice, or NaN or Infinity.
  """
  value = _decoded(line, where)
  if isinstance(value, list):
    raise ValueError(
      f'{where}: expected a JSON object, got an array of {len(value)}; write '
      'one record a line (jq -c ".[]"), or name the file .json'
    )
  if not isinstance(value, dict):
    raise ValueError(f'{where}: expected a JSON object, got {shown(value)}')
  return value


def array(path: str) -> list[Any]:
  """The items of a file that is one JSON array.

  Raises:
    ValueError: it is too large, or is no such file.
  """
  with open(path, 'rb') as file:
    data = file.read(MAX_ARRAY + 1)
  if len(data) > MAX_ARRAY:
    raise ValueError(
      f'{path}: an array of more than {MAX_ARRAY:,} bytes; write one record a '
      'line (jq -c ".[]"), which is read piece by piece'
    )
  value = _decoded(data, path)
  if not isinstance(value, list):
    raise ValueError(f'{path}: expected an array, got {shown(value)}')
  return value
