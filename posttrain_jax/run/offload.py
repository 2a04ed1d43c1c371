"""What of a run's state lies in the host's memory between its uses.

  config.offload.ref      frozen models: read once a step
  config.offload.moments  what the optimizer remembers: read and written once

They lie there as they are split over the mesh, pinned, so that devices read
them by themselves. A step brings them over and takes back what has changed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from posttrain_jax.core import trees
from posttrain_jax.core.types import PyTree, TrainState

__all__ = ['KIND', 'brought', 'check', 'on', 'placed', 'wrapped']

KIND = 'pinned_host'
# Of the state, by key of `config.offload`.
FIELDS = {'ref': ('ref_params', 'others'), 'moments': ('opt_state',)}


def on(config: Any) -> tuple[str, ...]:
  """The keys of `config.offload` that are set."""
  return tuple(key for key in FIELDS if config.offload[key])


def check(config: Any, held: bool) -> None:
  """Refuses what the devices, or the run, have no use for.

  held  whether the run has frozen models

  Raises:
    ValueError: no such memory; or nothing that could lie there.
  """
  if config.offload.ref and not held:
    raise ValueError(
      'offload.ref=True: this method has no frozen model; nearest valid: False'
    )
  if not on(config):
    return
  device = jax.devices()[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if KIND not in kinds:
    raise ValueError(
      f'offload.{on(config)[0]}=True: {device.platform} devices here have no '
      f'memory "{KIND}", only {", ".join(kinds)}; nearest valid: False'
    )


def _hosted(config: Any) -> Callable[[str, Any], bool]:
  """(path, array) -> whether it lies with the host; scalars never do."""
  fields = {field for key in on(config) for field in FIELDS[key]}
  return lambda path, x: path.partition('/')[0] in fields and len(x.shape) > 0


def placed(config: Any, shapes: PyTree, shardings: PyTree) -> PyTree:
  """The shardings of a state, with the memory that each array lies in."""
  if not on(config):
    return shardings
  hosted = _hosted(config)
  return trees.map_by_path(
    lambda path, x, place: (
      place.with_memory_kind(KIND) if hosted(path, x) else place
    ),
    shapes,
    shardings,
  )


def wrapped(step: Any, config: Any) -> Any:
  """`step(state, ...) -> (state, metrics)`, or a step in parts (`HostStep`), on
  such a state."""
  if not on(config):
    return step
  if hasattr(step, 'learn'):
    return step._replace(
      learn=wrapped(step.learn, config), scores=brought(step.scores, config)
    )

  @functools.wraps(step)
  def moved(state: TrainState, *given: Any, **named: Any):
    here = _over(state, config)
    new, metrics = step(here, *given, **named)
    return _back(new, here, state, config), metrics

  if hasattr(step, '__wrapped__'):  # what `guard.bare` looks for
    moved.__wrapped__ = wrapped(step.__wrapped__, config)
  return moved


def brought(function: Any, config: Any) -> Any:
  """A function of a state that hands back none; None stays so."""
  if function is None or not on(config):
    return function

  @functools.wraps(function)
  def reads(state: TrainState, *given: Any, **named: Any):
    return function(_over(state, config), *given, **named)

  return reads


def _over(state: TrainState, config: Any) -> TrainState:
  hosted, device = _hosted(config), jax.memory.Space.Device
  return trees.map_by_path(
    lambda path, x: jax.device_put(x, device) if hosted(path, x) else x, state
  )


def _back(
  new: TrainState, here: TrainState, old: TrainState, config: Any
) -> TrainState:
  """`new` where it lies; what a step only handed on is not sent."""
  hosted, host = _hosted(config), jax.memory.Space.Host

  def back(path: str, x: Any, was: Any, before: Any) -> Any:
    if not hosted(path, x):
      return x
    return before if x is was else jax.device_put(x, host)

  return trees.map_by_path(back, new, here, old)
