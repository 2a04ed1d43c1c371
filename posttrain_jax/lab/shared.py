"""A stage of one lab as the start that many seeds of another share."""

from collections.abc import Sequence

import jax
import numpy as np

from posttrain_jax.lab.stages import Lab, save
from posttrain_jax.lab.trained import Trained, digest_of

__all__ = ['shared']


def shared(runs: Lab, trained: Trained, rows: Sequence[int]) -> Trained:
  """A stage of another lab as a start for the seeds of this one.

  Seed i of `runs` starts from row `rows[i]` of `trained`. Its account is that
  row's, so arms that start from it count it once each, as after `Lab.train`.

  Raises:
    ValueError: not one row a seed, or a row that `trained` has not.
  """
  count = len(trained.account)
  if len(rows) != len(runs.seeds):
    raise ValueError(
      f'rows has {len(rows)} entries for {len(runs.seeds)} seeds'
    )
  for row in rows:
    if not 0 <= row < count:
      raise ValueError(f'rows has {row}, which is not in 0..{count - 1}')
  digest = digest_of(trained.digest, list(rows), runs.seeds)
  path = runs.workdir / 'shared' / f'{trained.name}-{digest}.safetensors'
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    index = np.array(rows)
    made = path.with_name(f'.{path.name}')
    save(made, jax.tree.map(lambda x: x[index], trained.params))
    made.replace(path)
  return Trained(
    name=trained.name,
    config=trained.config,
    hparams=trained.hparams,
    account=tuple(trained.account[row] for row in rows),
    curves={
      k: np.asarray(x)[np.array(rows)] for k, x in trained.curves.items()
    },
    digest=digest,
    commit=trained.commit,
    wall_seconds=0.0,
    path=path,
    snapshots={},
    failed={
      i: trained.failed[row]
      for i, row in enumerate(rows)
      if row in trained.failed
    },
  )
