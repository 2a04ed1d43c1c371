"""What is read of a bucket, as copies on this machine.

  folder('gs://bucket/model')        a folder here, with the model's files
  local('gs://bucket/data/*.jsonl')  files and folders here

Runs are written to and read from a bucket as they are (`core.paths`). Model
folders, tokenizers and files of records are read in pieces, which only a disk
gives: they are copied to $POSTTRAIN_JAX_CACHE, or ~/.cache/posttrain_jax/data,
once, by every machine for itself. A copy has a name made of the names, sizes
and marks of the objects: what has changed is copied anew. What lies there may
be deleted at any time.
"""

import functools
import glob
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest

__all__ = ['CACHE', 'cache_folder', 'folder', 'local', 'sent']

CACHE = 'POSTTRAIN_JAX_CACHE'
FOLDER = 'buckets'
NEAR = 20  # names of a folder that a missing one is compared with
# What the folder of a run has one of.
RUN = ('checkpoints', 'metrics.jsonl', 'lease.json')


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


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]


def _copied(url: str, objects: Mapping[str, paths.Remote]) -> Path:
  """The folder of this machine with copies of objects.

  objects  {path under the folder: where it lies}; not to be empty

  Raises:
    ValueError: one cannot be read, or not be written here.
  """
  place = Path(cache_folder()) / FOLDER
  try:
    marks = [(name, _mark(one)) for name, one in sorted(objects.items())]
    key = hashlib.sha256(repr((url, marks)).encode()).hexdigest()[:32]
    place /= key
    for name, one in objects.items():
      target = place / name
      if target.exists():
        continue
      target.parent.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(dir=target.parent) as made:
        half = Path(made) / 'half'
        _copy(one, one, half)
        half.replace(target)  # never half a file under its name
  except ImportError:
    raise
  except Exception as error:  # of the bucket's own kinds, too
    raise ValueError(
      f'{url} cannot be copied to {place}: {_first_line(error)}; {CACHE} names '
      'another folder'
    ) from error
  return place


def _listed(root: paths.Remote) -> dict[str, paths.Remote]:
  """What lies in a folder of a bucket, by name; nothing where there is none."""
  try:
    return {child.name: child for child in root.iterdir()}
  except (FileNotFoundError, NotADirectoryError):
    return {}


@functools.cache
def folder(url: str, names: tuple[str, ...]) -> str:
  """The copy of a model folder, or of a tokenizer's; the URL itself where that
  is a run, a step of one, a file, or nothing at all.

  names  the files that are copied, those of them that are there

  Raises:
    ValueError: it cannot be copied.
  """
  root = paths.path(url)
  there = _listed(root)
  if any(name in there for name in RUN):
    return url
  wanted = {name: there[name] for name in names if name in there}
  for name in names:
    if glob.has_magic(name) and name.partition('/')[0] in there:
      wanted |= {f'{x.parent.name}/{x.name}': x for x in root.glob(name)}
  if not wanted:
    return url
  return str(_copied(url, wanted))


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


def local(url: str) -> list[str]:
  """Copies of a file, of what a glob matches, or of a folder as a whole.

  Raises:
    ValueError: nothing is there, with the nearest name; it cannot be copied.
  """
  objects, whole = _found(url)
  if not objects:
    root = paths.path(url)
    near = nearest(root.name, list(_listed(root.parent))[:NEAR])
    raise ValueError(f'no file matches "{url}".{near}')
  place = _copied(url, objects)
  if whole:
    return [str(place)]
  return [str(place / name) for name in sorted(objects)]


def sent(made: Path, place: paths.Remote) -> None:
  """Copies what lies in a folder of this machine into one of a bucket."""
  for file in sorted(made.rglob('*')):
    if file.is_file():
      target = place / file.relative_to(made).as_posix()
      _copy(target, file, target)
