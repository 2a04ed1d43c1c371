"""Cases of `advantages` and `token_weights`: nothing here has a gradient."""

import functools

import numpy as np
import reference_numpy_rest as rest
import test_token_weights_numpy as weights_reference
from objective_cases import Case, ragged_mask

from posttrain_jax import advantages, token_weights
from posttrain_jax.core.types import TokenSignals

GROUP = 4
SHIFT, SCALE = 'reward_shift_invariant', 'reward_scale_invariant'
EQUIVARIANT = 'reward_scale_equivariant'


def make_rewards(names, rng, rows, tokens):
  rewards = rng.normal(0.5, 1.0, (rows, GROUP))
  # One group in which all completions earn the same.
  rewards[rows - 1] = rewards[rows - 1, 0]
  data = {'rewards': rewards, 'greedy_rewards': rng.normal(size=rows)}
  return {name: data[name] for name in names}


def call_advantage(name, extra, hparams, x):
  arrays = {key: x[key] for key in extra}
  function = getattr(advantages, name)
  return {'out': function(x['rewards'], **arrays, **hparams)}


def advantage_case(name, *traits, extra=(), **hparams):
  names = ('rewards', *extra)
  return Case(
    room='advantages',
    name=name,
    make=functools.partial(make_rewards, names),
    call=functools.partial(call_advantage, name, extra, hparams),
    axes={'rewards': 'BG', 'greedy_rewards': 'B'}
    if extra
    else {'rewards': 'BG'},
    out='BG',
    masks={},
    twin=lambda x, frozen: rest.advantage(
      name, x['rewards'], x.get('greedy_rewards')
    ),
    traits=frozenset(traits),
  )


TOKEN_AXES = {
  'token_rewards': 'BT',
  'values': 'BT',
  'rewards': 'B',
  'segments': 'BS',
  'ends': 'BS',
  'mask': 'BT',
}


def make_tokens(names, rng, rows, tokens):
  shape = (rows, tokens)
  data = {
    'token_rewards': rng.normal(size=shape),
    'values': rng.normal(size=shape),
    'rewards': rng.normal(size=rows),
    'segments': rng.normal(size=(rows, 3)),
    # Outside, too: such a segment has no effect.
    'ends': rng.integers(-1, tokens, (rows, 3)),
    'mask': ragged_mask(rng, rows, tokens),
  }
  return {name: data[name] for name in names}


def call_token(name, names, hparams, x):
  out = getattr(advantages, name)(*(x[key] for key in names), **hparams)
  if name == 'gae':
    return {'out': out[0], 'returns': out[1]}
  return {'out': out}


def token_case(name, *names, traits=('needs_whole_rows',), **hparams):
  second = getattr(rest, name)
  return Case(
    room='advantages',
    name=name,
    make=functools.partial(make_tokens, names),
    call=functools.partial(call_token, name, names, hparams),
    axes={key: TOKEN_AXES[key] for key in names},
    out='BT',
    twin=lambda x, frozen: second(*(x[key] for key in names), **hparams),
    traits=frozenset(traits),
  )


# Token weights

WEIGHT_AXES = {
  'logps': 'BT',
  'entropy': 'BT',
  'ref': 'BT',
  'other': 'BT',
  'old': 'BT',
  'attention': 'BT',
  'marks': 'BT',
  'wrong': 'BU',
  'wrong_marks': 'BU',
  'correct': 'B',
  'mask': 'BT',
}


def make_weights(names, rng, rows, tokens):
  size = {'B': rows, 'T': tokens, 'U': tokens + 1}
  data = {}
  for name, axes in WEIGHT_AXES.items():
    shape = [size[letter] for letter in axes]
    if name == 'correct':
      # Of the first row and every second one.
      data[name] = 1.0 - np.arange(rows) % 2
    elif name.endswith('marks'):
      data[name] = (rng.random(shape) < 0.4).astype(float)
    else:
      data[name] = -rng.uniform(0.05, 3.0, shape)
  data['entropy'] = -data['entropy']
  # The second form of `ss_token` reads minus this as the attention.
  data['attention'] = -data['old']
  data['mask'] = ragged_mask(rng, rows, tokens)
  data['marks'][0, :2] = 0.0, 1.0
  return {name: data[name] for name in names}


def call_weights(name, extra, hparams, x):
  signals = TokenSignals(
    logps=x['logps'], entropy=x['entropy'], ref_logps=x['ref']
  )
  arrays = {key: x[value] for key, value in extra.items()}
  function = getattr(token_weights, name)
  return {'out': function(signals, x['mask'], **arrays, **hparams)}


def weights_twin(second, x, frozen):
  data = {key: value for key, value in x.items() if key != 'mask'}
  if 'attention' in data:
    data['old'] = -data['attention']
  return second(data, x['mask'])


def weight_case(name, *traits, **kwargs):
  extra, hparams, second = weights_reference.CASES[name]
  extra, hparams = kwargs.get('extra', extra), kwargs.get('hparams', hparams)
  second = kwargs.get('second', second)
  twin = functools.partial(weights_twin, second)
  names = dict.fromkeys(['logps', 'entropy', 'ref', *extra.values(), 'mask'])
  masks = {'T': 'mask'}
  if name == 'fait':
    masks['U'] = 'wrong_marks'
    twin = lambda x, frozen: rest.fait(x)
  return Case(
    room='token_weights',
    name=name,
    variant=kwargs.get('variant', ''),
    make=functools.partial(make_weights, list(names)),
    call=functools.partial(call_weights, name, extra, hparams),
    axes={key: WEIGHT_AXES[key] for key in names},
    out='BT',
    masks=masks,
    detached=('logps', 'entropy', 'ref'),
    twin=twin,
    rows=10 if name == 'q_tuning' else 4,
    traits=frozenset(traits),
  )


def row_scope(score):
  """The second form of a weight that ranks tokens within their row."""
  return lambda data, mask: weights_reference.by_row(
    lambda row: weights_reference.row_top(score(row), 0.6), data, mask
  )


SEQUENCE = {'scope': 'sequence', 'fraction': 0.6, 'normalize': False}

FAIT = {
  'changed': 'marks',
  'wrong_logps': 'wrong',
  'wrong_changed': 'wrong_marks',
}
ROW, BATCH, JUMP = 'needs_whole_rows', 'whole_batch', 'discontinuous'

CASES = [
  advantage_case('raw', EQUIVARIANT),
  advantage_case('remax', EQUIVARIANT, SHIFT, extra=('greedy_rewards',)),
  advantage_case('signed', JUMP),
  advantage_case('group_centered', EQUIVARIANT, SHIFT),
  advantage_case('leave_one_out', EQUIVARIANT, SHIFT),
  advantage_case('group_normalized', SHIFT, SCALE),
  advantage_case('label_in_group', SHIFT, SCALE, JUMP, 'label_last'),
  advantage_case('pass_at_k', JUMP, k=2),
  *(
    advantage_case(name, SHIFT, SCALE, BATCH)
    for name in (
      'batch_whitened',
      'group_centered_batch_whitened',
      'group_centered_batch_scaled',
    )
  ),
  token_case('gae', 'token_rewards', 'values', 'mask', gamma=0.9, lam=0.7),
  token_case('discounted_returns', 'token_rewards', 'mask', gamma=0.9),
  token_case(
    'whitened_returns',
    'token_rewards',
    'mask',
    traits=(ROW, BATCH, SCALE),
    gamma=0.9,
  ),
  token_case('last_token_rewards', 'rewards', 'mask'),
  token_case('segment_rewards', 'segments', 'ends', 'mask'),
  weight_case('uniform'),
  weight_case('prob_power'),
  weight_case('chord_phi'),
  weight_case('threshold', BATCH, JUMP),
  weight_case('high_entropy', BATCH, JUMP),
  weight_case(
    'high_entropy',
    ROW,
    JUMP,
    variant='sequence',
    hparams=SEQUENCE,
    second=row_scope(lambda row: row['entropy']),
  ),
  weight_case('prefix_only', BATCH, ROW),
  weight_case('talr', BATCH, ROW),
  weight_case('talr_floor', BATCH, ROW),
  weight_case('easy_rows', BATCH, ROW),
  weight_case('reward_weighted'),
  weight_case('srft_entropy', ROW),
  weight_case('srft_rollouts', ROW),
  weight_case('rho1', BATCH, ROW, JUMP),
  weight_case('token_cleaning', BATCH, JUMP),
  weight_case(
    'token_cleaning',
    ROW,
    JUMP,
    variant='sequence',
    hparams=SEQUENCE,
    second=row_scope(lambda row: row['ref'] - row['other']),
  ),
  weight_case(
    'ss_token',
    BATCH,
    ROW,
    JUMP,
    extra={'history_logps': 'other', 'prompt_attention': 'attention'},
  ),
  weight_case('critical_tokens', BATCH),
  weight_case('shad', ROW, JUMP),
  weight_case('fait', ROW, extra=FAIT),
  weight_case('key_tokens', ROW),
  weight_case('q_tuning', BATCH, ROW, JUMP),
]
