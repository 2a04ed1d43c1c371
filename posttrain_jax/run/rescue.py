"""What is kept of a run that ends in an error, and what is said of it.

guarded(loop)  runs a loop, and saves its last whole step if it breaks off
sentence(e)    an error as one line; '' where it is a fault of this project
"""

import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.paths import Unanswered
from posttrain_jax.core.pool import NoWorker
from posttrain_jax.core.types import PyTree, TrainState
from posttrain_jax.core.units import shown_bytes
from posttrain_jax.data.bad_rows import BadData
from posttrain_jax.run import failed, stored
from posttrain_jax.run.lease import Lost
from posttrain_jax.run.saving import NoRoom, free_bytes, is_full
from posttrain_jax.run.stop import Interrupted
from posttrain_jax.trainers import guard

__all__ = ['OutOfMemory', 'guarded', 'sentence']

# Ends after which nothing may be saved, or everything is.
SETTLED = (failed.NonFinite, Interrupted, Lost, NoRoom)


class OutOfMemory(RuntimeError):
  """A device, or the machine, had no memory left."""


def _memory(error: BaseException) -> bool:
  return not is_full(error) and (
    isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)
  )


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0] if len(lines[0]) <= 300 else lines[0][:300] + ' ...'


def _as_told(error: BaseException, workdir: Path, step: int) -> BaseException:
  """The error, or one in its place that says what a user can do."""
  if isinstance(error, SETTLED):
    return error
  if is_full(error):
    return NoRoom(
      f'no room, {"before" if step == 0 else "after"} step {step or 1}: '
      f'{_first_line(error)}; the disk of {workdir} has '
      f'{shown_bytes(free_bytes(workdir))} left. Make room, and the same '
      'command goes on'
    )
  if _memory(error):
    return OutOfMemory(_less(error, f' at step {step + 1}'))
  return error


def _less(error: BaseException, where: str = '') -> str:
  return (
    f'out of memory{where}: {_first_line(error)}; fewer microbatch_rows, or '
    'model.remat=true, take less'
  )


def _newest(workdir: Path) -> str:
  steps = stored.steps(workdir)
  return f'step {steps[0]}' if steps else 'none yet, so from the beginning'


def _finite(state: TrainState) -> bool:
  """Whether what a run has learnt is finite."""
  moving = [
    x for x in jax.tree.leaves((state.params, state.opt_state))
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]  # fmt: skip
  return bool(jax.jit(guard.finite)(moving))


def _here(state: PyTree) -> bool:
  """Whether no step has taken the arrays over."""
  return not any(
    isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(state)
  )


def _kept(loop: Any, error: BaseException) -> tuple[bool, str]:
  """(saved, what to tell)."""
  state, step = loop.last
  # Bad data end all processes before the same step.
  if jax.process_count() > 1 and not isinstance(error, BadData):
    return False, 'one of several processes saves nothing alone'
  if step in stored.steps(loop.workdir):
    return True, f'step {step} is saved'
  if not _here(state):
    return False, f'step {step + 1}, under way, had taken the state over'
  loop.finish()  # what is written of steps must reach as far as the state
  if int(state.step) != step or not _finite(state):
    return False, f'the state after step {step} is not finite'
  loop.save(state, step)
  loop.saver.wait()
  return True, f'step {step} was saved before the end'


def _rescue(loop: Any, error: BaseException) -> bool:
  """Whether the last whole step of a loop is saved; says so on stderr.

  A checkpoint that is there stays as it is, and a step whose numbers are not
  finite, or whose metrics cannot be written, is not saved.
  """
  step = loop.last[1]
  if isinstance(error, SETTLED) or step == 0:
    return False
  try:
    saved, told = _kept(loop, error)
  except Exception as other:  # the first error says more
    saved, told = False, f'step {step} was not saved: {_first_line(other)}'
  going = 'the same command goes on from '
  going += 'there' if saved else f'the newest one: {_newest(loop.workdir)}'
  print(f'{loop.workdir}: {told}; {going}', file=sys.stderr, flush=True)
  return saved


def guarded(
  loop: Any, state: TrainState, step: int, fresh: bool
) -> tuple[TrainState, dict[str, float]]:
  """`loop(state, step, fresh)`; what it ends in comes out as users want it.

  loop  with `last`, (state, steps done), `finish` and `save` of a step, and
        `saver`, `stop`, `workdir`

  A second Ctrl-C breaks a step off, whose predecessor is saved; a third one
  ends that, too.

  Raises:
    Interrupted: a signal came, and the state is saved.
    NoRoom, OutOfMemory: in place of what libraries raise.
  """
  try:
    return loop(state, step, fresh)
  except (Exception, KeyboardInterrupt) as error:
    saved = _rescue(loop, error)
    done = loop.last[1]
    told = _as_told(error, loop.workdir, done)
    if isinstance(error, KeyboardInterrupt) and saved:
      told = Interrupted(loop.stop.number or signal.SIGINT, done)
    if told is error:
      raise
    raise told from error


def sentence(error: BaseException) -> str:
  """What is wrong, for whoever started a run; '' for what no user can mend."""
  if isinstance(error, ValueError | OSError | ImportError | FloatingPointError):
    return str(error)
  if isinstance(error, OutOfMemory | NoWorker | Unanswered):
    return str(error)
  if is_full(error):
    return _first_line(error)
  return _less(error) if _memory(error) else ''
