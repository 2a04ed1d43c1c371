"""Several runs at once, side by side on one device and on several.

`spread` is `jax.vmap(run, axis_name=runs.AXIS)` shared among devices. Without
the name, `vmap` of a decode loop keeps, at every token, a copy of the caches of
the runs that are done. With it all runs of a device go on until the last is
done, and the loop's counter stays one number for all of them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array

__all__ = ['AXIS', 'SEED', 'any_run', 'seed_mesh', 'spread']

AXIS = 'runs'  # of vmap
SEED = 'seed'  # of the mesh


def any_run(predicate: Array) -> Array:
  """Whether `predicate` holds in any of the runs that are vmapped together,
  or in any of the parts of a mesh that have rows of their own.

  Only for loops whose body changes nothing in a run that is done.
  """
  apart = [
    axis
    for axis in jax.sharding.get_abstract_mesh().manual_axes
    if axis in sharding.AXES
  ]
  if apart:  # they go on together: axis tensor has work for all of them
    return jax.lax.pmax(predicate.astype(jnp.int32), tuple(apart)) > 0
  try:
    return jax.lax.pmax(predicate.astype(jnp.int32), AXIS) > 0
  except NameError:  # one run alone: no such axis
    return predicate


def seed_mesh(count: int) -> Mesh | None:
  """A mesh of as many devices as can share `count` runs equally.

  None where that is one device alone.
  """
  there = min(count, jax.device_count())
  size = next(size for size in range(there, 0, -1) if count % size == 0)
  if size == 1:
    return None
  return jax.make_mesh(
    (size,),
    (SEED,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:size],
  )


def spread(
  body: Callable, in_axes: Sequence[int | None], mesh: Mesh | None = None
) -> Callable:
  """`body` of one run for many at once: `jax.vmap`, and over a mesh's devices.

  body     its decode loops are written for it (`any_run`)
  in_axes  of its arguments: 0, one a run, or None, the same for all
  mesh     from `seed_mesh`; a device computes its own runs and waits for no
           other
  """
  together = jax.vmap(body, tuple(in_axes), axis_name=AXIS)
  if mesh is None:
    return together
  return jax.shard_map(
    together,
    mesh=mesh,
    in_specs=tuple(P() if axis is None else P(SEED) for axis in in_axes),
    out_specs=P(SEED),
    check_vma=False,
  )
