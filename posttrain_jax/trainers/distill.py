"""Distillation: the student's distribution drawn towards a teacher's.

Where the rows come from is the source's business: demonstrations, the
teacher's own samples, or the student's (on-policy).
"""

from typing import Any

import jax

from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.losses import distillation, reduce
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers.objective import (
  Objective,
  bind,
  count_with,
  score,
  with_mask,
)

__all__ = ['make_objective']


def make_objective(config: Any, models: dict[str, ModelConfig]) -> Objective:
  """`config.loss` between the model and `config.others.teacher`."""
  loss = bind(distillation, config.loss)
  average = bind(reduce, config.reduce)
  vocab = {role: models[role].vocab_size for role in ('policy', 'teacher')}
  if vocab['policy'] != vocab['teacher']:
    raise ValueError(
      f'the teacher has {vocab["teacher"]} tokens, the student '
      f'{vocab["policy"]}: distillation compares the same vocabulary'
    )

  def evaluate(params, state: TrainState, batch: Batch):
    signals = score(params, models['policy'], batch, entropy=True, logits=True)
    teacher = score(
      state.others['teacher'], models['teacher'], batch, logits=True
    )
    token_loss, metrics = loss(
      signals.logits, jax.lax.stop_gradient(teacher.logits), batch.mask
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
