"""Digests of the files of a stored step, written with it, checked before it is
read.

A step's folder holds `manifest.json`: its number, its run, and the size and
SHA-256 of every file. Of several processes each digests the files that it has
written itself (`manifest.process_3.json`) and, when the step is read, its share
of all of them, so that no process reads everything. Files are read in blocks,
in threads; no array is built.
"""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths

__all__ = ['FILE', 'digest', 'digests', 'faults', 'lasting', 'read',
           'write', 'write_own']  # fmt: skip

FILE = 'manifest.json'
VERSION = 1
THREADS = 4
BLOCK = 2**20
# What Orbax writes after the manifest: its sign of success, and times.
TIMES = '_CHECKPOINT_METADATA'
_ASIDE = re.compile(rf'manifest\..*|lease\.json.*|commit_success\.txt|{TIMES}')
_OWN = re.compile(r'ocdbt\.process_(\d+)')


def digest(path: Path) -> str:
  """SHA-256 of a file, in hexadecimal."""
  found = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(BLOCK):
      found.update(block)
  return found.hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, list]:
  """{name: [bytes, SHA-256]} of files of a folder."""
  names = list(names)
  with ThreadPoolExecutor(THREADS) as pool:
    sums = list(pool.map(digest, (folder / name for name in names)))
  return {
    name: [(folder / name).stat().st_size, sum_]
    for name, sum_ in zip(names, sums)
  }


def _names(folder: Path) -> list[str]:
  """Files under a folder, but those of this room."""
  found = []
  for file in folder.rglob('*'):
    where = file.relative_to(folder)
    aside = len(where.parts) == 1 and _ASIDE.fullmatch(where.name)
    if not aside and not file.is_dir():
      found.append('/'.join(where.parts))
  return sorted(found)


def _sum(content: dict[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, content: dict[str, Any]) -> None:
  paths.write(path, json.dumps(content, indent=1) + '\n')


def write_own(folder: Path, process: int) -> None:
  """Digests what process `process` has written of a step that is being saved
  by several; before `write`."""
  own = [
    name
    for name in _names(folder)
    if any(m[1] == str(process) for m in _OWN.finditer(name))
  ]
  files = digests(folder, own)
  _save(folder / f'manifest.process_{process}.json', {'files': files})


def write(folder: Path, step: int, run: str, config: str) -> None:
  """Digests the rest of a step, and lists everything.

  step    its number
  run     name of the run it is of, '' if that has none
  config  digest of the run's config file
  """
  files: dict[str, list] = {}
  for part in sorted(folder.glob('manifest.process_*.json')):
    files |= json.loads(part.read_text())['files']
  there = _names(folder)
  files = {name: files[name] for name in there if name in files}
  files |= digests(folder, (name for name in there if name not in files))
  content = {
    'version': VERSION,
    'step': step,
    'run': run,
    'config': config,
    'files': dict(sorted(files.items())),
  }
  _save(folder / FILE, {**content, 'self': _sum(content)})
  for part in folder.glob('manifest.process_*.json'):
    with contextlib.suppress(OSError):
      part.unlink()


def read(folder: Path) -> dict[str, Any] | None:
  """The manifest of a step; None if it has none.

  Raises:
    ValueError: the manifest itself is damaged.
  """
  path = folder / FILE
  try:
    found = json.loads(path.read_bytes())
    if found.pop('self') == _sum(found):
      return found
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    pass
  raise ValueError(f'{FILE} is not what was written')


def lasting(error: OSError) -> bool:
  """Whether an error is of what is there, and not of the machine for now.

  A file system that does not answer, or too many open files, harm no file. Of
  an object in a bucket only the type of the error says what it is.
  """
  kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  return isinstance(error, kinds) or error.errno in (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG
  )  # fmt: skip


def faults(
  folder: Path, files: dict[str, list], share: tuple[int, int] = (0, 1)
) -> list[str]:
  """What is wrong with the files of a manifest: 'NAME is missing', ...

  share  (index, count): this process checks every count-th file

  Raises:
    OSError: a file cannot be read for now, which is no fault of it (`lasting`).
  """
  index, count = share
  wrong, left = [], []
  for name in sorted(files)[index::count]:
    try:
      size = (folder / name).stat().st_size
    except OSError as error:
      if not lasting(error):
        raise
      wrong.append(f'{name} is missing')
      continue
    if size != files[name][0]:
      wrong.append(f'{name} has {size:,} of {files[name][0]:,} bytes')
    else:
      left.append(name)

  def changed(name: str) -> str:
    try:
      sum_ = digest(folder / name)
    except OSError as error:
      if not lasting(error):
        raise
      return f'{name} cannot be read: {error.strerror or "it is missing"}'
    same = sum_ == files[name][1]
    return '' if same else f'{name} is not what was written (SHA-256)'

  with ThreadPoolExecutor(THREADS) as pool:
    wrong += filter(None, pool.map(changed, left))
  return wrong
