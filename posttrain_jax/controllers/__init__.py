"""Coefficients that change during a run, from the step or from its metrics.

Every function here makes a controller and is called the same way:

  controller = make(**hparams)
  state = controller.init()
  value = controller.value(state)
  state, value = controller.update(state, metrics, step, num_steps)

  state      dict of scalars, saved with the run; `value` reads it
  metrics    dict of scalars of the step just done; `controller.reads` names
             those that are needed
  step       steps done so far, at least 1: the value is that of the next step
  num_steps  steps of the whole run
  value      [] float32: the coefficient of a loss term, or a temperature

`value(init())` is the value of the first step. All of it may be compiled, and
hyperparameters and steps may be traced. A metric that is not finite leaves the
state as it is: one bad step must not spoil the rest of a run.

Metrics of gradients are made only where a controller reads them
(`trainers.gradients`): 'grad_norm/PART' and 'grad_dot/PART/PART' of 'sft', 'rl'
and 'valid', the mean loss of demonstrations that nothing trains on.
"""

from posttrain_jax.controllers.common import Controller as Controller
from posttrain_jax.controllers.measured import (
  adaptive_entropy,
  adaptive_kl,
  entropy_at,
  entropy_temperature,
)
from posttrain_jax.controllers.schedules import (
  cosine_then_none,
  dynamic_kl,
  fixed,
  linear,
  warmup_cosine,
)
from posttrain_jax.controllers.shares import (
  grad_switch,
  grad_switch_clipped,
  meta_share,
)

__all__ = [
  'adaptive_entropy',
  'adaptive_kl',
  'cosine_then_none',
  'dynamic_kl',
  'entropy_at',
  'entropy_temperature',
  'fixed',
  'grad_switch',
  'grad_switch_clipped',
  'linear',
  'meta_share',
  'warmup_cosine',
]
