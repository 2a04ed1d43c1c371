"""What a stage of training left: `Trained`."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
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
  shared_by  how many seeds start from it, where it was trained with one
             (`for_seeds`)
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
  shared_by: int = 0

  @property
  def params(self) -> PyTree:
    """The policy's parameters, arrays [S, ...]; read when asked for."""
    flat = safetensors.load_file(self.path)
    if self.shared_by:
      flat = {k: jnp.repeat(x, self.shared_by, axis=0) for k, x in flat.items()}
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
    return dataclasses.replace(
      self,
      shared_by=count,
      account=self.account * count,
      curves={k: np.repeat(x, count, axis=0) for k, x in self.curves.items()},
      digest=f'{self.digest}x{count}',
      snapshots={k: x.for_seeds(count) for k, x in self.snapshots.items()},
      failed={i: x for i in range(count) for x in self.failed.values()},
    )


def digest_of(*parts: Any) -> str:
  """A short name for anything that JSON or repr can hold."""
  text = json.dumps(parts, sort_keys=True, default=repr)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
