"""What is read of a bucket, as copies on this machine.

  folder('gs://bucket/model')        a folder here, with the model's files
  local('gs://bucket/data/*.jsonl')  files and folders here

Runs are written to and read from a bucket as they are (`core.paths`). Model
folders, tokenizers and files of records are read in pieces, which only a disk
gives: they are copied to $POSTTRAIN_JAX_CACHE, or ~/.cache/posttrain_jax/data,
once, by every machine for itself. A copy has a name made of the names, sizes
and marks of the objects: what has changed is copied anew. The processes of a
machine that share that folder share the copies: one copies, the others wait for
it. What lies there may be deleted whenever no command reads it.
"""

import contextlib
import fcntl
import functools
import glob
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest

__all__ = ['CACHE', 'answered', 'cache_folder', 'folder', 'local', 'sent',
           'writable']  # fmt: skip

CACHE = 'POSTTRAIN_JAX_CACHE'
FOLDER = 'buckets'
LOCKS, HALVES = 'locks', 'halves'  # beside the copies
STALE = 24 * 3600.0  # seconds after which a half is of a process that is gone
NEAR = 20  # names of a folder that a missing one is compared with
# What the folder of a run has one of.
RUN = ('checkpoints', 'metrics.jsonl', 'lease.json')
# What `datasets` writes into a folder that it saves; TFDS, anywhere under one.
SAVED, PREPARED = ('dataset_dict.json', 'state.json'), 'dataset_info.json'


def cache_folder() -> str:
  """Where copies and unpacked files are kept."""
  default = os.path.join('~', '.cache', 'posttrain_jax', 'data')
  return os.path.expanduser(os.environ.get(CACHE) or default)


def _mark(place: paths.Remote) -> str:
  """What changes whenever an object does."""
  backend: Any = place._backend
  if not hasattr(backend, 'fs'):
    stat = place.stat()
    return f'{stat.st_size} {stat.st_mtime_ns}'
  info = backend.fs(str(place)).info(str(place))
  marks = [info.get(key) for key in ('etag', 'ETag', 'generation', 'mtime')]
  return f'{info.get("size")} {marks}'


def _copy(remote: paths.Remote, source: Any, target: Any) -> None:
  """A file, block by block, between a bucket and this machine."""
  backend: Any = remote._backend
  backend.copy(str(source), str(target), overwrite=True)


@contextlib.contextmanager
def answered(url: object, doing: str = 'read') -> Iterator[None]:
  """What a bucket raises, of whatever kind, as a ValueError with the URL.

  doing  what cannot be done then: 'read', 'written'
  """
  try:
    yield
  except ImportError:
    raise
  except Exception as error:  # OSErrors, and those of the bucket's own kinds
    if isinstance(error, ValueError) and str(url) in str(error):
      raise
    said: BaseException = error
    if isinstance(error, paths.Unanswered):
      said = error.__cause__ or error
    raise ValueError(
      f'{url} cannot be {doing}: {paths.first_line(said)}'
    ) from error


def writable(url: str | paths.Remote) -> None:
  """Writes an empty object beside what is to lie at a URL, and deletes it.

  Raises:
    ValueError: it cannot be done; said before the long work.
  """
  place = paths.path(str(url))
  probe = place.with_name(f'{place.name}.try-{uuid.uuid4().hex[:8]}')
  with answered(url, 'written'):
    probe.write_bytes(b'')
    probe.unlink()


@contextlib.contextmanager
def _alone(root: Path, key: str) -> Iterator[None]:
  """Only one process of this machine at a time copies what `key` names; the
  others wait. The lock of one that was killed is gone with it."""
  locks = root / LOCKS
  locks.mkdir(parents=True, exist_ok=True)
  with open(locks / key, 'w') as file:
    # A file system without locks: each copies for itself, which is whole too.
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _swept(root: Path) -> Path:
  """The folder of halves, without those that nobody writes any more."""
  halves = root / HALVES
  halves.mkdir(parents=True, exist_ok=True)
  for half in halves.iterdir():
    with contextlib.suppress(OSError):  # gone meanwhile, or another user's
      if time.time() - half.stat().st_mtime > STALE:
        half.unlink()
  return halves


def _fill(place: Path, missing: Mapping[str, paths.Remote]) -> None:
  """Copies objects to their names in a folder, each there as a whole."""
  halves = _swept(place.parent)
  for name, one in missing.items():
    target = place / name
    target.parent.mkdir(parents=True, exist_ok=True)
    half = halves / uuid.uuid4().hex
    try:
      _copy(one, one, half)
      half.replace(target)  # never half a file under its name
    finally:
      half.unlink(missing_ok=True)


def _copied(url: str, objects: Mapping[str, paths.Remote]) -> Path:
  """The folder of this machine with copies of objects.

  objects  {path under the folder: where it lies}; not to be empty

  Raises:
    ValueError: one cannot be read, or not be written here.
  """
  root = place = Path(cache_folder()) / FOLDER
  missing = lambda: {
    name: one for name, one in objects.items() if not (place / name).exists()
  }
  try:
    marks = [(name, _mark(one)) for name, one in sorted(objects.items())]
    key = hashlib.sha256(repr((url, marks)).encode()).hexdigest()[:32]
    place = root / key
    if missing():
      with _alone(root, key):
        _fill(place, missing())  # what another has copied meanwhile is there
  except ImportError:
    raise
  except Exception as error:  # of the bucket's own kinds, too
    raise ValueError(
      f'{url} cannot be copied to {place}: {paths.first_line(error)}; {CACHE} '
      'names another folder'
    ) from error
  return place


def _listed(root: paths.Remote) -> dict[str, paths.Remote]:
  """What lies in a folder of a bucket, by name; nothing where there is none."""
  try:
    return {child.name: child for child in root.iterdir()}
  except (FileNotFoundError, NotADirectoryError):
    return {}


def folder(url: str, names: tuple[str, ...]) -> str:
  """The copy of a model folder, or of a tokenizer's; the URL itself where that
  is a run, a step of one, a file, or nothing at all.

  names  the files that are copied, those of them that are there

  Raises:
    ValueError: it cannot be read, or not be copied.
  """
  place = _folder(url, names)
  if place != url and not os.path.isdir(place):  # deleted since
    _folder.cache_clear()
    place = _folder(url, names)
  return place


@functools.cache
def _folder(url: str, names: tuple[str, ...]) -> str:
  """`folder`, looked up once by a process."""
  with answered(url):
    wanted = _wanted(url, names)
  return str(_copied(url, wanted)) if wanted else url


def _wanted(url: str, names: tuple[str, ...]) -> dict[str, paths.Remote]:
  """Those of a folder's files that `folder` copies."""
  root = paths.path(url)
  there = _listed(root)
  if any(name in there for name in RUN):
    return {}
  wanted = {name: there[name] for name in names if name in there}
  for name in names:
    if glob.has_magic(name) and name.partition('/')[0] in there:
      wanted |= {f'{x.parent.name}/{x.name}': x for x in root.glob(name)}
  return wanted


def _found(url: str) -> tuple[dict[str, paths.Remote], bool]:
  """({path under a folder: object}, whether that folder is what is meant)."""
  root = paths.path(url)
  if not glob.has_magic(url):
    if root.is_dir():
      names = {
        '/'.join(x.relative_to(root).parts): x
        for x in root.rglob('*')
        if not x.is_dir()
      }
      return names, True
    return ({root.name: root} if root.exists() else {}), False
  while glob.has_magic(str(root)):
    root = root.parent
  pattern = url[len(str(root)) :].strip('/')
  found = (x for x in root.glob(pattern) if not x.is_dir())
  return {'/'.join(x.relative_to(root).parts): x for x in found}, False


def _is_saved(names: Iterable[str]) -> bool:
  """Whether a folder with these files is a data set as a whole."""
  return any(
    name in SAVED or name.rpartition('/')[2] == PREPARED for name in names
  )


def local(url: str) -> list[str]:
  """Copies of a file, of what a glob matches, or of a folder as a whole.

  Raises:
    ValueError: nothing is there, with the nearest name; a folder that is no
      data set, before it is copied; it cannot be read, or not be copied.
  """
  with answered(url):
    objects, whole = _found(url)
    if not objects:
      root = paths.path(url)
      there = list(_listed(root.parent))[:NEAR]
      raise ValueError(f'no file matches "{url}".{nearest(root.name, there)}')
  if whole and not _is_saved(objects):
    raise ValueError(
      f'"{url}" is a folder, and neither one that `datasets` has saved nor one '
      f'of TFDS; give a file, or a glob such as "{url.rstrip("/")}/*.jsonl"'
    )
  place = _copied(url, objects)
  if whole:
    return [str(place)]
  return [str(place / name) for name in sorted(objects)]


def sent(made: Path, place: paths.Remote) -> None:
  """Copies what lies in a folder of this machine into one of a bucket.

  Raises:
    ValueError: it cannot be written.
  """
  with answered(place, 'written'):
    for file in sorted(made.rglob('*')):
      if file.is_file():
        target = place / file.relative_to(made).as_posix()
        _copy(target, file, target)
