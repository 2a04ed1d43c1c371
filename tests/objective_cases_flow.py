"""Cases of `losses.flow`."""

import functools

import jax.numpy as jnp
import numpy as np
import reference_numpy_flow as reference
from objective_cases import Case, ragged_mask

from posttrain_jax.losses import flow

AXES = {
  'logps': 'BT',
  'log_flows': 'BT',
  'log_rewards': 'B',
  'stop_logps': 'BT',
  'state_log_rewards': 'BT',
  'mask': 'BT',
}
HEAD = ('logps', 'log_flows', 'log_rewards', 'mask')
GROUP = ('logps', 'log_rewards', 'mask')
STOP = ('logps', 'stop_logps', 'state_log_rewards', 'mask')


def make(names, rng, rows, tokens):
  data = {}
  for name in names:
    shape = (rows, tokens)[: len(AXES[name])]
    if name == 'mask':
      data[name] = ragged_mask(rng, rows, tokens)
    elif name.endswith('logps'):
      data[name] = -rng.uniform(0.05, 2.0, shape)
    else:
      data[name] = rng.normal(size=shape)
  return data


def call(name, hparams, x):
  extra = {
    key: x[key] for key in ('stop_logps', 'state_log_rewards') if key in x
  }
  loss, metrics = getattr(flow, name)(
    x['logps'],
    x.get('log_flows'),
    x.get('log_rewards'),
    x['mask'],
    **extra,
    **hparams,
  )
  return {'out': loss, **metrics}


def twin(second, names, x, frozen):
  """`second` of each row's counted tokens: one number, or one per token."""
  out = None
  for b, mask in enumerate(x['mask'] != 0):
    if not mask.any():
      continue
    row = [x[key][b][mask] if AXES[key] == 'BT' else x[key][b] for key in names]
    found = np.asarray(second(*row))
    if out is None:
      out = np.zeros(x['mask'].shape[: 1 + found.ndim])
    out[(b, mask) if found.ndim else b] = found
  return out


def twin_group(size, x, frozen):
  rows = [
    (b, (x['logps'][b][mask], frozen['log_rewards'][b]))
    for b, mask in enumerate(x['mask'] != 0)
    if mask.any()
  ]
  groups = {}
  for b, row in rows:
    groups.setdefault(b // size, []).append(row)
  out = np.zeros(len(x['mask']))
  out[[b for b, _ in rows]] = reference.var_tb(groups.values())
  return out


def case(name, names, variant='', **kwargs):
  hparams = kwargs.pop('hparams', {})
  second = functools.partial(
    getattr(reference, name, reference.var_tb), **hparams
  )
  settings = {
    'room': 'losses.flow',
    'name': name,
    'variant': variant,
    'make': functools.partial(make, names),
    'call': functools.partial(call, name, hparams),
    'axes': {key: AXES[key] for key in names},
    'out': 'BT',
    'gradient': tuple(
      key for key in names if key in ('logps', 'log_flows', 'stop_logps')
    ),
    'detached': tuple(key for key in names if key.endswith('rewards')),
    'twin': functools.partial(twin, second, names[:-1]),
    'traits': frozenset({'needs_whole_rows'}),
  }
  return Case(**settings | kwargs)


def group_case(size, variant=''):
  return case(
    'trajectory_balance_group',
    GROUP,
    variant,
    # An array is not held against the number of rows: 8 are all of them.
    call=functools.partial(
      call, 'trajectory_balance_group', {'group_size': jnp.int32(size)}
    ),
    twin=functools.partial(twin_group, size),
    traits=frozenset({'needs_whole_rows', 'whole_batch'}),
  )


CASES = [
  case('trajectory_balance', HEAD),
  group_case(8),
  group_case(2, 'pairs'),
  case('detailed_balance', HEAD),
  case('sub_trajectory_balance', HEAD, hparams={'lam': 0.7}),
  case('detailed_balance_stop', STOP),
  case('sub_trajectory_balance_stop', STOP, hparams={'lam': 0.7}),
]
