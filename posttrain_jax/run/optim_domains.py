"""What keys of the optimizer may be (`run.domains`)."""

import math

from posttrain_jax.core.domain import Number, Patterns, Whole, Word
from posttrain_jax.run.auto import AUTO
from posttrain_jax.trainers import optim, optim_moments

__all__ = ['OPTIMIZER']

OPTIMIZER = {
  'optimizer.name': Word(optim.OPTIMIZERS),
  'optimizer.lr': Number(0, words=(AUTO,)),
  'optimizer.schedule': Word(optim.SCHEDULES),
  'optimizer.warmup_ratio': Number(0, 1),
  'optimizer.warmup_updates': Whole(0, words=(AUTO,)),
  'optimizer.final_fraction': Number(0, 1),
  'optimizer.weight_decay': Number(0),
  'optimizer.l2_to_start': Number(0),
  'optimizer.b1': Number(0, 1, below=True),
  'optimizer.b2': Number(0, 1, below=True),
  'optimizer.eps': Number(0, above=True),
  'optimizer.max_grad_norm': Number(0, also=(math.inf,)),
  'optimizer.moments': Word(optim_moments.MOMENTS),
  'optimizer.freeze': Patterns(),
}
