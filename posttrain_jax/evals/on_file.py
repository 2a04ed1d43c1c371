"""Evaluation on the records of a file: loss, perplexity, token accuracy."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from posttrain_jax.core.types import Array, Batch, TrainState

__all__ = ['FileEvaluator']

# Names of a trainer's metrics, as an evaluation calls them.
RENAMED = {'mean_token_accuracy': 'token_accuracy'}


class FileEvaluator:
  """`evaluator(state) -> {name: number}`, of all records of a file.

  Metrics are those of the trainer, as 'eval/NAME', and its loss as 'eval/loss';
  where it reports the cross-entropy of tokens (`nll`), eval/perplexity, too.
  Each is one sum over all records divided by one count: of tokens, or of pairs
  where it speaks of pairs. So neither the size of a batch nor the width of rows
  nor what a last batch is filled with has a part in it. (A method that compares
  the records of a batch with each other does so here, batch by batch, too.)
  """

  def __init__(
    self,
    judge: Callable[[TrainState, Batch, Array], dict[str, Array]],
    batches: Callable[[], Iterable[dict[str, Any]]],
    to_device: Callable[[dict[str, Any], Any], Batch],
  ):
    """`judge` of `trainers.judge.make_judge`; `batches()` are all records once,
    and `to_device(batch, its part)` makes rows of one."""
    self._judge = jax.jit(judge)
    self._batches, self._to_device = batches, to_device

  def names(self, state: TrainState) -> set[str]:
    """The metrics of a call, by the shapes of a state and of one batch."""
    batches = self._batches()
    raw = next(iter(batches))
    batch = self._to_device(raw, getattr(batches, 'part', None))
    found = jax.eval_shape(self._judge, state, batch, np.uint32(0))
    return set(_ratios(dict.fromkeys(found, 1.0)))

  def __call__(self, state: TrainState) -> dict[str, float]:
    totals: dict[str, float] = {}
    first = 0
    batches = self._batches()
    part = getattr(batches, 'part', None)  # of them, on this process
    for raw in batches:
      batch = self._to_device(raw, part)
      found = self._judge(state, batch, np.uint32(first))
      first += batch.tokens.shape[0]
      for name, value in jax.device_get(found).items():
        # In float64: a file has more tokens than float32 counts.
        added = 0.0 if name.startswith('coef/') else totals.get(name, 0.0)
        totals[name] = added + float(value)
    return _ratios(totals)


def _ratios(totals: dict[str, float]) -> dict[str, float]:
  """The metrics of an evaluation from the sums of `make_judge`."""
  parts = {'sum': {}, 'count': {}, 'coef': {}, 'metric': {}, 'of': {}}
  for name, value in totals.items():
    kind, _, rest = name.partition('/')
    parts[kind][rest] = value
  terms = {
    name: total / max(parts['count'][name], 1.0)
    for name, total in parts['sum'].items()
  }
  out = {'eval/loss': sum(parts['coef'][n] * x for n, x in terms.items())}
  if len(terms) > 1:
    out |= {f'eval/loss/{name}': value for name, value in terms.items()}
  for name, total in parts['metric'].items():
    if not parts['of'][name]:
      continue  # it speaks of nothing that is there
    mean = total / parts['of'][name]
    out[f'eval/{RENAMED.get(name, name)}'] = mean
    if name == 'nll':
      # Beyond what a float holds, it says no more than that.
      out['eval/perplexity'] = math.exp(min(mean, 700.0))
  return out
