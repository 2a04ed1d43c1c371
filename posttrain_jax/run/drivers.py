"""Ways to advance a run, one interface for the loop in train.py.

  driver.advance(state, first_step, count) -> (state, metrics [done], done)
  driver.position() -> JSON-able position of the data, saved with the state
  driver.seek(position)   goes back to a saved position
  driver.failing()        whether this process cannot give a step that comes
  driver.tell_failing()   says it to the others: all end before that step
  driver.given(first_step) -> {name: array} that a step just taken was given
  driver.again(state, first_step, given) -> (state, metrics [1]): that step
                          once more, with no data and no verifier

`done` <= count steps are taken. In-graph tasks take many steps in one compiled
call; data and host tasks (`HostRL`) take one. After a step that stopped
(`guard.py`) a driver leaves the state as it is, whatever it is asked.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core import hosts
from posttrain_jax.core.keys import run_key
from posttrain_jax.core.types import Array, TrainState
from posttrain_jax.data.bad_rows import BadData
from posttrain_jax.run import inputs
from posttrain_jax.run.given import Given, tree
from posttrain_jax.run.host_rl import HostRL
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.rl import HostStep

__all__ = ['HostRL', 'HostStep', 'InGraph', 'OnData', 'make_chunk']

Metrics = dict[str, Array]
# Batches that each of several processes has ready: what `hosts.Agreement` says
# of one that cannot be made comes two steps later, and before that batch.
AHEAD = 2


def make_chunk(step: Callable, size: int) -> Callable:
  """`chunk(state, key, count) -> (state, metrics [size])`, jit-able.

  `count` <= size steps of `step(state, key)`, each with its own key of the
  run's; the number is a traced bound, so one program serves any distance to the
  next evaluation or checkpoint, and a resumed run executes the same one.
  """

  # Traced once, though it is asked for its shapes before it is run.
  step = jax.jit(step, inline=True)

  def chunk(state: TrainState, key: Array, count: Array):
    shapes = jax.eval_shape(step, state, key)[1]
    buffers = jax.tree.map(
      lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes
    )

    def body(index, carry):
      state, buffers = carry
      state, metrics = step(state, jax.random.fold_in(key, state.step))
      write = lambda buffer, x: buffer.at[index].set(x)
      return state, jax.tree.map(write, buffers, metrics)

    return jax.lax.fori_loop(0, count, body, (state, buffers))

  return chunk


class InGraph:
  """`step(state, key)` many times in one compiled program (`make_chunk`)."""

  def __init__(self, step: Callable, seed: Any, steps_per_call: int):
    self._size = steps_per_call
    chunk = make_chunk(step, steps_per_call)
    self._chunk = jax.jit(
      lambda state, count: chunk(state, run_key(seed), count), donate_argnums=0
    )

  def advance(self, state: TrainState, first_step: int, count: int):
    del first_step  # the state knows
    count = min(count, self._size)
    state, metrics = self._chunk(state, jnp.int32(count))
    return state, {name: x[:count] for name, x in metrics.items()}, count

  def given(self, first_step: int) -> dict[str, np.ndarray]:
    del first_step  # a step draws all that it needs from its key
    return {}

  def again(self, state: TrainState, first_step: int, given: dict):
    del given
    return self.advance(state, first_step, 1)[:2]

  def lower(self, state: TrainState):
    """The lowered program, for `plan` and tests."""
    return self._chunk.lower(state, jnp.int32(1))

  def failing(self) -> bool:
    return False

  def position(self) -> dict:
    return {}

  def seek(self, position: dict) -> None:
    del position


class OnData:
  """`step(state, batch)` on batches of a resumable iterator.

  Of several processes each reads its own records, some steps ahead: a batch
  that one of them cannot make ends the run on all of them at the same step.
  """

  def __init__(self, step: Callable, batches: Iterator[dict[str, np.ndarray]]):
    self._step = jax.jit(guard.hold(step), donate_argnums=0)
    self._batches = batches
    self._part = getattr(batches, 'part', None)
    self._given = Given()
    # Taken when a batch is handed out: a save between two steps never skips.
    self._position = batches.get_state()
    self._ahead: collections.deque = collections.deque()
    self._failure: BaseException | None = None
    # (steps that can still be taken, why no more), as all processes know it.
    self._end: tuple[int, str] | None = None
    self._started = False

  def _fill(self) -> None:
    """Reads ahead, up to what cannot be read."""
    while len(self._ahead) <= AHEAD and self._failure is None:
      try:
        raw = next(self._batches)
      except Exception as error:  # the steps before it are still taken
        self._failure = error
      else:
        self._ahead.append((raw, self._batches.get_state()))

  def _next(self) -> dict[str, np.ndarray]:
    if not hosts.several():
      raw = next(self._batches)
      self._position = self._batches.get_state()
      return raw
    self._fill()
    if not self._started:
      self._started = True
      self.tell_failing()
    if self._end is not None:
      left, why = self._end
      if left == 0:
        raise BadData(why) from self._failure
      self._end = left - 1, why
    raw, self._position = self._ahead.popleft()
    return raw

  def failing(self) -> bool:
    # The end of the last epoch is none: the run ends before it.
    return not isinstance(self._failure, (StopIteration, type(None)))

  def tell_failing(self) -> None:
    why = f'{len(self._ahead)} {self._failure}' if self.failing() else ''
    for process, said in enumerate(hosts.said(why)):
      left, _, told = said.partition(' ')
      if said and (self._end is None or int(left) < self._end[0]):
        self._end = int(left), f'{told} (read by process {process})'

  def advance(self, state: TrainState, first_step: int, count: int):
    del count
    raw = self._next()
    self._given.put(first_step, raw)
    state, metrics = self._take(state, first_step, raw, self._part)
    return state, metrics, 1

  def _take(
    self, state: TrainState, first_step: int, raw: dict[str, Any], part: Any
  ):
    batch = inputs.on_device(raw, part)
    state, metrics = self._step(state, np.int32(first_step), batch)
    return state, {name: x[None] for name, x in metrics.items()}

  def given(self, first_step: int) -> dict[str, np.ndarray]:
    """The batch, as the iterator gave it; of all processes together."""
    found = self._given.get(first_step)
    if self._part is None:
      return found
    return {name: hosts.merged(x, *self._part) for name, x in found.items()}

  def again(self, state: TrainState, first_step: int, given: dict):
    return self._take(state, first_step, tree(given), None)

  def position(self) -> dict:
    return {'iterator': self._position.decode()}

  def seek(self, position: dict) -> None:
    self._ahead.clear()
    self._failure = self._end = None
    self._batches.set_state(position['iterator'])
    self._position = self._batches.get_state()
