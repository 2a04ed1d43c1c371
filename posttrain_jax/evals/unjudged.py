"""Answers that nothing was found of, after an evaluation in Python."""

import json
from collections.abc import Mapping
from typing import Any

from posttrain_jax.core import hosts
from posttrain_jax.core.resolve import active
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.evals.on_host import HostEvaluator

__all__ = ['counted']

# Counts of a task or of a reward that say of how many answers nothing is known.
FAILED = ('errors', 'timeouts', 'verifier_errors')


def _counts(task: HostTask) -> dict[str, int]:
  """`task.all_counts` of all processes; each has to call it.

  Answers are judged by one process each, so that what happened to them adds
  up. Every process draws all problems: what happened there is the same.
  """
  counts = task.all_counts()
  if not hosts.several():
    return counts
  each = [json.loads(text) for text in hosts.said(json.dumps(counts))]
  return {
    name: (sum if name.startswith('rewards/') or name in FAILED else max)(
      one.get(name, 0) for one in each
    )
    for name in {name: 0 for one in each for name in one}
  }


def counted(
  evaluators: Mapping[str, Any], found: dict[str, float]
) -> dict[str, float]:
  """How often rewards and verifiers failed in one call of each evaluator.

  Every process has to call it.

  evaluators  of a run, made for this one call; in-graph ones count nothing
  found       what `score.evaluate` said of them

  Returns eval/rewards/LABEL/errors, /timeouts and, of functions of one's own,
  /alone (see `rewards.judge.Judge`); eval/host/NAME of a task's own counts.

  Raises:
    ValueError: a reward failed on every answer, or the one that says which are
      right applies to none of the greedy ones: the rest says nothing.
  """
  out = {}
  for name, evaluator in evaluators.items():
    if not isinstance(evaluator, HostEvaluator):
      continue
    prefix = f'eval/{name}/' if name else 'eval/'
    counts = _counts(evaluator.task)
    _check(evaluator, counts, found, prefix)
    for key, count in counts.items():
      whose = '' if key.startswith('rewards/') else 'host/'
      out[f'{prefix}{whose}{key}'] = float(count)
  return out


def _check(
  evaluator: HostEvaluator,
  counts: Mapping[str, int],
  found: Mapping[str, float],
  prefix: str,
) -> None:
  """Raises ValueError where nothing was judged."""
  tries = 1 + evaluator.samples + bool(evaluator.beams)
  answers = evaluator.num_problems * tries
  judge = evaluator.task.judge
  if judge is None:
    failed = sum(counts.get(what, 0) for what in FAILED)
    if failed >= answers:
      raise ValueError(
        f'nothing was judged: the verifier of {evaluator.task.name} failed on '
        f'all {answers:,} answers'
      )
    return
  for entry in judge.entries:
    label = f'rewards/{entry.label}'
    failed = sum(counts.get(f'{label}/{what}', 0) for what in FAILED)
    if failed >= answers and active(entry.weight):
      told = f'failed on all {answers:,} answers'
    elif entry is judge.verdict and found.get(f'{prefix}{label}/none') == 1.0:
      told = 'applies to no greedy answer'
      told += f', and failed on {failed:,} of {answers:,}' if failed else ''
    else:
      continue
    raise ValueError(judge.nothing(entry.label, told))
