"""A stage of one lab as the start that many seeds of another share."""

from collections.abc import Sequence

from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained

__all__ = ['shared']


def shared(runs: Lab, trained: Trained, rows: Sequence[int]) -> Trained:
  """A stage of another lab as a start for the seeds of this one.

  Seed i of `runs` starts from row `rows[i]` of `trained`: `Trained.of_rows`.

  Raises:
    ValueError: not one row a seed, or a row that `trained` has not.
  """
  if len(rows) != len(runs.seeds):
    raise ValueError(
      f'rows has {len(rows)} entries for {len(runs.seeds)} seeds'
    )
  return trained.of_rows(rows)


def turns(runs: Lab, own: Lab) -> list[int]:
  """Rows for `shared` by which the seeds of `runs` take turns among those of
  `own`: the first of each, then the second, and from the first on again."""
  return [i % len(own.seeds) for i in range(len(runs.seeds))]
