"""Which files a path names, what each of them is, and whether it has changed.

  kind          told by
  jsonl         nothing else: lines of text, one JSON object each
  gzip, zstd    its first bytes; inside are such lines
  json          the suffix .json and an opening bracket: an array of objects
  parquet       its first bytes
  arrow         its first bytes, or the suffix .arrow (a stream)
  array_record  its name; each record is a JSON object

Compressed files, and Parquet files that are large, are unpacked once into a
folder: $POSTTRAIN_JAX_CACHE, or ~/.cache/posttrain_jax/data. What lies there
may be deleted whenever no command reads it.
"""

import functools
import glob
import gzip
import hashlib
import os
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

from posttrain_jax.core import lfs
from posttrain_jax.core.buckets import CACHE, cache_folder
from posttrain_jax.core.paths import hint

__all__ = [
  'Unreadable',
  'arrow',
  'digest',
  'expand',
  'kind_of',
  'patiently',
  'stamp',
  'unpack',
  'unzipped',
]

WHOLE = 2**27  # bytes up to which a digest is of every byte
BLOCKS, BLOCK = 64, 2**20  # of larger files: this many, of this many bytes
# What files begin with, and which kind that is.
KINDS = {
  b'\x1f\x8b': 'gzip',
  b'\x28\xb5\x2f\xfd': 'zstd',
  b'PAR1': 'parquet',
  b'ARROW1': 'arrow',
}
# What files that are not read begin with, and what to do about them.
REFUSED = {
  b'BZh': 'compressed by bzip2: unpack it first (bunzip2)',
  b'\xfd7zXZ': 'compressed by xz: unpack it first (unxz)',
  b'PK\x03\x04': 'a zip archive: unpack it first (unzip)',
  b'\xff\xfe': 'UTF-16 text: save it as UTF-8',
  b'\xfe\xff': 'UTF-16 text: save it as UTF-8',
}
RECORDS = ('.array_record', '.arrayrecord')


# Seconds between tries where a file system does not answer.
PAUSES = (0.1, 0.5, 2.0, 5.0)


class Unreadable(OSError):
  """A file that could be read, and cannot be any more. No fault of a record:
  none is left out for it."""


def patiently(read: Callable[[], Any], where: str) -> Any:
  """`read()`, a few times over where the file system does not answer.

  Raises:
    Unreadable: it still fails; says where.
  """
  for pause in (*PAUSES, None):
    try:
      return read()
    except OSError as error:
      if pause is None:
        raise Unreadable(
          f'{where}: the file cannot be read any more: '
          f'{error.strerror or error}'
        ) from None
      time.sleep(pause)


def _check_regular(path: str) -> None:
  mode = os.stat(path).st_mode
  if stat.S_ISDIR(mode):
    raise ValueError(
      f'"{path}" is a folder; give a file, or a glob such as '
      f'"{os.path.join(path, "*.jsonl")}"'
    )
  if not stat.S_ISREG(mode):  # a pipe would be read once, or wait for ever
    raise ValueError(f'"{path}" is no regular file; records are read twice')


def kind_of(path: str) -> str:
  """What a file is, of the kinds above.

  Raises:
    ValueError: it is a folder, not readable, or of a kind that is not read.
  """
  try:
    _check_regular(path)
    with open(path, 'rb') as file:
      start = file.read(8)
      name = os.path.basename(path).lower()
      if any(suffix in name for suffix in RECORDS):
        return 'array_record'
      if told := lfs.pointer(path):
        raise ValueError(f'{path}: {told}')
      for magic, told in REFUSED.items():
        if start.startswith(magic):
          raise ValueError(f'{path}: {told}')
      for magic, kind in KINDS.items():
        if start.startswith(magic):
          return kind
      if name.endswith('.arrow'):
        return 'arrow'
      if name.endswith('.json') and (start + file.read(99)).lstrip(
        b'\xef\xbb\xbf \t\r\n'
      ).startswith(b'['):
        return 'json'
  except OSError as error:
    raise ValueError(f'"{path}" cannot be read: {error.strerror}') from None
  return 'jsonl'


def _matching(path: str) -> list[str]:
  """What is there of a path or a glob."""
  # A file may have glob characters in its name.
  return [path] if os.path.exists(path) else sorted(glob.glob(path))


def expand(paths: str | Sequence[str]) -> list[str]:
  """Files and folders of a path, a glob or a list of both, in a fixed order.

  A path that is none, with commas between paths that are, is all of these.

  Raises:
    ValueError: nothing matches, with the nearest name.
  """
  paths = [paths] if isinstance(paths, str | os.PathLike) else paths
  found: list[str] = []
  for path in map(os.fspath, paths):
    there = _matching(path)
    if not there and ',' in path:
      there = _listed(path)
    if not there:
      raise ValueError(f'no file matches "{path}"{hint(path)}')
    found.extend(there)
  return found


def _listed(path: str) -> list[str]:
  """Files of 'a.jsonl,b.jsonl'; none where not one of them is there.

  Raises:
    ValueError: only some are there.
  """
  parts = [os.path.expanduser(part.strip()) for part in path.split(',')]
  there = [(part, _matching(part)) for part in parts if part]
  gone = [part for part, found in there if not found]
  if len(gone) == len(there):
    return []
  if gone:
    raise ValueError(
      f'no file matches "{path}", and of what stands between its commas '
      f'"{gone[0]}" is not there{hint(gone[0])}'
    )
  return [file for _, found in there for file in found]


def stamp(files: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
  """(path, size, time of change) of every file: cheap, and of this machine."""
  stats = [(path, os.stat(path)) for path in files]
  return tuple((path, s.st_size, s.st_mtime_ns) for path, s in stats)


@functools.lru_cache(4096)
def _digest(path: str, size: int, changed: int) -> str:
  del changed  # another time is another entry of the cache
  found = hashlib.blake2b(str(size).encode(), digest_size=16)
  with open(path, 'rb') as file:
    if size <= WHOLE:
      while block := file.read(BLOCK):
        found.update(block)
    else:
      for index in range(BLOCKS):
        file.seek((size - BLOCK) * index // (BLOCKS - 1))
        found.update(file.read(BLOCK))
  return found.hexdigest()


def digest(path: str) -> str:
  """A digest of what a file says, the same on every machine.

  Of a file over WHOLE bytes it covers the size and BLOCKS blocks of it.
  """
  return _digest(*stamp([path])[0])


def arrow(module: str = '') -> Any:
  """pyarrow, or one of its modules; it is large, and rarely needed.

  Raises:
    ValueError: it is not installed.
  """
  import importlib

  try:
    return importlib.import_module(f'pyarrow{module and "."}{module}')
  except ImportError as error:
    raise ValueError(
      'Parquet, Arrow and zstd files are read by pyarrow, which is not '
      f'installed ({error}): pip install pyarrow'
    ) from None


def unpack(path: str, suffix: str, write: Callable[[BinaryIO], None]) -> str:
  """The unpacked form of a file, made once by `write(file)`.

  Raises:
    ValueError: it cannot be written, or `path` is damaged.
  """
  path_, size, changed = os.path.realpath(path), *stamp([path])[0][1:]
  key = f'{path_}\0{size}\0{changed}'.encode('utf-8', 'surrogateescape')
  name = hashlib.sha256(key).hexdigest()[:32] + suffix
  folder = cache_folder()
  place = os.path.join(folder, name)
  if os.path.exists(place):
    return place
  try:
    os.makedirs(folder, exist_ok=True)
    out = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115
  except OSError as error:
    raise ValueError(
      f'{path} is unpacked into {folder}, which cannot be written: '
      f'{error.strerror}; set {CACHE} to another folder'
    ) from None
  try:
    with out:
      write(out)
    os.replace(out.name, place)  # never half a file under its name
  except BaseException:
    os.unlink(out.name)
    raise
  return place


def unzipped(path: str, kind: str) -> str:
  """The lines of a 'gzip' or 'zstd' file, as a file of their own.

  Raises:
    ValueError: as `unpack`.
  """

  def write(out: BinaryIO) -> None:
    try:
      if kind == 'gzip':
        with gzip.open(path) as file:
          shutil.copyfileobj(file, out, BLOCK)
      else:
        pyarrow = arrow()
        with pyarrow.CompressedInputStream(path, 'zstd') as file:
          while block := file.read(BLOCK):
            out.write(block)
    except (OSError, EOFError, zlib.error, ValueError) as error:
      if getattr(error, 'errno', None) is not None:
        raise ValueError(
          f'{path} cannot be unpacked into {cache_folder()}: {error}; set '
          f'{CACHE} to another folder'
        ) from None
      told = (str(error).splitlines() or [''])[0][:200]
      raise ValueError(f'{path}: damaged, as {kind} says: {told}') from None

  return unpack(path, '.jsonl', write)
