"""Cases of `losses.policy_gradient`."""

import functools

import numpy as np
import reference_numpy_pg as reference
from objective_cases import Case, ragged_mask

from posttrain_jax.losses import policy_gradient

AXES = {
  'logps': 'BT',
  'old_logps': 'BT',
  'advantages': 'BT',
  'mask': 'BT',
  'proximal_logps': 'BT',
}


def make(names, rng, rows, tokens):
  shape = (rows, tokens)
  logps = -rng.uniform(0.05, 2.5, shape)
  old = logps + 0.3 * rng.normal(size=shape)
  data = {
    'logps': logps,
    'old_logps': old,
    'advantages': rng.normal(size=shape),
    'mask': ragged_mask(rng, rows, tokens),
    'proximal_logps': old + 0.2 * rng.normal(size=shape),
  }
  return {name: data[name] for name in names}


def call(name, hparams, x):
  extra = {k: x[k] for k in ('proximal_logps',) if k in x}
  loss, metrics = getattr(policy_gradient, name)(
    x['logps'],
    x['old_logps'],
    x['advantages'],
    x['mask'],
    **extra,
    **hparams,
  )
  return {'out': loss, **metrics}


def twin(name, hparams, x, frozen):
  extra = {k: x[k] for k in ('proximal_logps',) if k in x}
  if name == 'clip_cov':
    hparams = {k: v for k, v in hparams.items() if k != 'cov_ratio'}
    second = reference.clip_cov_all
  elif name == 'kl_cov':
    second = reference.kl_cov
  else:
    second = functools.partial(reference.on_tokens, getattr(reference, name))
  return second(
    x=x['logps'],
    fixed=frozen['logps'],
    old=x['old_logps'],
    advantages=x['advantages'],
    mask=x['mask'],
    **extra,
    **hparams,
  )


def reinforce_slope(x, cotangent):
  return {'logps': np.where(x['mask'], -x['advantages'] * cotangent, 0.0)}


WHOLE = frozenset({'needs_whole_rows'})
BATCH = frozenset({'whole_batch', 'discontinuous'})
VESPO = {
  'power_positive': 2.0,
  'decay_positive': 3.0,
  'power_negative': 3.0,
  'decay_negative': 2.0,
}


def case(name, variant='', hparams=None, traits=frozenset(), has_twin=True):
  hparams = hparams or {}
  more = ('proximal_logps',) if name == 'decoupled_ppo_clip' else ()
  names = ('logps', 'old_logps', 'advantages', 'mask', *more)
  return Case(
    room='losses.policy_gradient',
    name=name,
    variant=variant,
    make=functools.partial(make, names),
    call=functools.partial(call, name, hparams),
    axes={key: AXES[key] for key in names},
    out='BT',
    gradient=('logps',),
    detached=('old_logps', 'advantages', *more),
    twin=functools.partial(twin, name, hparams) if has_twin else None,
    slope=reinforce_slope if name == 'reinforce' else None,
    traits=traits,
  )


CLIP = {'clip_low': 0.1, 'clip_high': 0.2}
NARROW = {'clip_low': 0.02, 'clip_high': 0.03}

CASES = [
  case('reinforce'),
  case('ppo_clip', '', CLIP),
  case('ppo_clip', 'dual_clip', CLIP | {'dual_clip': 1.3}),
  case('ppo_clip', 'delta', CLIP | {'delta': 1.25}),
  case(
    'ppo_clip_sequence_mask',
    '',
    CLIP | {'threshold': 0.02},
    WHOLE | {'discontinuous'},
  ),
  case('sapo', '', {'temperature_positive': 1.0, 'temperature_negative': 1.5}),
  case('luffy_shaped', '', {'gamma': 0.1}),
  case('gspo', '', NARROW, WHOLE),
  case('gspo_token', '', NARROW, WHOLE),
  case('luspo', '', NARROW, WHOLE),
  case('gmpo', '', {'clip_low': 0.2, 'clip_high': 0.3}, WHOLE),
  case('vespo', '', VESPO, WHOLE),
  case('cispo', '', {'clip_low': 0.2, 'clip_high': 0.1}),
  case('truncated_is', '', {'max_ratio': 1.1}),
  case('sequence_truncated_is', '', {'max_ratio': 0.9}, WHOLE),
  case(
    'masked_is',
    '',
    {'min_ratio': 0.8, 'max_ratio': 1.3},
    frozenset({'discontinuous'}),
  ),
  case('topr', traits=WHOLE),
  case('decoupled_ppo_clip', '', CLIP | {'max_weight': 1.2}),
  # A budget for every eligible token: nothing is left to chance.
  case(
    'clip_cov',
    '',
    CLIP | {'cov_low': 0.1, 'cov_high': 0.8, 'cov_ratio': 1.0},
    BATCH,
  ),
  # With the defaults it drops a random one: no second form says which.
  case(
    'clip_cov',
    'default',
    {'cov_low': 0.1, 'cov_high': 0.8},
    BATCH | {'random'},
    has_twin=False,
  ),
  case('kl_cov', '', {'cov_ratio': 0.2, 'kl_coef': 0.7}, BATCH),
]
