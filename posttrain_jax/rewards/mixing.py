"""From what was found of answers to one reward each: entries and a sum.

The parts of an in-graph task's verifier and the scores of functions in Python
come together here, as {label: [B, G]}: the rest is the same for both, compiled
or not.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import active
from posttrain_jax.core.types import Array
from posttrain_jax.rewards import arrays
from posttrain_jax.rewards.entries import Entry

__all__ = ['check', 'completed', 'metrics', 'total']


def completed(
  entries: Sequence[Entry], found: dict[str, Array], facts: arrays.Facts
) -> dict[str, Array]:
  """{label: [B, G]} of every entry, in their order.

  found  {label: [B, G]} of those that are no function of arrays; nan where one
         does not apply
  """
  scores: dict[str, Array] = {}
  xp = arrays.namespace(facts.lengths)
  for entry in entries:
    if entry.kind != 'array':
      scores[entry.label] = xp.asarray(found[entry.label], np.float32)
      continue
    function = getattr(arrays, entry.name)
    values, _ = function(scores, facts, **entry.params)
    scores[entry.label] = xp.asarray(values, np.float32)
  return scores


def check(entries: Sequence[Entry], limit: int) -> None:
  """Raises ValueError for lengths that answers of `limit` tokens cannot have,
  before any is drawn."""
  numbers = jax.tree.leaves([entry.params for entry in entries])
  traced = any(isinstance(x, jax.core.Tracer) for x in numbers)
  blank = (jnp if traced else np).zeros((1, 1), np.float32)
  facts = arrays.Facts(blank, blank, limit)
  completed(entries, {entry.label: blank for entry in entries}, facts)


def total(
  entries: Sequence[Entry], scores: dict[str, Array]
) -> tuple[Array, Array]:
  """(rewards [B, G], unscored [B, G]).

  An entry that does not apply to an answer is left out of its sum; where none
  does, the reward is 0.0 and the answer is unscored, 1.0. Entries of weight 0
  are only measured.
  """
  counted = [entry for entry in entries if active(entry.weight)]
  xp = arrays.namespace(next(iter(scores.values())))
  values = xp.stack([scores[entry.label] for entry in counted])
  weights = xp.asarray([entry.weight for entry in counted], np.float32)
  applies = ~xp.isnan(values)
  terms = xp.where(applies, values, 0.0) * weights[:, None, None]
  unscored = ~xp.any(applies, axis=0)
  return xp.sum(terms, axis=0), unscored.astype(np.float32)


def metrics(scores: dict[str, Array], unscored: Array) -> dict[str, Any]:
  """rewards/LABEL/mean and /std (sample) of the answers that each applies to
  (0.0 where there is none), rewards/LABEL/none (the share of the others), and
  rewards/unscored, their number."""
  xp = arrays.namespace(unscored)
  out = {'rewards/unscored': xp.sum(unscored)}
  for label, values in scores.items():
    applies = (~xp.isnan(values)).astype(np.float32)
    clean = xp.where(applies > 0, values, 0.0)
    count = xp.sum(applies)
    mean = xp.sum(clean) / xp.maximum(count, 1.0)
    squares = xp.sum(applies * (clean - mean) ** 2)
    out |= {
      f'rewards/{label}/mean': mean,
      f'rewards/{label}/std': xp.sqrt(squares / xp.maximum(count - 1.0, 1.0)),
      f'rewards/{label}/none': 1.0 - xp.mean(applies),
    }
  return out
