"""TensorBoard events, written by the thread that calls.

The writers that come with tensorboardX hand events to a thread of their own
through a short queue: on a full disk that thread dies, and whoever has the next
event waits for ever. Their writers to buckets want libraries of their own. Here
the events of a run in a bucket are a file of this machine that is copied there.
"""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from posttrain_jax.core import buckets, paths

__all__ = ['Board']

FLUSH = 10.0  # seconds between two flushes; to a bucket paths.Grown.EVERY
FOLDER = 'tensorboard'


class Board:
  """Scalars of a run as TensorBoard events, under `workdir/tensorboard`.

  Events that cannot be written are told once, and no more are: the numbers are
  in the metrics file. A bucket that takes none is told once, and tried again.

  Args:
    workdir: the run's folder.
    purge_step: TensorBoard hides older events from this step on.
  """

  def __init__(self, workdir: str | os.PathLike, purge_step: int):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

    self._event, self._scalar = Event, scalar
    self._folder = paths.path(workdir) / FOLDER
    self._flushed = time.monotonic()
    self._local = None
    self._told = False
    self._every, place = FLUSH, self._folder
    if isinstance(self._folder, paths.Remote):
      self._local = tempfile.TemporaryDirectory()
      self._every, place = paths.Grown.EVERY, Path(self._local.name)
    place.mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(str(place / 'events'))
    start = SessionLog(status=SessionLog.START)
    now = time.time()
    self._write(Event(step=purge_step, wall_time=now, session_log=start))

  def add(self, tags: dict[str, float], step: int, now: float) -> None:
    """One event with all scalars of a step; `now` in seconds since 1970."""
    event = self._event(step=step, wall_time=now)
    for tag, value in tags.items():
      event.summary.value.extend(self._scalar(tag, value).value)
    self._write(event)
    if time.monotonic() - self._flushed > self._every:
      self._flushed = time.monotonic()
      self._call('flush')
      self._send()

  def close(self) -> None:
    self._call('close')
    self._send()
    self._writer = None
    if self._local is not None:
      self._local.cleanup()

  def _send(self) -> None:
    """Copies the events so far to the bucket that they belong into."""
    if self._local is None or self._writer is None:
      return
    try:
      buckets.sent(Path(self._local.name), self._folder)
    except ValueError as error:
      if not self._told:
        self._told = True
        print(
          f'WARNING log: {error}; its events are kept on this machine, and '
          'tried again while the run lasts',
          file=sys.stderr,
        )

  def _write(self, event) -> None:
    self._call('write_event', event)

  def _call(self, name: str, *args) -> None:
    if self._writer is None:
      return
    try:
      getattr(self._writer, name)(*args)
    except OSError as error:
      self._stop(error.strerror)

  def _stop(self, why: str) -> None:
    writer, self._writer = self._writer, None
    with contextlib.suppress(OSError):
      writer._py_recordio_writer.close()  # its own would flush first
    print(
      f'WARNING log: {self._folder} gets no more events: {why}; '
      'the numbers are in metrics.jsonl',
      file=sys.stderr,
    )
