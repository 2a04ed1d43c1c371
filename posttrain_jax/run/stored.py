"""What a run's folder holds: its config, its steps, and which are whole.

Every reader of a run (to go on, `init_from`, evaluate, export, sweeps) asks
here, so that all of them see the same: the newest step that is as it was
written. One that is damaged, cut short, empty or of another run is named, with
what is wrong, and the one before it is used.
"""

import dataclasses
import json
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from posttrain_jax.core import hosts, hub, paths
from posttrain_jax.models import hf
from posttrain_jax.run import best, manifest

__all__ = ['CONFIG', 'FOLDER', 'config_digest', 'exactly', 'find',
           'load_config', 'newest', 'run_folder', 'run_id', 'save_config',
           'steps', 'tell']  # fmt: skip

FOLDER = 'checkpoints'
CONFIG = 'config.json'
COMMITTED = 'commit_success.txt'  # in a bucket, where nothing is renamed
ITEMS = ('params', 'rest', 'data')
_STEP = re.compile(r'0|[1-9][0-9]*')
# {(folder, its files' sizes and times): what was found}, of this process
_examined: dict[tuple, '_Found'] = {}


@dataclasses.dataclass(frozen=True)
class _Found:
  """What examining a step showed.

  fault  why it cannot be used; '' if nothing speaks against it
  note   what a reader should know of one that can be
  """

  fault: str = ''
  note: str = ''


def tell(text: str) -> None:
  if hosts.first():
    print(text, file=sys.stderr, flush=True)


def steps(workdir: str | Path) -> list[int]:
  """Steps that a run's folder names, whole or not; the newest first."""
  folder = paths.path(workdir) / FOLDER
  try:
    names = [child.name for child in folder.iterdir()]
  except OSError:
    return []
  return sorted((int(n) for n in names if _STEP.fullmatch(n)), reverse=True)


def _begun(folder: Path) -> bool:
  """Whether a folder's config is that of a run of ours."""
  try:
    return load_config(folder) is not None
  except ValueError:
    return False


def _what(folder: Path) -> str:
  """What a folder without checkpoints is instead."""
  if not folder.exists():
    told = (
      f': there is no {folder}; a run is the folder that --workdir named, a '
      'model one with config.json and *.safetensors'
    )
    if hub.parse(f'{folder}@main'):
      told += f'; of the hub it would be "{folder}@main"'
    return f'{told}{paths.hint(folder, folders=True)}'
  if (folder / CONFIG).is_file() and _begun(folder):
    return (
      ': no step of this run is saved yet; it saves every checkpoint.every '
      'steps, and when it ends or is stopped'
    )
  if any(folder.glob('*.safetensors')):
    return f': {folder} has weights, and is no run of train'
  if told := hf.pickled(folder):
    return f': {folder} has no config.json. {told}'
  return f': {folder} is neither a run of train nor a model folder'


def _check_folder(folder: Path) -> None:
  """Raises ValueError for a file of a folder in place of it, and for weights
  without what says what they are of."""
  if folder.is_file():
    parent = folder.parent
    of = steps(parent) or (parent / CONFIG).is_file() or hf.is_folder(parent)
    told = (
      f'give its folder, {parent}' if of else 'a run or a model is a folder'
    )
    raise ValueError(f'{folder} is a file: {told}')
  found = sorted(x.name for x in folder.glob('*.safetensors'))
  adapter = bool(found) and found[0].startswith(hf.ADAPTER)
  config = hub.ADAPTER[0] if adapter else CONFIG
  if found and not (folder / config).is_file():
    raise ValueError(
      f'{folder} has weights ({found[0]}) and no {config}, which says what '
      'they are of: put the one that belongs to them there'
    )


def run_folder(path: str | Path) -> tuple[Path, int | None]:
  """(run folder, step or None) of 'runs/x', 'runs/x/checkpoints/40' or
  'runs/x/best'.

  Raises:
    ValueError: there is no checkpoint; says what is there instead.
  """
  path = paths.path(path)
  found = best.read(path.parent) if path.name == best.NAME else None
  if found is not None:
    workdir, step = path.parent, found.step
  elif _STEP.fullmatch(path.name) and path.parent.name == FOLDER:
    workdir, step = path.parent.parent, int(path.name)
  else:
    workdir, step = path, None
  there = steps(workdir)
  if not there:
    _check_folder(workdir)
    raise ValueError(f'no checkpoint under {workdir / FOLDER}{_what(workdir)}')
  if step is not None and step not in there:
    raise ValueError(
      f'no checkpoint of step {step} in {workdir / FOLDER}; there are: '
      + ', '.join(map(str, sorted(there)))
    )
  return workdir, step


def _signature(folder: Path) -> tuple:
  """Changes whenever a file under a folder, or its run's config, does."""
  files = [f for f in sorted(folder.rglob('*')) if not f.is_dir()]
  files.append(folder.parent.parent / CONFIG)
  marks = []
  for file in files:
    try:
      stat = file.stat()
    except OSError:
      marks.append((str(file), None))
      continue
    marks.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
  return (str(folder.absolute()), *marks)


def _examine(workdir: Path, step: int) -> _Found:
  """Whether a step is as it was written; every file is read once a process."""
  key = _signature(workdir / FOLDER / str(step))
  if key not in _examined:
    try:
      _examined[key] = _looked_at(workdir, step)
    except OSError as error:
      if not manifest.lasting(error):
        raise OSError(
          error.errno,
          f'{workdir / FOLDER / str(step)} cannot be read for now, and nothing '
          f'was changed: {error.strerror}',
        ) from error
      _examined[key] = _Found(f'it cannot be read: {error.strerror}')
  return _agreed(_examined[key])


def _agreed(found: _Found) -> _Found:
  """One verdict of all processes, each of which has seen its share."""
  if not hosts.several():
    return found
  for process, fault in enumerate(hosts.said(found.fault)):
    if fault:
      return _Found(fault if not process else f'process {process}: {fault}')
  return found


def _looked_at(workdir: Path, step: int) -> _Found:
  folder = workdir / FOLDER / str(step)
  if not folder.is_dir():
    return _Found('it is no folder')
  if not any(folder.iterdir()):
    return _Found('it is empty')
  if paths.is_remote(folder) and not (folder / COMMITTED).exists():
    return _Found('its save was not finished')
  try:
    content = manifest.read(folder)
  except ValueError as error:
    return _Found(str(error))
  lacking = [item for item in ITEMS if not (folder / item).is_dir()]
  if content is None and lacking:
    return _Found('it has no ' + ', '.join(lacking))
  if content is None:
    return _Found(
      note='it cannot be verified: it was saved without a manifest, which '
      'older versions did not write'
    )
  if content['step'] != step:
    return _Found(f'it is a copy of step {content["step"]}')
  ours = run_id(workdir)
  if ours and content['run'] and content['run'] != ours:
    return _Found('it is of another run')
  try:
    json.loads((folder / manifest.TIMES).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return _Found(f'{manifest.TIMES} is missing or damaged')
  share = (jax.process_index(), jax.process_count())
  wrong = manifest.faults(folder, content['files'], share)
  if wrong:
    more = f', and {len(wrong) - 1} more files' if len(wrong) > 1 else ''
    return _Found(wrong[0] + more)
  if content['config'] not in ('', config_digest(workdir)):
    return _Found(note=f'{CONFIG} is not what it was when this was saved')
  return _Found()


def _first_line(error: BaseException) -> str:
  """What an exception of the storage library says, in one short line."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0] if len(lines[0]) <= 300 else lines[0][:300] + ' ...'


def _out_of_memory(error: BaseException) -> bool:
  return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)


def exactly(
  workdir: Path, step: int, use: Callable[[int], Any] | None = None
) -> Any:
  """`use(step)` of a step that was asked for by its number; None, and no word
  of what cannot be verified, where it is not read.

  Raises:
    ValueError: it cannot be used; says why.
  """
  folder = workdir / FOLDER / str(step)
  found = _examine(workdir, step)
  if found.fault:
    raise ValueError(f'{folder} cannot be used: {found.fault}')
  if use is None:
    return None
  if found.note:
    tell(f'{folder}: {found.note}')
  try:
    return use(step)
  except Exception as error:
    if _out_of_memory(error):
      raise
    raise ValueError(
      f'{folder} cannot be used: {_first_line(error)}'
    ) from error


def _seen(workdir: Path) -> list[int]:
  """`steps`, as process 0 sees them: a network file system may show others
  something older."""
  return json.loads(hosts.said(json.dumps(steps(workdir)))[0])


def newest(
  workdir: Path, use: Callable[[int], Any] | None = None
) -> tuple[int, Any, list[int]]:
  """(step, `use(step)`, newer ones that are no good) of the newest step that
  can be used; tells of those that cannot.

  Raises:
    ValueError: none can; says what is wrong with each.
  """
  bad: list[tuple[int, str]] = []
  for step in _seen(workdir):
    try:
      made = exactly(workdir, step, use)
    except ValueError as error:
      # A run that is going on may just have dropped it.
      if (workdir / FOLDER / str(step)).exists():
        bad.append((step, str(error)))
      continue
    for _, fault in bad:
      tell(f'{fault}; step {step} is used')
    return step, made, [skipped for skipped, _ in bad]
  listed = '; '.join(fault for _, fault in bad)
  raise ValueError(
    f'no checkpoint under {workdir / FOLDER} can be used: {listed}'
  )


def find(path: str | Path) -> tuple[Path, int]:
  """(run folder, step) of 'runs/x' (its newest good step) or
  'runs/x/checkpoints/40'.

  Raises:
    ValueError: there is no checkpoint that can be used; says what is there.
  """
  workdir, step = run_folder(path)
  if step is not None:
    exactly(workdir, step)
    return workdir, step
  return workdir, newest(workdir)[0]


def save_config(workdir: str | Path, config: dict[str, Any]) -> None:
  """Writes the resolved config beside the checkpoints, and a random name of
  the run, by which its checkpoints are known."""
  if not hosts.first():
    return
  workdir = paths.path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  config = {**config, 'run_id': secrets.token_hex(8)}
  text = json.dumps(config, indent=1, default=list)
  paths.write(workdir / CONFIG, text + '\n')


def load_config(workdir: str | Path) -> dict[str, Any] | None:
  """The resolved config of a run's folder; None where there is none.

  Raises:
    ValueError: the file is not what `save_config` writes.
  """
  path = paths.path(workdir) / CONFIG
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}:{error.lineno}: {error.msg}') from error
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error
  if not isinstance(found, dict) or not isinstance(found.get('config'), dict):
    raise ValueError(f'{path} has no "config"; it is no config of a run')
  return found


def run_id(workdir: Path) -> str:
  try:
    return (load_config(workdir) or {}).get('run_id', '')
  except ValueError:
    return ''


def config_digest(workdir: Path) -> str:
  path = workdir / CONFIG
  return manifest.digest(path) if path.is_file() else ''
