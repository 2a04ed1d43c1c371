"""Which metrics the evaluations of a run have, before anything is compiled."""

from typing import Any

import jax

from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals.on_host import HostEvaluator
from posttrain_jax.run.state import abstract_state

__all__ = ['check', 'names']


def names(run: Any) -> set[str]:
  """Metrics of a `build.Run`: what its evaluators return, by their shapes.

  A metric of rewards or pairs may still be missing where no record has any.
  """
  state = abstract_state(run)
  key = jax.eval_shape(lambda: jax.random.key(0))
  found = set()
  for name, evaluator in run.evaluators.items():
    if isinstance(evaluator, HostEvaluator):
      theirs = evaluator.names()
    else:
      theirs = set(jax.eval_shape(evaluator, state.params, key))
    prefix = f'eval/{name}/' if name else 'eval/'
    found |= {one.replace('eval/', prefix, 1) for one in theirs}
  if run.evaluators and '' not in run.evaluators:
    found.add('eval/accuracy')  # the mean over a mixture
  if run.on_file is not None:
    found |= run.on_file.names(state)
  return found


def check(run: Any) -> None:
  """Refuses a `checkpoint.best` that no evaluation of the run has.

  Raises:
    ValueError: with the nearest metrics.
  """
  asked = run.config.checkpoint.best
  if not asked:
    return
  there = names(run)
  if not there:
    raise ValueError(
      f'checkpoint.best="{asked}": nothing is evaluated in this run; set '
      'eval.num_problems, or data.eval_path or data.eval_fraction of a file'
    )
  if asked not in there:
    raise ValueError(
      f'checkpoint.best="{asked}" is no metric of this run\'s evaluations.'
      + nearest(asked, there)
    )
