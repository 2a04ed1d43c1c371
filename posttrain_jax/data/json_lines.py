"""JSON Lines files: which they are, where their lines lie, what a line says.

Whatever is odd about a file is told as 'file:line: what', in one short line: a
ValueError never holds more than a few characters of the data.
"""

import glob
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.quoting import listed, quoted, shown

__all__ = ['expand', 'lines', 'parse']

MAX_LINE = 2**26  # bytes; a longer line is no record
NEAR = 20  # names of a folder that are compared with one that is missing
BOM = b'\xef\xbb\xbf'
# What files that are no text begin with, and what to do about them.
MAGIC = {
  b'\x1f\x8b': 'compressed by gzip: unpack it first (gunzip)',
  b'BZh': 'compressed by bzip2: unpack it first (bunzip2)',
  b'\xfd7zXZ': 'compressed by xz: unpack it first (unxz)',
  b'\x28\xb5\x2f\xfd': 'compressed by zstd: unpack it first (unzstd)',
  b'PK\x03\x04': 'a zip archive: unpack it first (unzip)',
  b'PAR1': 'a Parquet file: write its rows as JSON Lines first',
  b'ARROW1': 'an Arrow file: write its rows as JSON Lines first',
  b'\xff\xfe': 'UTF-16 text: save it as UTF-8',
  b'\xfe\xff': 'UTF-16 text: save it as UTF-8',
}


def _check_file(path: str) -> None:
  """Raises ValueError unless `path` is a readable text file of some kind."""
  try:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
      raise ValueError(
        f'"{path}" is a folder; give a file, or a glob such as '
        f'"{os.path.join(path, "*.jsonl")}"'
      )
    if not stat.S_ISREG(mode):  # a pipe would be read once, or wait for ever
      raise ValueError(f'"{path}" is no regular file; records are read twice')
    with open(path, 'rb') as file:
      start = file.read(8)
  except OSError as error:
    raise ValueError(f'"{path}" cannot be read: {error.strerror}') from None
  for magic, told in MAGIC.items():
    if start.startswith(magic):
      raise ValueError(f'{path}: {told}')


def _hint(path: str) -> str:
  """What there is in place of a path."""
  folder, name = os.path.split(path)
  if not os.path.isdir(folder or '.'):
    return f' No folder "{folder}".'
  listing = os.listdir(folder or '.')
  if len(listing) <= NEAR:
    return nearest(name, listing)
  # Of thousands of files, those near it are enough.
  close = [other for other in listing if other[:1] == name[:1]][:NEAR]
  return nearest(name, close).split(' Valid: ')[0]


def expand(paths: str | Sequence[str]) -> list[str]:
  """Files of a path, a glob or a list of both, in a fixed order.

  Raises:
    ValueError: nothing matches (with the nearest name), or what does is a
      folder, compressed or not readable.
  """
  paths = [paths] if isinstance(paths, str | os.PathLike) else paths
  files: list[str] = []
  for path in map(os.fspath, paths):
    # A file may have glob characters in its name.
    found = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not found:
      raise ValueError(f'no file matches "{path}".{_hint(path)}')
    files.extend(found)
  for path in files:
    _check_file(path)
  return files


def lines(path: str) -> Iterator[tuple[int, int, bytes]]:
  """(number from 1, offset in bytes, bytes) of every line that is not blank.

  Raises:
    ValueError: a line longer than MAX_LINE, or a file that cannot be read.
  """
  offset, number = 0, 0
  try:
    with open(path, 'rb') as file:
      while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
          told = ': is it one JSON array?' if line[:1] == b'[' else ''
          raise ValueError(
            f'{path}:{number}: a line of more than {MAX_LINE:,} bytes{told}; '
            'one record a line is expected'
          )
        if line.strip().removeprefix(BOM):
          yield number, offset, line
        offset += len(line)
  except OSError as error:
    raise ValueError(f'"{path}" cannot be read: {error.strerror}') from None


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


def _syntax(text: str, error: json.JSONDecodeError) -> str:
  """What is wrong with a line that is no JSON, with what stands there."""
  here = text[error.pos : error.pos + 20]
  told = f'character {error.pos + 1}: {error.msg}'
  if '\0' in here[:1]:
    return f'character {error.pos + 1}: a NUL byte; the file is damaged'
  if '\r' in text:
    return f'{told}; lines end in CR alone: end them in LF'
  if error.pos >= len(text):
    return f'{told} at the end of the line; one whole record a line is expected'
  return f'{told}, found {shown(here)}'


def parse(line: bytes, where: str) -> dict[str, Any]:
  """The JSON object of a line.

  A byte order mark before it is passed over.

  Raises:
    ValueError: bytes that are not UTF-8, no JSON, not an object, nested too
      deeply, a key that stands twice, or NaN or Infinity.
  """
  try:
    text = line.strip().removeprefix(BOM).decode('utf-8')
    value = _DECODER.decode(text)
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
  if isinstance(value, list):
    raise ValueError(
      f'{where}: expected a JSON object, got an array of {len(value)}; write '
      'one record a line (jq -c ".[]")'
    )
  if not isinstance(value, dict):
    raise ValueError(f'{where}: expected a JSON object, got {shown(value)}')
  return value


def no_records(files: Sequence[str]) -> ValueError:
  """What to raise where all lines of all files are blank."""
  return ValueError(f'no records in {listed(files)}')
