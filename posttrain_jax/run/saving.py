"""Checkpoints of a run that may not find room: told in one sentence.

A step that finds no room leaves nothing behind: what was written of it is taken
away, and the checkpoints before it are as they were.
"""

import contextlib
import errno
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from posttrain_jax.core.types import PyTree, TrainState
from posttrain_jax.core.units import shown_bytes
from posttrain_jax.models import adapted
from posttrain_jax.run import checkpoint, stored

__all__ = ['NoRoom', 'Saver', 'free_bytes', 'is_full']

# What a file system says when it takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEXTS = ('No space left on device', 'Disk quota exceeded', 'File too large')


class NoRoom(OSError):
  """Something was not written, because the disk is full."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__


def is_full(error: BaseException) -> bool:
  """Whether an exception, or what it comes from, says that a disk is full."""
  return any(
    getattr(cause, 'errno', None) in FULL
    or any(text in str(cause) for text in TEXTS)
    for cause in _causes(error)
  )


def free_bytes(folder: Path) -> float:
  """Bytes that the disk of a folder, or of the one above it, has left; inf
  where nothing says it, as of a bucket."""
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  try:
    return shutil.disk_usage(folder).free
  except (OSError, TypeError):
    return math.inf


def _size(folder: Path) -> int:
  """Bytes of all files under a folder."""
  return sum(x.stat().st_size for x in folder.rglob('*') if x.is_file())


def _arrays(state: PyTree) -> int:
  """Bytes of all arrays of a state."""
  return sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(state)
    if hasattr(x, 'dtype')
  )  # fmt: skip


class Saver(checkpoint.Checkpointer):
  """`checkpoint.Checkpointer`, whose saves say what they lack.

  `save` and `wait` raise `NoRoom` where the disk is full. A step is not begun
  where less is free than the one before it has taken.
  """

  def __init__(
    self, workdir: str | Path, keep: int, best: str = '', parts: bool = False
  ):
    super().__init__(workdir, keep, best, parts)
    self._trains_parts = parts
    self._begun = 0
    self._lacked = 0  # the step that found no room

  def needed(self, state: TrainState | None) -> int:
    """Bytes of a checkpoint: of the newest one, or of the arrays to be; 0 where
    neither is known."""
    for step in stored.steps(self._workdir)[:1]:
      with contextlib.suppress(OSError):
        return _size(self._folder / str(step))
    if state is None:
      return 0
    if self._trains_parts:
      state = state.replace(params=adapted.trained(state.params))
    return _arrays(state)

  def tell_room(self, state: TrainState) -> None:
    """Says before a run that its first checkpoint may find no room."""
    free, needed = free_bytes(self._folder), self.needed(state)
    if free < needed:
      checkpoint.tell(
        f'WARNING: the disk of {self._workdir} has {shown_bytes(free)} left, '
        f'and a checkpoint takes about {shown_bytes(needed)}'
      )

  def save(
    self,
    step: int,
    state: TrainState,
    data: dict | None = None,
    best: bool = False,
  ) -> None:
    with self._telling(state):
      if jax.process_count() == 1 and stored.steps(self._workdir):
        self._manager.wait_until_finished()
        free = free_bytes(self._folder)
        if free < self.needed(state) and step not in self._manager.all_steps():
          self._begun = step
          raise OSError(errno.ENOSPC, TEXTS[0])
      self._begun = step
      super().save(step, state, data, best)

  def wait(self) -> None:
    with self._telling():
      super().wait()

  def __exit__(self, kind: Any, *rest: Any) -> None:
    try:
      with self._telling():
        super().__exit__(kind, *rest)
    except Exception:
      if kind is None:  # else what ended the run says more
        raise
    finally:
      # Whoever wrote it may have gone on for a moment after it was taken away.
      self._take_away(self._lacked)

  @contextlib.contextmanager
  def _telling(self, state: TrainState | None = None) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      if not is_full(error):
        raise
      raise NoRoom(self._lacks(state)) from error

  def _take_away(self, step: int) -> None:
    """What was written of a step that found no room."""
    if step:
      for left in self._folder.glob(f'{step}.orbax-checkpoint-tmp*'):
        shutil.rmtree(left, ignore_errors=True)

  def _lacks(self, state: TrainState | None) -> str:
    """The sentence; takes away what was written of the step."""
    step = self._lacked = self._begun
    self._take_away(step)
    steps = [s for s in stored.steps(self._workdir) if s != step]
    whole = f'step {steps[0]} is as it was' if steps else 'there is none before'
    count = self.needed(state)
    needs = f', and it takes about {shown_bytes(count)}' if count else ''
    return (
      f'no room for the checkpoint of step {step}: the disk of '
      f'{self._workdir} has {shown_bytes(free_bytes(self._folder))} left'
      f'{needs}; {whole}. Make room, and the same command goes on from there'
    )
