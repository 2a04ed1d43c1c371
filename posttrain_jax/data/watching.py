"""The rest of a large data set, looked at while a run is under way."""

import threading
import time
from collections.abc import Callable
from typing import Any

from posttrain_jax.data.bad_rows import BadData

__all__ = ['Watch']

EVERY, NAP = 64, 0.002  # rows between two naps, so that steps are not held up


class Watch:
  """A look at all records in a thread; what it finds ends the run, or is told.

  `check` raises what was found, from the thread that calls it.
  """

  def __init__(
    self,
    look: Callable[[Callable[[], None]], Any],
    told: Callable[[Any], None],
  ):
    """`look(pause)` looks, calling `pause` after every record; `told(result)`
    is called with what it returns."""
    self._look, self._tell = look, told
    self._error: Exception | None = None
    self._rows = 0
    self._stopped = threading.Event()
    self._thread: threading.Thread | None = None

  def start(self) -> None:
    """Begins to look; does nothing a second time."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, daemon=True)
      self._thread.start()

  def _pause(self) -> None:
    self._rows += 1
    if self._stopped.is_set():
      raise _Stopped
    if self._rows % EVERY == 0:
      time.sleep(NAP)

  def _run(self) -> None:
    try:
      self._tell(self._look(self._pause))
    except _Stopped:
      pass
    except Exception as error:  # a look that ends early is told, too
      self._error = error

  def check(self) -> None:
    """Raises BadData where the look has found what ends the run."""
    if isinstance(self._error, ValueError):
      raise BadData(str(self._error))
    if self._error is not None:
      kind = type(self._error).__name__
      raise BadData(
        f'the look at all records has ended early: {kind}: {self._error}'
      )

  def stop(self) -> None:
    """Ends the look where it is."""
    self._stopped.set()

  def wait(self) -> None:
    """Returns when the look is over."""
    if self._thread is not None:
      self._thread.join()


class _Stopped(Exception):
  """The look was asked to end."""
