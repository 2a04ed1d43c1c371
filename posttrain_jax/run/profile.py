"""A trace of some steps of a run, for TensorBoard's profiler or Perfetto."""

import re
import tempfile
from pathlib import Path

import jax

from posttrain_jax.core import paths

__all__ = ['FOLDER', 'Profiler', 'window']

FOLDER = 'profile'


def window(text: str) -> tuple[int, int] | None:
  """(10, 13) of 'log.profile_steps=10:13': what is traced begins when 10 steps
  are done and ends when 13 are. None of ''.

  Raises:
    ValueError: another text, or no step in it.
  """
  if not text:
    return None
  found = re.fullmatch(r'(\d+):(\d+)', text)
  if not found or int(found[1]) >= int(found[2]):
    raise ValueError(
      f'log.profile_steps="{text}" is not FIRST:LAST, as 10:13 for three steps '
      'after the tenth'
    )
  return int(found[1]), int(found[2])


class Profiler:
  """Starts and stops the trace of a run; a context manager.

  Args:
    steps: `config.log.profile_steps`.
    workdir: the run's folder; the trace goes to its folder 'profile'.
  """

  def __init__(self, steps: str, workdir: str | Path):
    self._window = window(steps)
    self._folder = paths.path(workdir) / FOLDER
    self._on = False

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *exception) -> None:
    self._stop()

  def next_stop(self, step: int) -> int | None:
    """The next step at which the trace starts or ends."""
    return next((s for s in self._window or () if s > step), None)

  def turns(self, step: int) -> bool:
    """Whether the trace starts or ends when `step` steps are done."""
    return step in (self._window or ())

  def at(self, step: int) -> None:
    """Starts or stops the trace where `step` steps are done, all of them."""
    if self._window is None:
      return
    first, last = self._window
    if self._on and step >= last:
      self._stop()
      if jax.process_index() == 0:
        print(f'profile of steps {first + 1}..{last}: {self._folder}')
    elif not self._on and first <= step < last:
      self._local = tempfile.TemporaryDirectory()
      remote = paths.is_remote(self._folder)
      place = self._local.name if remote else str(self._folder)
      jax.profiler.start_trace(place)
      self._on = True

  def _stop(self) -> None:
    if self._on:
      self._on = False
      jax.profiler.stop_trace()
      with self._local as local:  # of what goes to a bucket
        for file in filter(Path.is_file, Path(local).rglob('*')):
          place = self._folder / file.relative_to(local).as_posix()
          place.write_bytes(file.read_bytes())
