"""Numbers of seeds alone, kept as those of stages are.

  found = look(lab, 'bandit', probe, {'rate': rates})  # {name: [one a seed]}

For what a study measures without a model: a problem small enough to train and
measure in one program.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from posttrain_jax import log
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.lab import files
from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import digest_of

__all__ = ['look']

_programs: dict[Any, Callable] = {}


def look(
  runs: Lab,
  name: str,
  probe: Callable[[Array, PyTree], dict[str, Array]],
  given: PyTree = None,
  split: str = 'test',
) -> dict[str, list[float]]:
  """{name: a number a seed} of `probe(key, given)`, in one program for all
  seeds and whatever is given.

  Args:
    runs: whose seeds and folder; time and commit count as those of its stages.
    name: of the file that they are kept in, with a digest of all arguments.
    probe: jit- and vmap-able, and told by what it prints as (a frozen
      dataclass), since what is on disk is found by that.
    given: arrays or lists of numbers, the same for all seeds.
    split: 'test' or 'validation', as `Lab.measure` has it.
  """
  leaves = jax.tree.map(lambda x: np.asarray(x).tolist(), given)
  digest = digest_of(repr(probe), leaves, runs.seeds, split)
  kept = runs.workdir / 'looks' / f'{name}-{digest}.json'
  if not kept.exists():
    began = time.monotonic()
    if probe not in _programs:
      _programs[probe] = jax.jit(jax.vmap(probe, (0, None)))
    arrays = jax.tree.map(np.asarray, given, is_leaf=_listed)
    found = _programs[probe](runs.split_keys(split), arrays)
    saved = {
      'values': {k: np.asarray(x, float).tolist() for k, x in found.items()},
      'wall_seconds': time.monotonic() - began,
      'commit': files.commit_of(log.make_header({})),
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(kept, json.dumps(log.strict(saved)) + '\n')
  saved = json.loads(kept.read_text())
  runs.count(kept, saved['wall_seconds'], saved['commit'])
  # JSON has no nan: it is kept as text.
  return {k: np.array(x, float).tolist() for k, x in saved['values'].items()}


def _listed(value: Any) -> bool:
  return isinstance(value, (list, tuple))
