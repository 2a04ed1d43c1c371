"""A stage of one lab as the start of seeds of another."""

from collections.abc import Sequence

from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained

__all__ = ['of_all', 'own_rows', 'shared', 'turns']


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


def own_rows(runs: Lab, own: Lab) -> list[int]:
  """Rows for `shared` by which every seed of `runs` starts from the stage of
  the same seed of `own`.

  Raises:
    ValueError: a seed that `own` has not.
  """
  for seed in runs.seeds:
    if seed not in own.seeds:
      raise ValueError(f'no stage of seed {seed}, but of {list(own.seeds)}')
  return [own.seeds.index(seed) for seed in runs.seeds]


def of_all(runs: Lab, *seeds: Sequence[int]) -> Lab:
  """A lab for bases of each seed's own: of `seeds`, those of a study and of its
  tuning, so that one program trains them whichever asks, and of `runs`."""
  every = [seed for some in (*seeds, runs.seeds) for seed in some]
  return runs.beside(tuple(dict.fromkeys(every)))
