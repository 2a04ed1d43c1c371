"""Every evaluator of a run, as one dict of numbers."""

import functools
from typing import Any

import jax
import numpy as np

from posttrain_jax.core import keys
from posttrain_jax.core.types import PyTree
from posttrain_jax.evals import on_host
from posttrain_jax.evals.in_graph import Evaluator


@functools.cache
def compiled(evaluator: Evaluator):
  """One program for equal evaluators, also across the runs of a process."""
  return jax.jit(evaluator.__call__)


def evaluation_key(seed: int) -> jax.Array:
  """The key of a run's evaluation problems: the same at every step."""
  return jax.random.fold_in(keys.seed_key(seed), keys.EVALUATION)


def evaluate(
  evaluators: dict[str, Evaluator | on_host.HostEvaluator],
  params: PyTree,
  seed: int,
) -> dict[str, float]:
  """Every evaluator's metrics, and their mean accuracy over a mixture.

  evaluators  {name: evaluator} of a run; '' is its own task
  """
  key = evaluation_key(seed)
  found = {}
  for name, evaluator in evaluators.items():
    # A host evaluator compiles its own parts.
    hosted = isinstance(evaluator, on_host.HostEvaluator)
    call = evaluator if hosted else compiled(evaluator)
    found[name] = call(params, key)
  return {name: float(x) for name, x in gathered(found).items()}


def gathered(found: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
  """Metrics of all evaluators as one dict, and their mean accuracy.

  found  {evaluator: {metric: scalar, or [S] of several runs}}
  """
  out = {}
  for name, metrics in found.items():
    prefix = f'eval/{name}/' if name else 'eval/'
    out |= {
      k.replace('eval/', prefix, 1): np.asarray(v) for k, v in metrics.items()
    }
  if '' not in found and found:
    scores = [out[f'eval/{name}/accuracy'] for name in found]
    out['eval/accuracy'] = np.mean(scores, axis=0)
  return out
