"""What a stage of training left: `Trained`."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import flax as safetensors

from posttrain_jax.core.types import PyTree
from posttrain_jax.lab.hparams import Hparam

__all__ = ['Trained', 'digest_of']


@dataclasses.dataclass(frozen=True)
class Trained:
  """A stage's result, with a leading axis of seeds [S].

  account  one dict of `accounting.ITEMS` a seed, of this stage alone
  curves   {metric: [S, steps]}
  digest   of all that it came from
  commit   of the code that trained it
  wall_seconds  that training all seeds took, compiling included
  path     of the parameters
  snapshots  {step: Trained} on the way there, accounted up to that step
  failed   {index of a seed: its step that was not finite}; that seed stands
           still from there, and what is measured of it is nan
  rows     the seeds [S] of the file at `path`, where it is lent to seeds of
           another lab (`of_rows`); None: all of them, in their order
  """

  name: str
  config: Any
  hparams: Mapping[str, Hparam]
  account: tuple[Mapping[str, float], ...]
  curves: Mapping[str, np.ndarray]
  digest: str
  commit: str
  wall_seconds: float
  path: Path
  snapshots: Mapping[int, 'Trained']
  failed: Mapping[int, int] = dataclasses.field(default_factory=dict)
  rows: tuple[int, ...] | None = None

  @property
  def params(self) -> PyTree:
    """The policy's parameters, arrays [S, ...]; read when asked for."""
    flat = safetensors.load_file(self.path)
    if self.rows is not None:
      flat = {k: x[jnp.array(self.rows)] for k, x in flat.items()}
    return traverse_util.unflatten_dict(flat, sep='/')

  def for_seeds(self, count: int) -> 'Trained':
    """This stage of one seed as the start of `count` seeds.

    Raises:
      ValueError: it was trained with several.
    """
    if len(self.account) != 1:
      raise ValueError(
        f'stage "{self.name}" has {len(self.account)} seeds: only a stage of '
        'one is shared'
      )
    return self.of_rows([0] * count)

  def of_rows(self, rows: Sequence[int]) -> 'Trained':
    """This stage as a start: seed i begins at seed `rows[i]` of it.

    Its account is that seed's, so arms that start from it count it once each.

    Raises:
      ValueError: a row that it has not, or it is lent already.
    """
    count = len(self.account)
    if self.rows is not None:
      raise ValueError(f'stage "{self.name}" is lent already')
    for row in rows:
      if not 0 <= row < count:
        raise ValueError(f'rows has {row}, which is not in 0..{count - 1}')
    index = np.array(rows)
    return dataclasses.replace(
      self,
      rows=tuple(rows),
      account=tuple(self.account[row] for row in rows),
      curves={k: np.asarray(x)[index] for k, x in self.curves.items()},
      digest=digest_of(self.digest, list(rows)),
      snapshots={k: x.of_rows(rows) for k, x in self.snapshots.items()},
      failed={
        i: self.failed[row] for i, row in enumerate(rows) if row in self.failed
      },
    )


def digest_of(*parts: Any) -> str:
  """A short name for anything that JSON or repr can hold."""
  text = json.dumps(parts, sort_keys=True, default=repr)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
