"""How a run is asked to stop: by Ctrl-C or SIGTERM, with its state saved.

Of several processes any one may get the signal: `hosts.Agreement` tells the
others, and all of them save the same step.
"""

import contextlib
import signal

__all__ = ['Interrupted', 'Stop']


class Interrupted(Exception):
  """The run was asked to stop; its state is saved."""

  def __init__(self, number: int, step: int):
    super().__init__(f'stopped by {signal.Signals(number).name} at step {step}')
    self.number = number


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
