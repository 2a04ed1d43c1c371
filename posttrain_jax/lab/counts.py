"""How many different problems a measurement looks at, by their identity."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from posttrain_jax.core.types import Array
from posttrain_jax.tasks import split

__all__ = ['counts', 'of_probe']


def counts(
  task: Any, test: Sequence[Any], validation: Sequence[Any] = ()
) -> dict[str, int]:
  """Counts of problems over all seeds.

  Args:
    task: whose problems they are; its `identity`, else the prompt, says which
      are one and the same.
    test: one batch of Examples [N, ...] a seed, those that are reported.
    validation: those that choices were made on.

  Returns:
    drawn       test problems, with repetition, of all seeds
    test        different ones among them
    validation  different validation problems
    shared      problems that are in both
  """
  own, other = _identities(task, test), _identities(task, validation)
  return {
    'drawn': int(sum(len(x.prompt_id) for x in test)),
    'test': len(own),
    'validation': len(other),
    'shared': len(own & other),
  }


def of_probe(runs: Any, probe: Any) -> dict[str, int]:
  """`counts` of what a `measures.Probe` looks at for every seed of a `Lab`;
  where the probe is of a half of the held-out problems, of both halves."""
  drawn = {}
  for part in split.PARTS:
    own = dataclasses.replace(probe, part=part) if probe.part else probe
    draw = jax.jit(own.problems)
    drawn[part] = [draw(key) for key in runs.split_keys(part)]
  return counts(probe.task, drawn['test'], drawn['validation'])


def _identities(task: Any, batches: Sequence[Any]) -> set[bytes]:
  found: set[bytes] = set()
  identify = jax.jit(jax.vmap(lambda example: split.identity(task, example)))
  for batch in batches:
    rows: Array = np.asarray(identify(batch))
    found |= {_plain(row) for row in rows.reshape(len(rows), -1)}
  return found


def _plain(row: np.ndarray) -> bytes:
  """Without padding: a problem is one however wide its buffer is."""
  return row[row >= 0].astype(np.int64).tobytes()
