"""Decode loops of several runs at once: `jax.vmap(run, axis_name=runs.AXIS)`.

Without the name, `vmap` of a while loop keeps, at every token, a copy of the
caches of the runs that are done. With it all runs go on until the last is done,
and the loop's counter stays one number for all of them.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.types import Array

__all__ = ['AXIS', 'any_run']

AXIS = 'runs'


def any_run(predicate: Array) -> Array:
  """Whether `predicate` holds in any of the runs that are vmapped together.

  Only for loops whose body changes nothing in a run that is done.
  """
  try:
    return jax.lax.pmax(predicate.astype(jnp.int32), AXIS) > 0
  except NameError:  # one run alone: no such axis
    return predicate
