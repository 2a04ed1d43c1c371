"""Takes a step again that was not finite, from the record it has left.

The program is the one that the step was taken by, on the same inputs and the
state before it: on the same machine and versions its metrics come out the same,
bit for bit. What was held back the first time is then looked at by arrays.
"""

import contextlib
import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import log
from posttrain_jax.core import sharding, trees
from posttrain_jax.core.keys import drawn_key
from posttrain_jax.core.types import PyTree
from posttrain_jax.run import build, checkpoint, failed, loop
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.state import abstract_state, state_shardings
from posttrain_jax.sweep.core import Program, seed_mesh
from posttrain_jax.trainers import guard

__all__ = ['Replayed', 'main', 'replay']

# Of the header: what decides which bits a program computes.
MACHINE = ('versions', 'devices')


@dataclasses.dataclass(frozen=True)
class Replayed:
  """What a step did when it was taken again.

  metrics     of the step, without times
  not_finite  names of `guard.reasons`
  arrays      {array of the state after the step: (numbers that are not finite,
              all of its numbers)}
  differing   metrics that are not what the record has, bit for bit
  """

  metrics: dict[str, float]
  not_finite: list[str]
  arrays: dict[str, tuple[int, int]]
  differing: list[str]


def _numbers(metrics: dict[str, Any], index: tuple) -> dict[str, float]:
  return {
    name: float(np.asarray(x)[index])
    for name, x in metrics.items()
    if not name.startswith(failed.TIMED)
  }


def _bad(state: PyTree) -> dict[str, tuple[int, int]]:
  """{name: (not finite, all)} of the arrays that have such numbers."""
  out = {}
  for name, leaf in zip(trees.names(state), jax.tree.leaves(state)):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      count = int(jnp.sum(~jnp.isfinite(leaf)))
      if count:
        out[name] = (count, leaf.size)
  return out


def _check_place(record: failed.Record, config: Any) -> None:
  """Raises ValueError where the step would be cut up in another way: its sums
  would be rounded in another order, and nothing could be told from them."""
  then = record.header.get('devices', {})
  if not record.mesh:
    return
  needed = math.prod(record.mesh.values())
  if needed > jax.device_count():
    raise ValueError(
      f'{record.path} is of mesh {sharding.shown_as(record.mesh)}, {needed} '
      f'devices, and here are {jax.device_count()}'
    )
  sizes = sharding.axis_sizes(config.mesh)
  here = {axis: sizes.get(axis, 1) for axis in record.mesh}
  if here != record.mesh:
    raise ValueError(
      f'{record.path} is of mesh {sharding.shown_as(record.mesh)}, which the '
      f'{jax.device_count()} devices here make {sharding.shown_as(here)} of: '
      f'take {then.get("count", needed)} devices'
    )


def _alone(record: failed.Record, config: Any, run: build.Run):
  """(metrics of the guarded step, state after the bare one)."""
  mesh = sharding.make_mesh(config.mesh)
  before = record.step - 1
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(mesh))
    shapes = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      abstract_state(run),
      state_shardings(run, mesh),
    )

    def again(run: build.Run):
      driver = loop.make_driver(run, config)
      state = checkpoint.read_state(record.states, before, shapes)
      return driver.again(state, before, record.given)

    _, metrics = again(run)
    after, _ = again(dataclasses.replace(run, step=guard.bare(run.step)))
    return _numbers(metrics, (0,)), after


def _together(record: failed.Record, config: Any):
  """As `_alone`, in the program that trained several runs: all of its places
  hold this run, which is looked at in the place that it had."""
  place = record.together
  names = tuple(place.values)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def again(bare: bool):
    program = Program(config, names, seed_mesh(place.count), bare=bare)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      abstract_state(program.run),
    )
    state = checkpoint.read_state(record.states, record.step - 1, shapes)
    states = jax.tree.map(
      lambda x: np.stack([x] * place.count), jax.device_get(state)
    )
    keys = jnp.stack([drawn_key(config.seed, place.draw)] * place.count)
    values = [
      jnp.full(place.count, place.values[name], jnp.float32) for name in names
    ]
    states, metrics, _ = program.advance(states, keys, values, 1)
    one = jax.tree.map(lambda x: x[place.index], states)
    return one, _numbers(metrics, (place.index, 0))

  _, metrics = again(bare=False)
  after, _ = again(bare=True)
  return metrics, after


def _same(first: float, second: float) -> bool:
  return first == second or bool(np.isnan(first) and np.isnan(second))


def replay(record: failed.Record) -> Replayed:
  """Takes the step of a record again.

  Raises:
    ValueError: its config cannot work here, or its state cannot be read.
  """
  config = config_lib.completed(record.config)
  _check_place(record, config)
  run = build.build(config)
  if record.together is None:
    metrics, after = _alone(record, config, run)
  else:
    metrics, after = _together(record, config)
  what = metrics.pop(guard.WHAT)
  names = sorted(record.metrics.keys() | metrics.keys())
  differing = [
    name
    for name in names
    if name not in record.metrics
    or name not in metrics
    or not _same(record.metrics[name], metrics[name])
  ]
  return Replayed(metrics, guard.reasons(what), _bad(after), differing)


def _told(record: failed.Record) -> list[str]:
  """Lines about the machine, where it is not that of the record."""
  now = log.make_header(record.config)
  return [
    f'recorded with other {name}: {json.dumps(record.header.get(name))}, here '
    f'{json.dumps(now[name])}'
    for name in MACHINE
    if record.header.get(name) != now[name]
  ]


def main(record: failed.Record) -> int:
  """Replays a record and prints what it shows.

  Returns 1 if the step is not finite again, 0 if it is finite this time.

  Raises:
    ValueError: a record that cannot be replayed.
  """
  print(f'step {record.step} of {record.path.parent.parent}, again')
  print('\n'.join(_told(record)), end='\n' if _told(record) else '')
  found = replay(record)
  for name, value in found.metrics.items():
    now = '' if name not in found.differing else '  (recorded: '
    was = record.metrics.get(name, 'nothing')
    print(f'  {name:34} {value:.9g}' + (now and f'{now}{was})'))
  if found.arrays:
    print('not finite after it, were it not held back:')
    for name, (count, size) in found.arrays.items():
      print(f'  {name}: {count:,} of {size:,}')
  if not found.not_finite:
    print('the step is finite this time')
    return 0
  said = ', '.join(found.not_finite)
  if found.differing:
    print(f'not finite again ({said}); metrics that differ: '
          + ', '.join(found.differing))  # fmt: skip
  else:
    print(f'not finite again ({said}); every metric bit for bit as recorded')
  return 1
