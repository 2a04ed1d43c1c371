"""Cases of `losses.reward_model` and of preference losses on single answers."""

import functools

import numpy as np
import objective_cases_preference as preference_cases
import reference_numpy_flow as reference
from objective_cases import Case, ragged_mask

from posttrain_jax.losses import preference, reward_model

AXES = {
  'chosen_rewards': 'B',
  'rejected_rewards': 'B',
  'margin': 'B',
  'strength': 'B',
  'label_prob': 'B',
  'gaps': 'BM',
  'rewards': 'BK',
  'scores': 'BS',
  'targets': 'BS',
  'rated': 'BS',
}
PAIR = ('chosen_rewards', 'rejected_rewards')
SIZES = {'M': 5, 'K': 3, 'S': 4}


def make(names, rng, rows, tokens):
  data = {}
  for name in names:
    shape = [rows if letter == 'B' else SIZES[letter] for letter in AXES[name]]
    data[name] = rng.normal(size=shape)
  if 'rated' in names:
    data['rated'] = ragged_mask(rng, rows, SIZES['S'])
  if 'label_prob' in names:
    data['label_prob'] = rng.random(rows)
  return data


def call(name, positional, keywords, hparams, x):
  loss, metrics = getattr(reward_model, name)(
    *(x[key] for key in positional),
    **{key: x[key] for key in keywords},
    **hparams,
  )
  return {'out': loss, **metrics}


def row_by_row(second, *names):
  """A twin that is a function of one row's numbers."""
  return lambda x, frozen: np.array(
    [second(*row) for row in zip(*(x[name] for name in names))]
  )


def case(name, positional, keywords=(), hparams=None, **kwargs):
  names = (*positional, *keywords)
  settings = {
    'room': 'losses.reward_model',
    'name': name,
    'make': functools.partial(make, names),
    'call': functools.partial(call, name, positional, keywords, hparams or {}),
    'axes': {key: AXES[key] for key in names},
    'out': 'B',
    'masks': {},
    'gradient': PAIR,
    'detached': tuple(key for key in names if key not in PAIR),
  }
  return Case(**settings | kwargs)


def call_strength(x):
  mean, std = reward_model.preference_strength(x['gaps'].T)
  return {'out': mean, 'std': std}


def twin_strength(x, frozen):
  mean, std = zip(*map(reference.preference_strength, x['gaps']))
  return {'out': np.array(mean), 'std': np.array(std)}


def call_flip(x):
  chosen, rejected, swapped = reward_model.flip(
    *(x[key] for key in PAIR), x['strength'], 0.5
  )
  swapped = swapped.astype(chosen.dtype)
  return {'out': chosen, 'rejected': rejected, 'swapped': swapped}


def twin_flip(x, frozen):
  count = len(x['strength']) // 2
  found = reference.flip(*(x[key] for key in PAIR), frozen['strength'], count)
  return dict(zip(('out', 'rejected', 'swapped'), found))


def twin_regression(x, frozen):
  rows = zip(x['scores'], frozen['targets'], x['rated'] != 0)
  found = [reference.attribute_regression(s[m], t[m]) for s, t, m in rows]
  loss, error = zip(*found)
  return {'out': np.array(loss), 'error': np.array(error)}


# Single answers


def call_unpaired(name, hparams, x):
  loss, metrics = getattr(preference, name)(
    preference_cases.signals(x, 'chosen', 'chosen_mask'),
    preference_cases.signals(x, 'ref_chosen', 'chosen_mask'),
    None,
    None,
    x['desirable'],
    **hparams,
  )
  return {'out': loss, **metrics}


def twin_unpaired(name, other, x, frozen):
  gap = np.where(x['chosen_mask'] != 0, x['chosen'] - x['ref_chosen'], 0.0)
  live = x['chosen_mask'].any(1)
  second = functools.partial(getattr(reference, name), **other)
  losses = [second(*row) for row in zip(gap.sum(1), x['desirable'])]
  return {
    'out': np.where(live, losses, 0.0),
    'reward': other['beta'] * gap.sum(1) * live,
  }


def twin_sft(x, frozen):
  own = list(preference_cases.pairs(x, 'chosen', 'rejected'))
  losses = reference.sft([p[0] for p in own if p is not None])
  out = np.zeros(len(own))
  out[[p is not None for p in own]] = losses
  return out


def unpaired(name, hparams, other):
  axes = {
    'chosen': 'BT', 'ref_chosen': 'BT', 'chosen_mask': 'BT', 'desirable': 'B'
  }  # fmt: skip
  return Case(
    room='losses.preference',
    name=name,
    make=functools.partial(preference_cases.make, axes),
    call=functools.partial(call_unpaired, name, hparams),
    axes=axes,
    out='B',
    # There is no second answer: a row is alive with its own.
    masks={'T': 'chosen_mask', 'U': 'chosen_mask'},
    gradient=('chosen',),
    detached=('ref_chosen', 'desirable'),
    twin=functools.partial(twin_unpaired, name, other),
    traits=frozenset({'needs_whole_rows'}),
  )


CENTER = {'center_coef': 0.05}
WEIGHTS = {'desirable_weight': 1.5, 'undesirable_weight': 0.8}

CASES = [
  case(
    'bradley_terry',
    (*PAIR, 'margin'),
    (),
    CENTER | {'label_smoothing': 0.2},
    twin=row_by_row(
      functools.partial(reference.bradley_terry, center=0.05, smoothing=0.2),
      *PAIR,
      'margin',
    ),
  ),
  case(
    'soft_label',
    (*PAIR, 'margin'),
    ('label_prob',),
    CENTER,
    twin=row_by_row(
      functools.partial(reference.soft_label, center=0.05),
      *PAIR,
      'margin',
      'label_prob',
    ),
  ),
  case(
    'adaptive_margin',
    PAIR,
    ('strength',),
    twin=row_by_row(reference.bradley_terry, *PAIR, 'strength'),
  ),
  case(
    'soft_margin',
    PAIR,
    ('strength',),
    CENTER,
    twin=row_by_row(
      functools.partial(reference.soft_margin, center=0.05), *PAIR, 'strength'
    ),
  ),
  case(
    'preference_strength',
    ('gaps',),
    call=call_strength,
    twin=twin_strength,
    gradient=(),
  ),
  case(
    'flip',
    (*PAIR, 'strength'),
    call=call_flip,
    twin=twin_flip,
    traits=frozenset({'whole_batch', 'discontinuous'}),
  ),
  case(
    'meta_difference',
    ('rewards',),
    call=lambda x: {'out': reward_model.meta_difference(x['rewards'])},
    twin=row_by_row(reference.meta_difference, 'rewards'),
    gradient=('rewards',),
    detached=(),
  ),
  case(
    'attribute_regression',
    ('scores', 'targets', 'rated'),
    # The axis of attributes is the ragged one; its length never changes.
    masks={'T': 'rated', 'S': 'rated'},
    twin=twin_regression,
    gradient=('scores',),
    detached=('targets',),
  ),
  unpaired('bco', {'beta': 0.7, 'delta': 0.4}, {'beta': 0.7, 'delta': 0.4}),
  unpaired(
    'apo_zero_unpaired',
    {'beta': 0.7} | WEIGHTS,
    {'beta': 0.7, 'weights': (1.5, 0.8)},
  ),
  preference_cases.case(
    'sft',
    twin=twin_sft,
    detached=(),
    traits=frozenset({'needs_whole_rows', 'whole_batch'}),
  ),
]
