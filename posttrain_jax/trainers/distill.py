"""Distillation: the student's distribution drawn towards a teacher's.

Where the rows come from is the source's business: demonstrations, the
teacher's own samples, or the student's (on-policy).
"""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import jax

from posttrain_jax import collect, token_weights
from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.losses import distillation, reduce
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import sft, step
from posttrain_jax.trainers.objective import (
  Objective,
  bind,
  count_with,
  score,
  with_mask,
)

__all__ = [
  'LABEL',
  'check',
  'check_sizes',
  'controllers',
  'counts',
  'forwards',
  'loss_room',
  'make_objective',
  'make_step',
  'memories',
  'needs',
  'records',
  'roles',
  'rows_per_prompt',
  'scorers',
  'sources',
  'value_head',
]

LABEL = 'distillation'

# Rows, sources and accounts are those of SFT.
records, sources, rows_per_prompt = (
  sft.records,
  sft.sources,
  sft.rows_per_prompt,
)
roles, scorers, forwards = sft.roles, sft.scorers, sft.forwards
controllers, counts = sft.controllers, sft.counts
memories = sft.memories


def loss_room(name: str) -> ModuleType:
  """The room of a loss: always `distillation`."""
  del name
  return distillation


def check(config: Any) -> None:
  """Raises ValueError for parts of a config that cannot work together."""
  if not step.from_file(config):
    collect.check(config, *sources(config))
  elif config.data.packing:
    sft.check_packing(config, distillation)


def check_sizes(config: Any, sizes: Any) -> None:
  """Raises ValueError for micro-batches that would change the result."""
  if 'weights' in config:
    step.refuse_split(sizes, [(token_weights, config.weights.name)])


def needs(config: Any, provided: Iterable[str]) -> frozenset[str]:
  """No array beside the teacher's logits, which the objective makes itself."""
  del config, provided
  return frozenset()


def value_head(config: Any) -> bool:
  """The model has no scalar head."""
  del config
  return False


def make_objective(
  config: Any, models: dict[str, ModelConfig], vocab_size: int = 0
) -> Objective:
  """`config.loss` between the model and `config.others.teacher`.

  vocab_size  of the tokenizer: sizes of a family may have different numbers of
              rows without a token behind these, which are then left out. 0: the
              models have no such rows
  """
  loss = bind(distillation, config.loss)
  average = bind(reduce, config.reduce)
  vocab = {role: models[role].vocab_size for role in ('policy', 'teacher')}
  size = vocab['policy']
  if vocab['policy'] != vocab['teacher']:
    size = vocab_size
  if not 0 < size <= min(vocab.values()):
    raise ValueError(
      f'the teacher has {vocab["teacher"]} tokens, the student '
      f'{vocab["policy"]}: distillation compares the same vocabulary'
    )
  k = config.loss.get('k', 0)
  if k > size:
    raise ValueError(
      f'loss.k={k}: the model has only {size} tokens; nearest valid: {size}'
    )

  def evaluate(params, state: TrainState, batch: Batch):
    signals = score(params, models['policy'], batch, entropy=True, logits=True)
    teacher = score(
      state.model('teacher'), models['teacher'], batch, logits=True
    )
    assert signals.logits is not None and teacher.logits is not None
    token_loss, metrics = loss(
      signals.logits[..., :size],
      jax.lax.stop_gradient(teacher.logits)[..., :size],
      batch.mask,
    )
    metrics = {
      **metrics,
      'entropy': signals.entropy,
      'mean_token_accuracy': signals.is_top,
      'nll': -signals.logps,
      'teacher_nll': -teacher.logps,
    }
    total, _ = average(token_loss, batch.mask)
    return {'loss': total}, with_mask(metrics, batch.mask)

  return Objective(evaluate, count_with(average, 'loss'), {'loss': 1.0})


def make_step(setup: step.Setup) -> step.Steps:
  """The steps of a run."""
  goal = make_objective(setup.config, setup.models, setup.tokenizer.vocab_size)
  return step.on_rows(setup, goal)
