"""Cases of `losses.preference`: token log-probabilities of both answers."""

import functools

import jax.numpy as jnp
import numpy as np
import reference_numpy_preference as reference
import reference_numpy_rest as rest
from objective_cases import Case, ragged_mask

from posttrain_jax.core.types import SequenceSignals
from posttrain_jax.losses import preference

MASKS = {'T': 'chosen_mask', 'U': 'rejected_mask'}
AXES = {
  'chosen': 'BT',
  'rejected': 'BU',
  'ref_chosen': 'BT',
  'ref_rejected': 'BU',
  'chosen_mask': 'BT',
  'rejected_mask': 'BU',
}
COLLISION = {'chosen_collision': 'BT', 'rejected_collision': 'BU'}
REWARDS = {'chosen_rewards': 'B', 'rejected_rewards': 'B'}


def make(axes, rng, rows, tokens):
  size = {'B': rows, 'T': tokens, 'U': tokens + 1}
  data = {}
  for name, of in axes.items():
    shape = [size[letter] for letter in of]
    if name.endswith('mask'):
      data[name] = ragged_mask(rng, *shape)
    elif name == 'desirable':
      data[name] = (rng.random(rows) < 0.5).astype(float)
    elif of == 'B':
      data[name] = rng.normal(size=shape)
    else:
      data[name] = -rng.uniform(0.1, 2.0, shape)
  if rows > 3 and 'rejected_mask' in data:
    # Half a pair is none.
    data['rejected_mask'][1] = 0.0
  return data


def signals(x, side, mask):
  """The record of one side; an empty row's sum is what lies in its columns."""
  tokens, mask = x[side], x[mask]
  length = jnp.sum(mask, axis=1)
  total = jnp.sum(jnp.where(mask != 0, tokens, 0.0), axis=1)
  return SequenceSignals(
    logps=jnp.where(length > 0, total, tokens[:, 0]),
    length=length,
    token_logps=tokens,
    mask=mask,
  )


def sides(x):
  return [
    signals(x, name, f'{name.removeprefix("ref_")}_mask')
    for name in ('chosen', 'rejected', 'ref_chosen', 'ref_rejected')
  ]


def call(name, hparams, x):
  extra = {k: x[k] for k in (*COLLISION, *REWARDS) if k in x}
  loss, metrics = getattr(preference, name)(*sides(x), **extra, **hparams)
  return {'out': loss, **metrics}


def call_kto(hparams, x):
  answers, rivals = 'chosen_mask', 'rejected_mask'
  loss, metrics = preference.kto(
    signals(x, 'chosen', answers),
    signals(x, 'ref_chosen', answers),
    signals(x, 'rejected', rivals),
    signals(x, 'ref_rejected', rivals),
    x['desirable'],
    **hparams,
  )
  return {'out': loss, **metrics}


def call_bradley_terry(hparams, x):
  loss, metrics = preference.bradley_terry(
    x['chosen_rewards'], x['rejected_rewards'], x['margin'], **hparams
  )
  return {'out': loss, **metrics}


def pairs(x, *names):
  """Per row the counted tokens of each named array, or None for padding."""
  masks = [x[MASKS[AXES.get(n, COLLISION.get(n))[1]]] for n in names]
  for b in range(len(x['chosen_mask'])):
    alive = x['chosen_mask'][b].any() and x['rejected_mask'][b].any()
    yield (
      [x[name][b][mask[b] != 0] for name, mask in zip(names, masks)]
      if alive
      else None
    )


def twin(name, other, x, frozen):
  own = pairs(x, 'chosen', 'rejected')
  held = pairs(frozen, 'chosen', 'rejected')
  ref = pairs(x, 'ref_chosen', 'ref_rejected')
  out = np.zeros(len(x['chosen_mask']))
  collisions = pairs(x, *COLLISION) if 'chosen_collision' in x else None
  for b, (p, p0, r) in enumerate(zip(own, held, ref)):
    more = ()
    if collisions:
      more = (next(collisions),)
    elif name == 'copg':
      more = ([x[side][b] for side in REWARDS],)
    if p is not None:
      out[b] = getattr(reference, name)(p, r, p0, *more, **other)
  return out


def twin_aot(name, other, x, frozen):
  own = pairs(x, 'chosen', 'rejected')
  ref = pairs(x, 'ref_chosen', 'ref_rejected')
  sums = [
    [answer.sum() for answer in (*p, *r)]
    for p, r in zip(own, ref)
    if p is not None
  ]
  live = getattr(rest, name)(np.array(sums), **other)
  return np.append(live, np.zeros(len(x['chosen_mask']) - len(live)))


def twin_kto(other, x, frozen):
  def rhos(side, mask):
    gap = np.where(x[mask] != 0, x[side] - x[f'ref_{side}'], 0.0)
    return gap.sum(1), x[mask].any(1)

  rho, live = rhos('chosen', 'chosen_mask')
  rivals, counts = rhos('rejected', 'rejected_mask')
  losses = reference.kto(rho, rivals[counts], x['desirable'], **other)
  return np.where(live, losses, 0.0)


def twin_bradley_terry(x, frozen):
  arrays = ('chosen_rewards', 'rejected_rewards', 'margin')
  return np.array(reference.bradley_terry(*(x[name] for name in arrays)))


FREE = {'aligned_sft', 'alphapo', 'cpo', 'orpo', 'rrhf', 'simpo', 'slic'}


def case(name, variant='', hparams=None, other=None, extra=None, **kwargs):
  hparams, other, extra = hparams or {}, other or {}, extra or {}
  axes = AXES | extra
  detached = () if name in FREE else ('ref_chosen', 'ref_rejected')
  settings = {
    'room': 'losses.preference',
    'name': name,
    'variant': variant,
    'make': functools.partial(make, axes),
    'call': functools.partial(call, name, hparams),
    'axes': axes,
    'out': 'B',
    'masks': MASKS,
    'gradient': ('chosen', 'rejected'),
    'detached': (*detached, *extra),
    'twin': functools.partial(twin, name, other),
    'traits': frozenset({'needs_whole_rows'}),
  }
  return Case(**settings | kwargs)


SORTED = frozenset({'needs_whole_rows', 'whole_batch', 'sorted'})
SMOOTH = {'label_smoothing': 0.1}
KTO = {'beta': 0.7, 'desirable_weight': 1.5, 'undesirable_weight': 0.8}
PLAIN = [
  name
  for name in (
    'dpo', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop', 'sigmoid_norm',
    'ld_dpo', 'nca_pair', 'bco_pair', 'sppo_hard', 'apo_zero', 'apo_down',
    'orpo', 'cpo', 'simpo', 'alphapo', 'slic', 'aligned_sft', 'spin',
  )
]  # fmt: skip

CASES = [
  case('sigmoid'),
  case('sigmoid', 'smoothed', {'label_smoothing': 0.2}, {'eps': 0.2}),
  *(case(name) for name in PLAIN),
  case('ipo', 'sum', {'length_normalized': False}, {'normalized': False}),
  case('bco_pair', 'shift', {'shift': 0.2}, {'shift': 0.2}),
  case('rrhf', '', {'length_penalty': 0.8}),
  *(
    case(
      'f_dpo', name, {'divergence': name, 'alpha': 0.3}, {'divergence': name}
    )
    for name in ('js', 'reverse_kl', 'forward_kl', 'alpha')
  ),
  case('wpo', extra=COLLISION),
  case('copg', extra=REWARDS),
  *(
    case(
      name,
      '',
      SMOOTH,
      {'smoothing': 0.1},
      twin=functools.partial(twin_aot, name, {'smoothing': 0.1}),
      traits=SORTED,
    )
    for name in ('aot', 'aot_unpaired')
  ),
  case(
    'kto',
    extra={'desirable': 'B'},
    call=functools.partial(call_kto, KTO),
    gradient=('chosen',),
    detached=('rejected', 'ref_chosen', 'ref_rejected'),
    twin=functools.partial(twin_kto, {'beta': 0.7, 'weights': (1.5, 0.8)}),
    traits=frozenset({'needs_whole_rows', 'whole_batch'}),
  ),
  case(
    'bradley_terry',
    axes=REWARDS | {'margin': 'B'},
    make=functools.partial(make, REWARDS | {'margin': 'B'}),
    call=functools.partial(
      call_bradley_terry, {'center_coef': 0.05, 'label_smoothing': 0.2}
    ),
    masks={},
    gradient=('chosen_rewards', 'rejected_rewards'),
    detached=('margin',),
    twin=twin_bradley_terry,
    traits=frozenset(),
  ),
]
