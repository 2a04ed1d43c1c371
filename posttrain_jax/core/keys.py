"""The keys of a run: of its steps, its start and its evaluations."""

import jax

from posttrain_jax.core.types import Array

__all__ = ['EVALUATION', 'START', 'STEPS', 'run_key']

# What is folded into the key of a run's seed: for its steps, for its start and
# for the problems of its evaluations.
STEPS, START, EVALUATION = 0, 1, 2


def run_key(seed: int) -> Array:
  """The key of a run's steps; step s uses `fold_in(run_key, s)`."""
  return jax.random.fold_in(jax.random.key(seed), STEPS)
