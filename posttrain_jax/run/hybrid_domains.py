"""What keys of rows beside a group may be, and what controllers' numbers
(`run.domains`)."""

from posttrain_jax.core.domain import Flag, Number, Text, Whole, Word
from posttrain_jax.trainers.rl import (
  guests,
  hard_buffer,
  hints,
  partner,
  prefixes,
  refined,
)

__all__ = ['CONTROLLERS', 'KEYS']

COUNT, FINITE, FLAG, TEXT = Whole(0), Number(), Flag(), Text()
POSITIVE, NOT_NEGATIVE, SHARE = Number(0, above=True), Number(0), Number(0, 1)
SOME = Number(0, 1, above=True)

# What a controller steers decides what its values may be.
_STEERED = {
  'explore': POSITIVE,
  'temperature': POSITIVE,
  'prefix': SHARE,
  'hints': SHARE,
}
_VALUES = ('value', 'start', 'end', 'peak', 'valley', 'low', 'high')

KEYS = {
  'sft_loss.mix': Word(guests.MIXES),
  'demos_per_prompt': COUNT,
  'demos_from': Word(('oracle', 'refined')),
  'refine.feedback': Word(refined.FEEDBACK),
  'refine.right': TEXT,
  'refine.wrong': TEXT,
  'expert_old_logps': Word(('one', 'learner')),
  'mask_unfinished': FLAG,
  'valid_per_step': COUNT,
  'explore.per_prompt': COUNT,
  'explore.coef': NOT_NEGATIVE,
  'explore.cooling': NOT_NEGATIVE,
  'hard_buffer.rows': COUNT,
  'hard_buffer.rate': POSITIVE,
  'hard_buffer.choose': Word(hard_buffer.CHOICES),
  'hints.chunks': COUNT,
  'hints.coef': NOT_NEGATIVE,
  'hints.draw': Word(hints.DRAWS),
  'partner.place': Word(('none', *partner.PLACES)),
  'prefix.per_prompt': COUNT,
  'prefix.high': SOME,
  'prefix.top_fraction': SOME,
  'prefix.baseline': Word(prefixes.BASELINES),
  **{
    f'{what}_controller.{name}': domain
    for what, domain in _STEERED.items()
    for name in _VALUES
  },
}

CONTROLLERS = {
  'controllers/clip': POSITIVE,
  'controllers/decay': SHARE,
  'controllers/delta': NOT_NEGATIVE,
  'controllers/end': FINITE,
  'controllers/entropy_rate': FINITE,
  'controllers/gain': POSITIVE,
  'controllers/gamma': NOT_NEGATIVE,
  'controllers/horizon': POSITIVE,
  'controllers/meta_every': Number(1),
  'controllers/meta_rate': FINITE,
  'controllers/peak': NOT_NEGATIVE,
  'controllers/start': FINITE,
  'controllers/adaptive_kl.start': POSITIVE,  # it is multiplied for ever
  'controllers/target': POSITIVE,
  'controllers/meta_share.target': NOT_NEGATIVE,  # 0: what is measured first
  'controllers/turn': SHARE,
  'controllers/until': SHARE,
  'controllers/valley': NOT_NEGATIVE,
  'controllers/value': FINITE,
  'controllers/warmup': SHARE,
}
