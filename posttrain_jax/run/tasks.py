"""The tasks of a run: what it trains on, and what it is judged on."""

from typing import Any

from posttrain_jax import tasks
from posttrain_jax.core.resolve import active
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.tokenizers import ends
from posttrain_jax.evals import on_host
from posttrain_jax.evals.in_graph import Evaluator
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import guides
from posttrain_jax.tasks import conditioned
from posttrain_jax.tasks.mixture import Mixture
from posttrain_jax.tasks.subset import Subset
from posttrain_jax.trainers.step import from_file

__all__ = ['make_evaluators', 'make_task', 'training_task']


def make_task(entry: Any) -> Any:
  """The task of a config entry {name, **knobs}, or a mixture of such."""
  entry = dict(entry)
  name = entry.pop('name')
  if name != 'mixture':
    return tasks.make(name, **entry)
  parts, weights = [], []  # in the order of names: configs sort their keys
  for part in dict(entry['parts']).values():
    part = dict(part)
    weights.append(float(part.pop('weight')))
    parts.append(tasks.make(part.pop('name'), **part))
  return Mixture(tasks=tuple(parts), weights=tuple(weights))


def training_task(config: Any, task: Any) -> Any:
  """The task, or as many of its problems as `config.problems` allows."""
  count = config.problems.count
  if not active(count):
    return task
  if task is None or isinstance(task, HostTask) or from_file(config):
    raise ValueError(
      f'problems.count={count} is of in-graph tasks; a file and a task '
      '"text:NAME" have as many as they have'
    )
  return Subset(task, count, config.problems.seed, config.heldout_fraction)


def make_evaluators(
  config: Any, model: ModelConfig, task: Any, tokenizer: Any, sizes: Any
) -> dict:
  """An evaluator of the run's task, and of each part of a mixture."""
  if task is None:
    return {}
  if config.eval.num_problems == 0:
    return {}
  batch = min(config.eval.batch, config.eval.num_problems)
  guide = guides.make(
    config.guides, eos_id=ends(tokenizer), vocab_size=model.vocab_size
  )
  # Numbers: a sweep that would trace them cannot.
  how = {key: float(config.eval[key]) for key in ('temperature', 'top_p')}
  if isinstance(task, HostTask):
    evaluator = on_host.HostEvaluator(
      model=model,
      task=task,
      tokenizer=tokenizer,
      num_problems=config.eval.num_problems,
      samples=config.eval.samples,
      beams=config.eval.beams,
      batch=batch,
      max_new_tokens=sizes.max_new_tokens,
      guide=guide,
      **how,
    )
    return {'': evaluator}
  make = lambda task: Evaluator(
    model=model,
    task=conditioned.evaluated(task),
    num_problems=config.eval.num_problems,
    samples=config.eval.samples,
    beams=config.eval.beams,
    batch=batch,
    heldout_fraction=config.heldout_fraction,
    guide=guide,
    **how,
  )
  if config.task.name == 'mixture':
    condition = dict(config.condition)
    parts = make_task(config.task).tasks
    return {
      name: make(conditioned.wrap(part, **condition))
      for name, part in zip(dict(config.task.parts), parts)
    }
  return {'': make(task)}
