"""Folders: that of the run, and that of compiled programs."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.core.units import shown_bytes
from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning

__all__ = ['cache', 'cache_folder', 'workdir']

GIB = 2**30
# Free space: below the one the first checkpoint may not fit, below the other
# one of a model of a billion parameters with its optimizer does not.
LEAST, FEW = 1 * GIB, 20 * GIB
LARGE_CACHE = 20 * GIB
SIZE = 2**20
FULL = (errno.ENOSPC, errno.EDQUOT)


def _nearest(path: Path) -> Path:
  """The folder itself, or the nearest one above it that exists."""
  while not path.exists() and path != path.parent:
    path = path.parent
  return path


def _tried(folder: Any) -> float:
  """Seconds that it took to write, sync, rename and read 1 MiB in a folder,
  local or remote; leaves nothing there.

  Raises:
    OSError: one of them does not work.
  """
  data = secrets.token_bytes(SIZE)
  first = folder / f'.doctor-{secrets.token_hex(4)}'
  second = folder / f'{first.name}-renamed'
  began = time.monotonic()
  try:
    with first.open('wb') as file:
      file.write(data)
      file.flush()
      if isinstance(first, Path):
        os.fsync(file.fileno())
    first.rename(second)
    if second.read_bytes() != data:
      raise OSError(errno.EIO, 'what was read is not what was written')
  finally:
    for path in (first, second):
      if path.exists():
        path.unlink()
  return time.monotonic() - began


def workdir(place: str) -> list[Finding]:
  """Whether a run could keep its files there; leaves nothing there."""
  if paths.is_remote(place):
    return [_remote(place)]
  path = Path(place)
  if path.exists() and not path.is_dir():
    return [fault('workdir', f'{path} is a file', 'take another --workdir')]
  existing = _nearest(path.absolute())
  try:
    seconds = _tried(existing)
  except OSError as error:
    return [_unwritable(existing, error)]
  said = (
    f'{existing}: 1 MiB written, renamed and read in {seconds * 1e3:.0f} ms'
  )
  return [ok('workdir', said), _space(existing)]


def _unwritable(folder: Path, error: OSError) -> Finding:
  why = error.strerror or str(error)
  if error.errno in FULL:
    return fault('workdir', f'{folder}: {why}', 'free some space or quota')
  todo = f'take another --workdir, or: chmod u+w {folder}'
  if error.errno == errno.EROFS:
    todo = 'its file system is mounted read-only; take another --workdir'
  return fault('workdir', f'{folder} cannot be written: {why}', todo)


def _space(folder: Path) -> Finding:
  free = shutil.disk_usage(folder).free
  said = f'{shown_bytes(free)} free at {folder}'
  if hasattr(os, 'statvfs'):
    stat = os.statvfs(folder)
    if stat.f_files and stat.f_favail == 0:
      return fault('disk', f'{said}, but no inodes', 'delete small files')
  todo = 'free some, or take another --workdir; checkpoint.keep=1 keeps one'
  if free < LEAST:
    return fault('disk', said, todo)
  if free < FEW:
    return warning('disk', said, todo)
  return ok('disk', said)


def _remote(place: str) -> Finding:
  try:
    seconds = _tried(paths.path(place))
  except ImportError as error:
    return fault('workdir', f'{place}: {error}', "pip install -e '.[gcs]'")
  except Exception as error:  # of any file system's client
    line = (str(error) or type(error).__name__).splitlines()[0]
    return fault(
      'workdir',
      f'{place} cannot be written: {line}',
      'is the bucket there (gcloud storage ls), and may this account write it '
      '(gcloud auth application-default login; on a VM, its service account)?',
    )
  return ok(
    'workdir', f'{place}: 1 MiB written, renamed and read in {seconds:.1f} s'
  )


def cache_folder(environ: Mapping[str, str]) -> str:
  """Where compiled programs are kept, as `runtime.use_compilation_cache` has
  it."""
  return environ.get('JAX_COMPILATION_CACHE_DIR') or str(
    Path.home() / '.cache' / 'posttrain_jax'
  )


def cache(environ: Mapping[str, str]) -> Finding:
  """The cache of compiled programs: place, size, whether it can be written."""
  place = cache_folder(environ)
  name = 'compile cache'
  if paths.is_remote(place):
    return ok(name, place)
  folder = Path(place)
  todo = 'set JAX_COMPILATION_CACHE_DIR to a folder that can be written'
  try:
    _tried(_nearest(folder.absolute()))
  except OSError as error:
    said = f'{folder} cannot be written: {error.strerror or error}'
    return warning(name, said, f'{todo}; each start compiles all anew')
  sizes = [x.stat().st_size for x in folder.rglob('*') if x.is_file()]
  said = f'{folder}: {len(sizes)} programs, {shown_bytes(sum(sizes))}'
  if sum(sizes) > LARGE_CACHE:
    return warning(name, said, f'delete it when disk is short: {folder}')
  return ok(name, said)
