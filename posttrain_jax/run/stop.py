"""How a run is asked to stop: by Ctrl-C or SIGTERM, with its state saved.

Of several processes any one may get the signal: `hosts.Agreement` tells the
others, and all of them save the same step.
"""

import contextlib
import signal

from posttrain_jax.core.boundary import Interrupted

__all__ = ['Interrupted', 'Stop']


class Stop:
  """Turns Ctrl-C and SIGTERM into a flag that the loop looks at."""

  def __init__(self):
    self.number = 0

  def __enter__(self) -> 'Stop':
    self._old = {}
    # Only the main thread may set handlers; elsewhere signals stay as they are.
    with contextlib.suppress(ValueError):
      for number in (signal.SIGINT, signal.SIGTERM):
        self._old[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exception) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def ask(self, number: int) -> None:
    """What signal `number` does, without one."""
    self.number = self.number or number

  def _handle(self, number, frame) -> None:
    if self.number:  # a second one does not wait
      raise KeyboardInterrupt
    self.ask(number)
    print('\nsaving, then stopping (again to stop at once)', flush=True)
