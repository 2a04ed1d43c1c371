"""Cases of `losses.contrastive` and of `advantages.progress_rewards`."""

import functools

import numpy as np
import reference_numpy_flow as reference
from objective_cases import Case, ragged_mask

from posttrain_jax import advantages
from posttrain_jax.losses import contrastive

WIDTH = 3
REJECTED = ('rejected_anchors', 'rejected_positives')


def make(names, rng, rows, tokens):
  data = {name: rng.normal(size=(rows, WIDTH)) for name in names}
  # The second row does not exist, the third is wrong.
  data['exists'] = (np.arange(rows) != 1).astype(float)
  if 'correct' in names:
    data['correct'] = (np.arange(rows) != 2).astype(float)
  return data


def call(name, extra, hparams, x):
  loss, metrics = getattr(contrastive, name)(
    x['anchors'],
    x['positives'],
    x['exists'],
    **{key: x[key] for key in extra},
    **hparams,
  )
  return {'out': loss, **metrics}


def twin(hparams, detach, x, frozen):
  real = x['exists'] != 0
  anchors = (frozen if detach else x)['anchors']
  positives = x['positives']
  if 'rejected_anchors' in x:
    anchors = anchors - x['rejected_anchors']
    positives = positives - x['rejected_positives']
  out = np.zeros(len(real))
  out[real] = reference.info_nce(
    anchors[real],
    positives[real],
    hparams['temperature'],
    hparams.get('ceiling', 1.0),
  )
  return out * x.get('correct', 1.0)


def case(name, extra, gradient, **hparams):
  names = ('anchors', 'positives', *extra)
  return Case(
    room='losses.contrastive',
    name=name,
    make=functools.partial(make, names),
    call=functools.partial(call, name, extra, hparams),
    axes=dict.fromkeys(names, 'BD')
    | {'exists': 'B'}
    | ({'correct': 'B'} if 'correct' in names else {}),
    out='B',
    masks={},
    gradient=gradient,
    detached=('anchors',) if name == 'carft' else (),
    twin=functools.partial(twin, hparams, name == 'carft'),
    traits=frozenset({'whole_batch'}),
  )


def make_pooled(rng, rows, tokens):
  return {
    'hidden': rng.normal(size=(rows, tokens, WIDTH)),
    'values': rng.normal(size=(rows, tokens)),
    'mask': ragged_mask(rng, rows, tokens),
  }


def twin_pooled(x, frozen):
  out = np.zeros((len(x['mask']), WIDTH))
  for b, mask in enumerate(x['mask'] != 0):
    if mask.any():
      out[b] = reference.value_pooled(
        x['hidden'][b][mask], x['values'][b][mask]
      )
  return out


def make_progress(rng, rows, tokens):
  return {
    'success': rng.random((rows, 4)),
    'start': rng.random(rows),
    # Outside, too: there is no such episode.
    'ends': np.sort(rng.integers(-1, tokens + 1, (rows, 4)), axis=1),
    'mask': ragged_mask(rng, rows, tokens),
  }


PROGRESS = ('success', 'start', 'ends', 'mask')

CASES = [
  case(
    'carft',
    ('correct',),
    ('positives',),
    temperature=0.5,
    ceiling=0.4,
  ),
  case('simcse', (), ('anchors', 'positives'), temperature=0.3),
  case(
    'simcse_diff',
    REJECTED,
    ('anchors', 'positives', *REJECTED),
    temperature=0.3,
  ),
  Case(
    room='losses.contrastive',
    name='value_pooled',
    make=make_pooled,
    call=lambda x: {
      'out': contrastive.value_pooled(x['hidden'], x['values'], x['mask'])
    },
    axes={'hidden': 'BTD', 'values': 'BT', 'mask': 'BT'},
    out='BD',
    gradient=('hidden', 'values'),
    twin=twin_pooled,
  ),
  Case(
    room='advantages',
    name='progress_rewards',
    make=make_progress,
    call=lambda x: {
      'out': advantages.progress_rewards(*(x[key] for key in PROGRESS))
    },
    axes={'success': 'BS', 'start': 'B', 'ends': 'BS', 'mask': 'BT'},
    out='BT',
    twin=lambda x, frozen: np.array(
      [
        reference.progress_rewards(*row)
        for row in zip(*(x[key] for key in PROGRESS))
      ]
    ),
    traits=frozenset({'needs_whole_rows'}),
  ),
]
