"""What is left of a step that was not finite: a sentence and a record.

`WORKDIR/failed/` then holds

  step-12.json          config, seed, what was not finite, the step's metrics
  step-12.safetensors   what the step was given (a batch; a host task's
                        completions and rewards); none where it drew it itself
  checkpoints/11        the state before the step, with all of its parameters

`python -m posttrain_jax.train --replay WORKDIR/failed/step-12.json` takes the
step again.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from posttrain_jax import log
from posttrain_jax.core import hosts, paths, sharding
from posttrain_jax.core.keys import STEPS, drawn_key
from posttrain_jax.core.types import TrainState
from posttrain_jax.run import base, build, checkpoint, inputs, model_folder
from posttrain_jax.trainers import guard

__all__ = ['FOLDER', 'NonFinite', 'Record', 'TIMED', 'Together', 'Watch',
           'newest', 'read', 'save', 'save_config']  # fmt: skip

FOLDER = 'failed'
# A run that skips this many steps in a row learns nothing any more.
LIMIT = 10
# Metrics of the machine, not of the step.
TIMED = ('time/', 'perf/', 'host/')
TITLES = {'loss': 'loss', 'grad_norm': 'gradient norm'}


class NonFinite(FloatingPointError):
  """A step's loss, gradient norm or parameters are not finite.

  step  its number, from 1
  row   its metrics
  what  of `guard.reasons`
  """

  def __init__(self, step: int, row: dict[str, float], what: float, mode: str):
    said = [
      f'{TITLES[name]} is {row[name]}'
      if name in TITLES
      else f'{name} are not finite'
      for name in guard.reasons(what)
    ]
    sentence = f'{", ".join(said)} at step {step}'
    if mode == 'skip':
      sentence += ', as in all steps just before it that were skipped'
    super().__init__(f'{sentence}; the run has stopped, nothing of it is saved')
    self.step, self.row, self.what = step, row, what


class Watch:
  """Looks at metric `nonfinite/what` of the steps of one run.

  Args:
    mode: `config.on_nonfinite`.
    num_steps: of the run.
  """

  def __init__(self, mode: str, num_steps: int):
    self.mode, self.skipped = mode, 0
    self._in_a_row = 0
    self._limit = 1 if mode == 'stop' else min(LIMIT, num_steps)

  def failing(self, what: np.ndarray) -> int | None:
    """Index of the step at which the run has to stop; [K] steps in turn."""
    for index, value in enumerate(what):
      self._in_a_row = self._in_a_row + 1 if value else 0
      self.skipped += bool(value)
      if self._in_a_row >= self._limit:
        return index
    return None


@dataclasses.dataclass(frozen=True)
class Together:
  """How a run was trained that was one of several in one program.

  values  {config key: number} that the program took as inputs
  count   of the runs, of which this was number `index`
  draw    of `keys.drawn_key`: which of the seed's keys it had
  """

  values: dict[str, float]
  count: int
  index: int
  draw: int = 0


@dataclasses.dataclass(frozen=True)
class Record:
  """A failing step, as `read` finds it.

  path      of the record
  header    of the run that made it (`log.make_header`)
  config    of that run, nested
  step      number of the step, from 1
  metrics   of the step, without times
  given     {name: array} of a driver
  together  None for a run that was trained alone
  mesh      {axis: size} that the step was taken under; {} of older records
  """

  path: Path
  header: dict[str, Any]
  config: dict[str, Any]
  step: int
  metrics: dict[str, float]
  given: dict[str, np.ndarray]
  together: Together | None
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def states(self) -> Path:
    """The folder with the state before the step, as of a run."""
    return self.path.parent


def save_config(
  workdir: Path,
  config: Any,
  run: build.Run,
  entry: dict[str, Any] | None = None,
) -> None:
  """config.json: the config, and the model that it resolved to.

  entry  of `base.keep`, where its checkpoints hold adapters alone
  """
  config = model_folder.settled(config)
  checkpoint.save_config(
    workdir,
    {
      **({} if entry is None else {base.KEY: entry}),
      'config': config.to_dict(),
      'resolved_model': dataclasses.asdict(run.model),
      'sizes': run.sizes.to_dict(),
      # What an exported folder's chat template and stop tokens follow from.
      'conversations': inputs.conversations(config),
      # What it is written in, unless another is asked for.
      'init_dtype': model_folder.stored_dtype(config.init_from),
      'chat_template': 'folder' if run.tokenizer.template else 'ours',
    },
  )


def save(
  workdir: Path,
  config: Any,
  run: build.Run,
  error: NonFinite,
  state: TrainState,
  given: dict[str, np.ndarray],
  together: Together | None = None,
) -> NonFinite:
  """Writes the record of a step; the error, which then says where it is.

  state  before the step
  given  {name: array} of the driver that took the step
  """
  folder = workdir / FOLDER
  path = folder / f'step-{error.step}.json'
  before = error.step - 1
  try:
    hosts.together(lambda: _make_room(folder, before, config, run))
    with checkpoint.Checkpointer(folder, keep=0) as saver:
      saver.save(before, state)
      saver.wait()
    hosts.together(lambda: _write(path, config, error, given, together))
  except Exception as caught:  # the sentence comes first
    message = f'{error}; no record of it could be written: {caught}'
  else:
    message = (
      f'{error}; to see it again: python -m posttrain_jax.train --replay {path}'
    )
  made = NonFinite(error.step, error.row, error.what, 'stop')
  made.args = (message,)
  return made


def _make_room(folder: Path, before: int, config: Any, run: build.Run) -> None:
  """The folder of records, without what it has of the same step."""
  if not hosts.first():
    return
  folder.mkdir(parents=True, exist_ok=True)
  if checkpoint.load_config(folder) is None:
    save_config(folder, config, run)
  old = folder / checkpoint.FOLDER / str(before)
  paths.remove_tree(old)


def newest(workdir: Path) -> tuple[int, Path] | None:
  """(step, record) of the last step that failed in a run's folder, if any."""
  found = {}
  for path in (workdir / FOLDER).glob('step-*.json'):
    number = path.stem.removeprefix('step-')
    if number.isdecimal():
      found[int(number)] = path
  return max(found.items(), default=None)


def _arrays(path: Path) -> Path:
  """Where what the step was given is, all of it."""
  return path.with_suffix('.safetensors')


def _write(
  path: Path,
  config: Any,
  error: NonFinite,
  given: dict[str, np.ndarray],
  together: Together | None,
) -> None:
  """Writes the record and its arrays, on one process."""
  if not hosts.first():
    return
  if given:
    arrays = {name: np.ascontiguousarray(x) for name, x in given.items()}
    with paths.written(_arrays(path)) as file:
      safetensors.save_file(arrays, file)
  draw = together.draw if together else 0
  key = jax.random.fold_in(drawn_key(config.seed, draw), STEPS)
  key = jax.random.fold_in(key, error.step - 1)
  record = {
    'step': error.step,
    'not_finite': guard.reasons(error.what),
    'metrics': {k: v for k, v in error.row.items() if not k.startswith(TIMED)},
    'key': jax.random.key_data(key).tolist(),
    'together': together and dataclasses.asdict(together),
    'mesh': {} if together else sharding.axis_sizes(config.mesh),
    'state_before': f'{checkpoint.FOLDER}/{error.step - 1}',
    'header': log.make_header({'seed': config.seed}),
  }
  # Numbers that are not finite as text, but for those of the config.
  record = {**log.strict(record), 'config': config.to_dict()}
  text = json.dumps(record, indent=1, default=list)
  paths.write(path, text + '\n')


def _load(arrays: Path) -> dict[str, np.ndarray]:
  with paths.fetched(arrays) as file:
    return safetensors.load_file(file)


def read(path: str | Path) -> Record:
  """The record of a failing step.

  Raises:
    ValueError: no such file, or it is no record.
  """
  path = paths.path(path)
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    near = '' if path.exists() else paths.hint(path)
    raise ValueError(
      f'{path} cannot be read: {error.strerror}{near}'
    ) from error
  except ValueError as error:
    raise ValueError(f'{path} is no record of a step: {error}') from error
  try:
    together = found['together']
    arrays = _arrays(path)
    return Record(
      path=path,
      header=found['header'],
      config=found['config'],
      step=int(found['step']),
      metrics={k: float(v) for k, v in found['metrics'].items()},
      given=_load(arrays) if arrays.exists() else {},
      together=together and Together(**together),
      mesh=dict(found.get('mesh', {})),
    )
  except (KeyError, TypeError, AttributeError, SafetensorError) as error:
    raise ValueError(f'{path} is no record of a step: {error}') from error
