"""The keys of a run: of its steps, its start and its evaluations."""

import operator
from typing import Any

import jax

from posttrain_jax.core.types import Array

__all__ = [
  'EVALUATION',
  'MOST',
  'START',
  'STEPS',
  'drawn_key',
  'run_key',
  'seed_key',
]

# What is folded into the key of a run's seed: for its steps, for its start and
# for the problems of its evaluations.
STEPS, START, EVALUATION = 0, 1, 2
# And for a run that draws others than the first: far from those kinds.
_DRAWS = 2**20

# The largest seed, and the largest that fits a word.
MOST, WORD = 2**64 - 1, 2**32 - 1


def seed_key(seed: Any) -> Array:
  """The key of a seed; different seeds have different keys.

  seed  0 .. MOST, or an array of one word (traced in a sweep). Up to WORD it is
        `jax.random.key(seed)`, which would take no more than the low word of a
        larger one

  Raises:
    ValueError: a negative seed, or one above MOST.
  """
  try:
    number = operator.index(seed)
  except (TypeError, jax.errors.JAXTypeError):  # traced, or a float array
    return jax.random.key(seed)
  if not 0 <= number <= MOST:
    raise ValueError(
      f'seed={number} is not in 0..2**64-1; nearest valid: '
      f'{min(max(number, 0), MOST)}'
    )
  low, high = number & WORD, number >> 32
  key = jax.random.key(low)
  if not high:
    return key
  # No run has a step, or a kind of key, of that number.
  return jax.random.fold_in(jax.random.fold_in(key, WORD), high)


def drawn_key(seed: Any, draw: int) -> Array:
  """`seed_key`, or for `draw` 1, 2, ... another that belongs to the seed: what
  a stage that comes again draws with.

  Raises:
    ValueError: as `seed_key`; a negative draw.
  """
  if draw < 0:
    raise ValueError(f'draw={draw} is negative; nearest valid: 0')
  key = seed_key(seed)
  return jax.random.fold_in(key, _DRAWS + draw) if draw else key


def run_key(seed: Any) -> Array:
  """The key of a run's steps; step s uses `fold_in(run_key, s)`."""
  return jax.random.fold_in(seed_key(seed), STEPS)
