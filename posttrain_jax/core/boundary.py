"""How every command ends: a status and one sentence, never a traceback for what
a user did or can mend.

  0    done
  1    what the command says of itself (a plan that does not fit, a fault found)
  2    something given cannot work, or the machine gave out (disk, rights)
  130  stopped by Ctrl-C; 128 + n by signal n
"""

import errno
import functools
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

from posttrain_jax.core.paths import Unanswered

__all__ = ['Interrupted', 'command', 'sentence']

P = ParamSpec('P')
# What an operating system says, and what can be done about it.
MENDED = {
  errno.ENOSPC: 'make room, and give the same command again',
  errno.EDQUOT: 'make room in the quota, and give the same command again',
  errno.EACCES: 'it may not be written or read by this user',
  errno.EPERM: 'it may not be written or read by this user',
  errno.EROFS: 'name a place that can be written',
}


class Interrupted(Exception):
  """The run was asked to stop; its state is saved."""

  def __init__(self, number: int, step: int):
    super().__init__(f'stopped by {signal.Signals(number).name} at step {step}')
    self.number = number


def sentence(error: OSError) -> str:
  """What failed, where, and what helps."""
  if error.errno is None or not error.strerror:
    return str(error) or type(error).__name__
  where = f'{error.filename}: ' if error.filename else ''
  helps = MENDED.get(error.errno, '')
  return f'{where}{error.strerror}{"; " if helps else ""}{helps}'


def command(main: Callable[P, int | None]) -> Callable[P, int]:
  """The `main` of a command, which ends as described above.

  A message given to `sys.exit` is printed, and the status is 2.
  """

  @functools.wraps(main)
  def bounded(*args: P.args, **kwargs: P.kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except KeyboardInterrupt:
      print('\nstopped by Ctrl-C', file=sys.stderr)
      return 128 + signal.SIGINT
    except Interrupted as stopped:
      print(f'{stopped}; the same command goes on from there', file=sys.stderr)
      return 128 + stopped.number
    except SystemExit as ended:
      if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
        ended.code = 2
      raise
    except OSError as error:
      print(f'error: {sentence(error)}', file=sys.stderr)
      return 2
    except Unanswered as error:
      print(f'error: {error}', file=sys.stderr)
      return 2

  return bounded
