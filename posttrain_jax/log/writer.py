"""`Writer`: rows to a file, TensorBoard and wandb, from a background thread."""

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest
from posttrain_jax.log import files
from posttrain_jax.log.board import Board

SPLITS = ('train', 'eval')
Scalar = jax.Array | np.ndarray | float

_RESERVED = ('step', 'split', 'time', 'header')


class Writer:
  """Appends rows to `workdir/metrics.jsonl`, TensorBoard and wandb.

  Nothing here blocks on a device but `flush` and `close`. A failure in the
  background (a full disk, a deleted array) is raised by every later call. On
  hosts other than the first of a multi-host run, every call does nothing.

  Args:
    workdir: the run's folder, made where it is missing.
    header: what `make_header` returned.
    resume_step: last step of the checkpoint that the run goes on from. Rows
      after it are dropped: those steps run again. None starts a new file and
      keeps an old one as `metrics.old.jsonl`.
    tensorboard: write events under `workdir/tensorboard`.
    wandb_project: log to this wandb project; '' for none.

  Raises:
    ImportError: wandb is asked for and not installed.
    ValueError: the file to resume from is not one that `Writer` wrote.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    header: dict,
    *,
    resume_step: int | None = None,
    tensorboard: bool = True,
    wandb_project: str = '',
  ):
    self._active = jax.process_index() == 0
    self._error: BaseException | None = None
    self._closed = False
    if not self._active:
      return
    workdir = paths.path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._wandb = _open_wandb(wandb_project, workdir, header)
    self._file = files.open_to_append(
      workdir / files.FILE_NAME, header, resume_step
    )
    self._board = None
    if tensorboard:
      # A NaN is in the file for all to see; one warning each is noise.
      logging.getLogger('tensorboardX.x2num').setLevel(logging.ERROR)
      purge_step = 0 if resume_step is None else resume_step + 1
      self._board = Board(workdir, purge_step)
    self._queue = queue.SimpleQueue()
    self._thread = threading.Thread(
      target=self._work, name='metrics', daemon=True
    )
    self._thread.start()
    atexit.register(self.close)

  def write(
    self, step: int, metrics: Mapping[str, Scalar], split: str = 'train'
  ) -> None:
    """Queues one row; every metric is a scalar.

    Raises:
      ValueError: a metric with a shape, a reserved name or an unknown split.
    """
    self._check(metrics, split)
    for name, value in metrics.items():
      if np.shape(value) != ():
        raise ValueError(
          f'metric "{name}" has shape {np.shape(value)}; `write` takes scalars '
          'and `write_stacked` arrays with a leading axis of steps'
        )
    self._put(step, None, metrics, split)

  def write_stacked(
    self, first_step: int, metrics: Mapping[str, Scalar], split: str = 'train'
  ) -> None:
    """Queues K rows, for steps `first_step` to `first_step + K - 1`.

    Args:
      first_step: step of element 0.
      metrics: [K] arrays, as a `lax.scan` over steps stacks them.
      split: 'train' or 'eval'.

    Raises:
      ValueError: metrics that are not all [K], a reserved name, an unknown
        split.
    """
    self._check(metrics, split)
    shapes = {name: np.shape(value) for name, value in metrics.items()}
    if any(len(shape) != 1 for shape in shapes.values()):
      raise ValueError(f'`write_stacked` takes [K] arrays, not {shapes}')
    if len(set(shapes.values())) > 1:
      raise ValueError(f'metrics of different lengths: {shapes}')
    num_rows = next(iter(shapes.values()), (0,))[0]
    self._put(first_step, num_rows, metrics, split)

  def flush(self) -> None:
    """Waits until every row queued so far is in the file."""
    if self._active and not self._closed:
      done = threading.Event()
      self._queue.put(done)
      done.wait()
    self._raise_error()

  def close(self) -> None:
    """Writes what is queued, then closes everything; may be called twice."""
    if self._active and not self._closed:
      self._closed = True
      atexit.unregister(self.close)
      self._queue.put(None)
      self._thread.join()
      self._close_file()
      if self._board is not None:
        self._board.close()
      if self._wandb is not None:
        self._wandb.finish()
    self._raise_error()

  def _close_file(self) -> None:
    try:
      self._file.close()
    except OSError as error:  # what a full disk did not take is tried again
      self._error = self._error or error

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    try:
      self.close()
    except Exception:
      # The loop's own exception says more than the writer's.
      if exception_type is None:
        raise

  def _check(self, metrics: Mapping[str, Scalar], split: str) -> None:
    self._raise_error()
    if self._closed:
      raise ValueError('the metrics writer is closed')
    if split not in SPLITS:
      raise ValueError(f'no split "{split}".{nearest(split, SPLITS)}')
    for name, value in metrics.items():
      if isinstance(value, str):
        raise ValueError(f'metric "{name}" is text ("{value}"), not a number')
    for name in _RESERVED:
      if name in metrics:
        raise ValueError(
          f'a metric cannot be called "{name}": the file uses that name'
        )

  def _put(self, step, num_rows, metrics, split) -> None:
    if not self._active:
      return
    held = {}
    for name, value in metrics.items():
      if hasattr(value, 'copy_to_host_async'):
        value.copy_to_host_async()
      elif isinstance(value, np.ndarray):
        value = value.copy()  # the caller may go on writing into it
      held[name] = value
    self._queue.put((step, num_rows, time.time(), held, split))

  def _raise_error(self) -> None:
    if self._error is not None:
      raise self._error

  def _work(self) -> None:
    while (item := self._queue.get()) is not None:
      if isinstance(item, threading.Event):
        self._sync()
        item.set()
      elif self._error is None:
        try:
          self._write_item(*item)
        except BaseException as error:
          # After a gap the file would look complete: write nothing more.
          self._error = error

  def _sync(self) -> None:
    """What was written is in the file, also where that is in a bucket."""
    if isinstance(self._file, paths.Grown) and self._error is None:
      try:
        self._file.sync()
      except Exception as error:
        self._error = error

  def _write_item(self, step, num_rows, now, metrics, split) -> None:
    columns = {name: np.asarray(value) for name, value in metrics.items()}
    if num_rows is None:
      columns = {name: value[None] for name, value in columns.items()}
    rows = []
    for index in range(1 if num_rows is None else num_rows):
      row = {'step': int(step) + index, 'split': split, 'time': round(now, 3)}
      row |= {name: _number(value[index]) for name, value in columns.items()}
      rows.append(row)
    self._file.write(''.join(files.line(row) for row in rows))
    self._file.flush()
    for row in rows:
      tagged = {
        f'{split}/{name.removeprefix(split + "/")}': value
        for name, value in row.items()
        if name not in _RESERVED
      }
      if self._board is not None:
        self._board.add(tagged, row['step'], now)
      if self._wandb is not None:
        self._wandb.log(tagged, step=row['step'])


def _number(value: np.generic) -> bool | int | float:
  """A Python number; a float32 keeps its own, shorter, decimal digits."""
  if value.dtype == np.bool_ or np.issubdtype(value.dtype, np.integer):
    return value.item()
  if value.dtype == np.float64:
    return float(value)
  return float(str(np.float32(value)))


def _open_wandb(project: str, workdir: Path, header: dict):
  if not project:
    return None
  try:
    import wandb
  except ImportError:
    raise ImportError(
      f'wandb_project="{project}" needs wandb: '
      'pip install "posttrain_jax[wandb]", or leave wandb_project empty'
    ) from None
  # One wandb run per workdir: a resumed run goes on in the same one.
  id_file = workdir / 'wandb_id.txt'
  if not id_file.exists():
    id_file.write_text(wandb.util.generate_id())
  return wandb.init(
    project=project,
    name=workdir.name,
    dir=None if paths.is_remote(workdir) else str(workdir),
    config=files.strict(header),
    id=id_file.read_text().strip(),
    resume='allow',
  )
