"""Ways to advance a run, one interface for the loop in train.py.

  driver.advance(state, first_step, count) -> (state, metrics [done], done)
  driver.position() -> JSON-able position of the data, saved with the state
  driver.seek(position)   goes back to a saved position
  driver.given(first_step) -> {name: array} that a step just taken was given
  driver.again(state, first_step, given) -> (state, metrics [1]): that step
                          once more, with no data and no verifier
  driver.traced(state) -> {name: jax.stages.Traced} of the programs of a step,
                          in their order, of a state's shapes and shardings

`done` <= count steps are taken. In-graph tasks take many steps in one compiled
call; data and host tasks (`HostRL`) take one. After a step that stopped
(`guard.py`) a driver leaves the state as it is, whatever it is asked.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.keys import run_key
from posttrain_jax.core.types import Array, TrainState
from posttrain_jax.run import inputs
from posttrain_jax.run.given import Given, tree
from posttrain_jax.run.host_rl import HostRL
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.rl import HostStep

__all__ = ['HostRL', 'HostStep', 'InGraph', 'OnData', 'make_chunk']

Metrics = dict[str, Array]


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

  def traced(self, state: TrainState) -> dict[str, Any]:
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return {'step': self._chunk.trace(state, count)}

  def position(self) -> dict:
    return {}

  def seek(self, position: dict) -> None:
    del position


class OnData:
  """`step(state, batch)` on batches of a resumable iterator."""

  def __init__(self, step: Callable, batches: Iterator[dict[str, np.ndarray]]):
    self._step = jax.jit(guard.hold(step), donate_argnums=0)
    self._batches = batches
    self._given = Given()
    # Taken when a batch is handed out: a save between two steps never skips.
    self._position = batches.get_state()

  def advance(self, state: TrainState, first_step: int, count: int):
    del count
    raw = next(self._batches)
    self._given.put(first_step, raw)
    state, metrics = self._take(state, first_step, raw)
    self._position = self._batches.get_state()
    return state, metrics, 1

  def _take(self, state: TrainState, first_step: int, raw: dict[str, Any]):
    batch = inputs.on_device(raw)
    state, metrics = self._step(state, np.int32(first_step), batch)
    return state, {name: x[None] for name, x in metrics.items()}

  def given(self, first_step: int) -> dict[str, np.ndarray]:
    """The batch, as the iterator gave it."""
    return self._given.get(first_step)

  def again(self, state: TrainState, first_step: int, given: dict):
    return self._take(state, first_step, tree(given))

  def traced(self, state: TrainState) -> dict[str, Any]:
    batch = inputs.shapes_of(next(self._batches), state.step.sharding.mesh)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return {'step': self._step.trace(state, number, batch)}

  def position(self) -> dict:
    return {'iterator': self._position.decode()}

  def seek(self, position: dict) -> None:
    self._batches.set_state(position['iterator'])
    self._position = self._batches.get_state()
