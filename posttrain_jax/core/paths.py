"""Paths of files that may lie in a bucket: 'gs://bucket/runs/x'.

`path` gives a `pathlib.Path` for what lies on a disk, and for a URL a path that
does the same things over `etils.epath` (which needs gcsfs for gs://, s3fs for
s3://). What only works on a disk goes through a folder of this machine:
`written` and `fetched`. A bucket has no folders, no appending and no renaming
of many files at once; an object is there as a whole or not at all.
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath
from etils.epath.gpath import PosixGPath

from posttrain_jax.core.names import LIKE, closest

__all__ = ['AnyPath', 'Grown', 'Remote', 'Unanswered', 'append', 'create',
           'expanded', 'fetched', 'first_line', 'hint', 'is_remote', 'mended',
           'path', 'plain', 'remove_tree', 'words', 'write',
           'written']  # fmt: skip

_URL = re.compile(r'[a-z][a-z0-9+]*://')
_HOME = re.compile(r'~[A-Za-z0-9_.-]*(/|$)')
# Flags whose value is a text to a model, and no path.
TEXTS = ('--prompt',)
NEAR = 20  # names of a folder that are listed where one is missing


class _Stat(NamedTuple):
  """The part of `os.stat_result` that an object in a bucket has."""

  st_size: int
  st_mtime: float
  st_mtime_ns: int
  st_ctime_ns: int


class Unanswered(Exception):
  """A bucket that does not answer, or refuses, by an error of its own kind:
  what it says, and the URL. No OSError: nobody is to take it for a file that is
  not there."""


def first_line(error: BaseException) -> str:
  """What an error says, in one line of up to 200 characters."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]


@contextlib.contextmanager
def _asked(place: 'Remote', doing: str = 'read') -> Iterator[None]:
  """Raises what the libraries of a bucket raise, with the URL."""
  try:
    yield
  except (OSError, ValueError, ImportError, NotImplementedError, Unanswered):
    raise
  except Exception as error:  # HttpError, those of google.auth, ...
    raise Unanswered(
      f'{place} cannot be {doing}: {first_line(error)}'
    ) from error


class Remote(PosixGPath):
  """A path in a bucket, with what else `pathlib.Path` has and is used here.

  Raises `Unanswered` for errors of the bucket that are no OSError.
  """

  def exists(self, **_: Any) -> bool:
    with _asked(self):
      return super().exists()

  def is_dir(self, **_: Any) -> bool:
    with _asked(self):
      return super().is_dir()

  def read_bytes(self) -> bytes:
    with _asked(self):
      return super().read_bytes()

  def write_bytes(self, data: Any) -> int:
    with _asked(self, 'written'):
      return super().write_bytes(data)

  def unlink(self, missing_ok: bool = False) -> None:
    with _asked(self, 'deleted'):
      super().unlink(missing_ok=missing_ok)

  def mkdir(self, *args: Any, **kwargs: Any) -> None:
    with _asked(self, 'written'):
      super().mkdir(*args, **kwargs)

  def stat(self) -> Any:
    with _asked(self):
      found = super().stat()
    nanoseconds = int(found.mtime * 1e9)
    return _Stat(found.length or 0, found.mtime, nanoseconds, nanoseconds)

  def absolute(self) -> 'Remote':
    return self

  def iterdir(self) -> Iterator['Remote']:
    try:
      with _asked(self):
        found = list(super().iterdir())
    except FileNotFoundError:
      if not self.is_dir():
        raise
      return
    # The listing of an object is the object itself.
    if [x.name for x in found] == [self.name] and not self.is_dir():
      raise NotADirectoryError(f'{self} is a file')
    for child in found:
      if child.name != self.name or child.parent != self.parent:
        yield child

  def rglob(self, pattern: str) -> Iterator['Remote']:
    try:
      found = list(self.iterdir())
    except NotADirectoryError:  # as pathlib has it
      return
    for child in found:
      if child.match(pattern):
        yield child
      if child.is_dir():
        yield from child.rglob(pattern)

  def glob(self, pattern: str) -> Iterator['Remote']:
    if not self.is_dir():
      return
    if '/' in pattern:
      first, _, rest = pattern.partition('/')
      for child in self.glob(first):
        yield from child.glob(rest)
      return
    yield from (child for child in self.iterdir() if child.match(pattern))

  def rename(self, target: Any) -> 'Remote':
    """Moves a file, or what is under a folder, one object after the other."""
    backend: Any = self._backend
    if not hasattr(backend, 'fs'):
      return super().rename(target)
    backend.fs(str(self)).mv(str(self), str(target), recursive=self.is_dir())
    return type(self)(target)

  def replace(self, target: Any) -> 'Remote':
    target = type(self)(target)
    target.write_bytes(self.read_bytes())
    self.unlink()
    return target

  def read_text(self, encoding: str = 'utf-8', errors: str = 'strict') -> str:
    return self.read_bytes().decode(encoding, errors)

  def write_text(self, data: str, encoding: str = 'utf-8', **_: Any) -> int:
    return self.write_bytes(data.encode(encoding))


AnyPath = pathlib.Path | Remote


def is_remote(place: str | os.PathLike) -> bool:
  """Whether a path is a URL."""
  return bool(_URL.match(os.fspath(place)))


def expanded(value: Any) -> Any:
  """A value in which text that begins as a path of the home folder does,
  '~/data.jsonl' or '~name/data.jsonl', has that folder in its place: a shell
  leaves what stands behind '=' as it is.

  value  a text, also with commas between several paths; or a dict or a list
         with such texts in it. Whatever else it is stays
  """
  if isinstance(value, str):
    if not any(map(_HOME.match, value.split(','))):
      return value
    parts = value.split(',')
    return ','.join(
      os.path.expanduser(x) if _HOME.match(x) else x for x in parts
    )
  if isinstance(value, dict):
    return {key: expanded(item) for key, item in value.items()}
  if isinstance(value, tuple | list):
    return type(value)(map(expanded, value))
  return value


def words(argv: Sequence[str] | None) -> list[str]:
  """The words of a command line, with home folders written out (`expanded`).

  argv  None: those of the process
  """
  out: list[str] = []
  for word in sys.argv[1:] if argv is None else argv:
    flag, equals, value = word.partition('=')
    name = flag if equals and flag.startswith('--') else ''
    if (name or (out[-1] if out else '')) in TEXTS:
      out.append(word)
    elif name:
      out.append(f'{name}={expanded(value)}')
    else:
      out.append(expanded(word))
  return out


def path(place: str | os.PathLike) -> Any:
  """A `pathlib.Path`, or a `Remote` of a URL.

  Raises:
    ValueError: a URL of a kind that is not known, with those that are.
  """
  text = os.fspath(place)
  if not is_remote(text):
    return pathlib.Path(place)
  scheme = text.partition('://')[0]
  if scheme not in ('gs', 's3'):
    raise ValueError(f'{text}: "{scheme}://" is not known; valid: gs://, s3://')
  return Remote(text)


def _beside(folder: str, folders: bool) -> list[str]:
  """What lies in a folder and is not hidden; `folders`: its folders alone."""
  try:
    with os.scandir(folder or '.') as found:
      return [
        entry.name
        for entry in found
        if entry.name[0] != '.' and (entry.is_dir() or not folders)
      ]
  except OSError:
    return []


def mended(
  place: str | os.PathLike, folders: bool = False, least: float = LIKE
) -> str:
  """The path that is there and whose parts are near those of one that is not;
  '' where there is none, and for what lies in a bucket.

  folders  whether only folders can be meant
  least    as of `closest`; higher for what may be no path at all
  """
  if is_remote(place):
    return ''
  made = ''
  parts = pathlib.Path(place).parts
  for number, part in enumerate(parts, 1):
    whole = os.path.join(made, part)
    if not os.path.exists(whole):
      there = _beside(made, folders or number < len(parts))
      close = closest(part, there, least)
      if not close:
        return ''
      whole = os.path.join(made, close)
    made = whole
  return made if made != os.fspath(place) else ''


def hint(place: str | os.PathLike, folders: bool = False) -> str:
  """What there is in place of a path that is not there, to be added behind what
  says so: '. Did you mean "runs/sft"?', with all there is where that is little.
  '' of what lies in a bucket, and where there is nothing.

  folders  as `mended`
  """
  if is_remote(place):
    return ''
  folder, name = os.path.split(os.fspath(place).rstrip('/'))
  found = mended(place, folders)
  told = f'. Did you mean "{found}"?' if found else ''
  if folder and not os.path.isdir(folder):
    kind = f'"{folder}" is a file' if os.path.exists(folder) else (
      f'No folder "{folder}"'
    )  # fmt: skip
    return told or f'. {kind}'
  there = _beside(folder, folders)
  if folders or not name or not 0 < len(there) <= NEAR:
    return told
  return f'{told or "."} Valid: {", ".join(sorted(there))}'


def plain(place: AnyPath) -> Any:
  """The path as other libraries take it."""
  return epath.Path(str(place)) if is_remote(place) else place


def write(place: AnyPath, data: str | bytes) -> None:
  """Writes a file whole or not at all."""
  data = data.encode() if isinstance(data, str) else data
  if isinstance(place, Remote):
    place.write_bytes(data)
    return
  temporary = place.with_name(place.name + '.tmp')
  temporary.write_bytes(data)
  temporary.replace(place)


def append(place: AnyPath, text: str) -> None:
  """Adds to the end of a file, which is made where it is not there."""
  if isinstance(place, Remote):  # an object is written anew
    old = place.read_bytes() if place.exists() else b''
    place.write_bytes(old + text.encode())
    return
  with place.open('a', encoding='utf-8') as file:
    file.write(text)


def create(place: AnyPath, text: str) -> None:
  """Makes a file, in one operation.

  Raises:
    FileExistsError: it is there.
  """
  if not isinstance(place, Remote):
    handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    with os.fdopen(handle, 'w') as file:
      file.write(text)
    return
  backend: Any = place._backend
  if not hasattr(backend, 'fs'):  # no such operation: the time between is short
    if place.exists():
      raise FileExistsError(str(place))
    place.write_text(text)
    return
  backend.fs(str(place)).pipe_file(str(place), text.encode(), mode='create')


def remove_tree(place: AnyPath) -> None:
  """Removes a folder with all that is in it, if it is there."""
  with contextlib.suppress(OSError):
    epath.Path(str(place)).rmtree(missing_ok=True)


@contextlib.contextmanager
def written(place: AnyPath) -> Iterator[pathlib.Path]:
  """A path of this machine to write a file to, which then is at `place`."""
  if not isinstance(place, Remote):
    made = place.with_name(f'.{place.name}')
    yield made
    made.replace(place)
    return
  with tempfile.TemporaryDirectory() as folder:
    made = pathlib.Path(folder) / place.name
    yield made
    place.write_bytes(made.read_bytes())


@contextlib.contextmanager
def fetched(place: AnyPath) -> Iterator[pathlib.Path]:
  """A path of this machine with what stands in a file."""
  if not isinstance(place, Remote):
    yield place
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / place.name
    copy.write_bytes(place.read_bytes())
    yield copy


class Grown:
  """A text file in a bucket that lines are added to.

  They go to a file of this machine, and to the bucket with `sync`, or with a
  `flush` after EVERY seconds.
  """

  EVERY = 30.0

  def __init__(self, place: Remote):
    self._place = place
    self._file = tempfile.NamedTemporaryFile('w+b')  # noqa: SIM115
    if place.exists():
      self._file.write(place.read_bytes())
    self._sent = time.monotonic()

  def write(self, text: str) -> None:
    self._file.write(text.encode())

  def flush(self) -> None:
    if time.monotonic() - self._sent > self.EVERY:
      self.sync()

  def sync(self) -> None:
    self._file.flush()
    self._place.write_bytes(pathlib.Path(self._file.name).read_bytes())
    self._sent = time.monotonic()

  def close(self) -> None:
    if not self._file.closed:
      self.sync()
      self._file.close()
