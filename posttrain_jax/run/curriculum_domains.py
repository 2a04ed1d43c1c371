"""What hyperparameters of `config.curriculum` may be (`run.domains`)."""

from posttrain_jax import curricula
from posttrain_jax.core.domain import Number, Whole, Word

__all__ = ['PARTS']

SHARE, NOT_NEGATIVE = Number(0, 1), Number(0)

PARTS = {
  'curricula/drop': Word(curricula.DROPS),
  'curricula/end': SHARE,
  'curricula/floor': SHARE,
  'curricula/keep': NOT_NEGATIVE,
  'curricula/rate': Number(0, 1, above=True),
  'curricula/smoothing': NOT_NEGATIVE,
  'curricula/start': NOT_NEGATIVE,
  'curricula/falling_share.start': SHARE,
  'curricula/tries': Whole(1),
  'curricula/width': Number(1),
}
