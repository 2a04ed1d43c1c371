"""How well scores rank the answers to one problem."""

import jax.numpy as jnp

from posttrain_jax.core.types import Array

__all__ = ['ranked']


def ranked(scores: Array, right: Array) -> Array:
  """[] share of pairs (right, wrong) of a problem in which the right one has
  the higher score; ties count half, and without a pair it is 0.

  scores, right  [N, S] of S answers to each problem; right is 1.0 or 0.0
  """
  gap = scores[:, :, None] - scores[:, None]
  pair = right[:, :, None] * (1.0 - right[:, None])
  won = (gap > 0) + 0.5 * (gap == 0)
  return jnp.sum(pair * won) / jnp.maximum(jnp.sum(pair), 1.0)
