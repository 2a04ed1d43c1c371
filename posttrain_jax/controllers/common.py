"""What controllers are made of."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

__all__ = ['Controller', 'alone', 'scheduled', 'steered']

Array = jax.Array
State = dict[str, Array]
Update = Callable[..., tuple[State, Array]]


def _value(state: State) -> Array:
  return state['value']


@dataclasses.dataclass(frozen=True)
class Controller:
  """What steers one scalar; see the room.

  init    () -> state
  update  (state, metrics, step, num_steps) -> (state, value)
  value   (state) -> value
  reads   names of the metrics that `update` needs
  """

  init: Callable[[], State]
  update: Update
  value: Callable[[State], Array] = _value
  reads: tuple[str, ...] = ()


def _scalar(x: Array | float) -> Array:
  return jnp.asarray(x, jnp.float32)


def scheduled(schedule: Callable[[Array], Array]) -> Controller:
  """A controller that is a function of the fraction of the run done."""

  def at(fraction):
    value = _scalar(schedule(_scalar(fraction)))
    return {'value': value}

  def update(state, metrics, step, num_steps):
    del state, metrics
    fraction = _scalar(step) / jnp.maximum(_scalar(num_steps), 1.0)
    state = at(jnp.clip(fraction, 0.0, 1.0))
    return state, state['value']

  return Controller(init=lambda: at(0.0), update=update)


def steered(
  reads: tuple[str, ...],
  start: Mapping[str, Array | float],
  change: Callable[[State, State, Array, Array], State],
) -> Controller:
  """A controller that reacts to the metrics `reads`.

  change  (state, {name: metric}, step, num_steps) -> state; with a metric that
          is not finite the state stays as it is
  """

  def init():
    return {key: _scalar(x) for key, x in start.items()}

  def update(state, metrics, step, num_steps):
    for name in reads:
      if name not in metrics:
        raise ValueError(
          f'a controller reads the metric "{name}", which the step does not '
          f'give. It gives: {", ".join(sorted(metrics)) or "(none)"}'
        )
    given = {name: _scalar(metrics[name]) for name in reads}
    usable = jnp.all(jnp.stack([jnp.isfinite(x) for x in given.values()]))
    given = {name: jnp.where(usable, x, 0.0) for name, x in given.items()}
    moved = change(state, given, _scalar(step), _scalar(num_steps))
    state = {
      key: jnp.where(usable, _scalar(moved[key]), old)
      for key, old in state.items()
    }
    return state, state['value']

  return Controller(init=init, update=update, reads=reads)


def alone(
  name: str,
  start: Mapping[str, Array | float],
  change: Callable[[State, Array], State],
) -> Controller:
  """`steered` by one metric, whatever the step: change(state, metric)."""
  return steered(
    (name,), start, lambda state, metrics, *_: change(state, metrics[name])
  )
