"""Cases of `losses.distillation`, `value`, `regularizers` and `reduce`."""

import functools

import jax.numpy as jnp
import numpy as np
import reference_numpy_rest as rest
from objective_cases import Case, ragged_mask

from posttrain_jax.losses import distillation, reduce, regularizers, value

VOCAB = 5


def make(axes, rng, rows, tokens):
  size = {'B': rows, 'T': tokens, 'V': VOCAB}
  data = {}
  for name, of in axes.items():
    shape = [size[letter] for letter in of]
    if name == 'mask':
      data[name] = ragged_mask(rng, rows, tokens)
    elif name.endswith('logps'):
      data[name] = -rng.uniform(0.05, 2.5, shape)
    elif name == 'entropy':
      data[name] = rng.uniform(0.0, 2.0, shape)
    else:
      data[name] = rng.normal(size=shape)
  return data


def call(module, name, arrays, extra, hparams, x):
  more = {key: x[key] for key in extra}
  loss, metrics = getattr(module, name)(
    *(x[key] for key in arrays), x['mask'], **more, **hparams
  )
  return {'out': loss, **metrics}


def case(module, name, arrays, kind, twin, *, hparams=None, extra=(), **kwargs):
  """A case whose first array carries the gradient, the others none."""
  axes = dict.fromkeys((*arrays, *extra), kind) | {'mask': 'BT'}
  room = 'losses.' + module.__name__.rpartition('.')[2]
  return Case(
    room=room,
    name=name,
    make=functools.partial(make, axes),
    call=functools.partial(call, module, name, arrays, extra, hparams or {}),
    axes=axes,
    out='BT',
    gradient=arrays[:1],
    detached=(*arrays[1:], *extra),
    twin=twin,
    **kwargs,
  )


# Distillation

PAIR = ('student_logits', 'teacher_logits')


def distill_twin(settings, x, frozen):
  student, teacher = PAIR
  return rest.distill(
    x[student], x[teacher], frozen[student], x['mask'], **settings
  )


def probs_of(x, mask, cotangent):
  p, q = (np.exp(x[name]) for name in mask)
  p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
  return p, q, (x['mask'] * cotangent)[..., None]


def forward_slope(names, x, cotangent):
  """d KL(q || p) = p - q."""
  p, q, weight = probs_of(x, names, cotangent)
  return {names[0]: weight * (p - q)}


def reverse_slope(names, x, cotangent):
  """d KL(p || q) = p (log p / q - KL)."""
  p, q, weight = probs_of(x, names, cotangent)
  gap = np.log(p) - np.log(q)
  gap -= (p * gap).sum(-1, keepdims=True)
  return {names[0]: weight * p * gap}


def distill_case(name, variant='', beta=None, **hparams):
  own = {'forward_kl': 0.0, 'reverse_kl': 1.0, 'jsd': 0.5,
         'top_k_teacher': 0.0, 'top_k_student': 1.0}  # fmt: skip
  settings = dict(hparams, beta=own[name] if beta is None else beta)
  if name.startswith('top_k'):
    settings['top'] = name.removeprefix('top_k_')
  hparams |= {} if beta is None else {'beta': beta}
  slopes = {'forward_kl': forward_slope, 'reverse_kl': reverse_slope}
  by_hand = name in slopes and not hparams
  ranks = {'discontinuous'} if 'top' in settings else set()
  return case(
    distillation,
    name,
    PAIR,
    'BTV',
    functools.partial(distill_twin, settings),
    hparams=hparams,
    variant=variant,
    slope=functools.partial(slopes[name], PAIR) if by_hand else None,
    traits=frozenset({'reads_logits', *ranks}),
  )


# Value

VALUES = ('values', 'returns', 'old_values')


def value_twin(name, size, x, frozen):
  out = np.zeros(x['mask'].shape)
  for i in rest.positions(x['mask']):
    out[i] = rest.value_loss(name, *(x[key][i] for key in VALUES), size)
  return out


def value_slope(x, cotangent):
  return {'values': x['mask'] * cotangent * (x['values'] - x['returns'])}


def value_case(name, size, **hparams):
  return case(
    value,
    name,
    VALUES,
    'BT',
    functools.partial(value_twin, name, size),
    hparams=hparams,
    slope=value_slope if name == 'unclipped' else None,
  )


# Regularizers


def taken_twin(name, x, frozen):
  held, old = frozen['logps'], x.get('old_logps', x['logps'])
  gap, gap0 = x['logps'] - x['ref_logps'], held - x['ref_logps']
  ratio, ratio0 = np.exp(x['logps'] - old), np.exp(held - old)
  return x['mask'] * rest.TAKEN[name](gap, ratio, gap0, ratio0)


SLOPES = {
  'kl_k1': lambda d: 1.0,
  'kl_k2': lambda d: d,
  'kl_k3': lambda d: 1 - np.exp(-d),
  'kl_k3_plus': lambda d: d,
}


def taken_slope(name, x, cotangent):
  d = x['logps'] - x['ref_logps']
  return {'logps': x['mask'] * cotangent * SLOPES[name](d)}


def taken_case(name):
  by_hand = functools.partial(taken_slope, name) if name in SLOPES else None
  return case(
    regularizers,
    name,
    ('logps', 'ref_logps'),
    'BT',
    functools.partial(taken_twin, name),
    extra=('old_logps',) if name.endswith('corrected') else (),
    slope=by_hand,
  )


LOGITS = ('logits', 'ref_logits')


def full_twin(name, x, frozen):
  out = np.zeros(x['mask'].shape)
  for i in rest.positions(x['mask']):
    p, q = (rest.softmax(x[key][i]) for key in LOGITS)
    out[i] = rest.FULL[name](p, q)
  return out


def full_case(name):
  slopes = {'full_kl_forward': forward_slope, 'full_kl_reverse': reverse_slope}
  slope = slopes.get(name)
  return case(
    regularizers,
    name,
    LOGITS,
    'BTV',
    functools.partial(full_twin, name),
    slope=slope and functools.partial(slope, LOGITS),
    traits=frozenset({'reads_logits'}),
  )


def entropy_twin(target, x, frozen):
  mean = frozen['entropy'][x['mask'] != 0].mean()
  return -x['entropy'] * x['mask'] * (mean <= target)


def entropy_case(name, target, hparams, variant='', traits=()):
  return case(
    regularizers,
    name,
    ('entropy',),
    'BT',
    functools.partial(entropy_twin, target),
    hparams=hparams,
    variant=variant,
    traits=frozenset(traits),
  )


PARAMS = {'a': (3,), 'b': (2, 4), 'start_a': (3,), 'start_b': (2, 4)}


def call_l2(x):
  params, start = ({k: x[p + k] for k in 'ab'} for p in ('', 'start_'))
  return {'out': regularizers.l2_to_start(params, start)}


def l2_twin(x, frozen):
  return sum(((x[k] - x[f'start_{k}']) ** 2).sum() for k in 'ab') / 2


L2 = Case(
  room='losses.regularizers',
  name='l2_to_start',
  make=lambda rng, rows, tokens: {
    name: rng.normal(size=shape) for name, shape in PARAMS.items()
  },
  call=call_l2,
  # X and Y are axes of parameters.
  axes={'a': 'X', 'b': 'YX', 'start_a': 'X', 'start_b': 'YX'},
  out='',
  masks={},
  gradient=('a', 'b'),
  detached=('start_a', 'start_b'),
  twin=l2_twin,
  slope=lambda x, c: {k: c * (x[k] - x[f'start_{k}']) for k in 'ab'},
  traits=frozenset({'float32_inside'}),
)


# Reduce


def call_reduce(name, hparams, x):
  total, count = getattr(reduce, name)(x['token_loss'], x['mask'], **hparams)
  return {'out': jnp.stack([total, count])}


def reduce_twin(name, hparams, x, frozen):
  return np.array(rest.reduced(name, x['token_loss'], x['mask'], **hparams))


def reduce_slope(name, hparams, x, cotangent):
  mask = x['mask']
  own = mask / np.maximum(mask.sum(1, keepdims=True), 1.0)
  if name == 'prompt_mean':
    size = hparams['group_size']
    of_group = np.repeat(mask.sum(1).reshape(-1, size).sum(1), size)
    own = mask / np.maximum(of_group, 1.0)[:, None]
  elif name == 'fixed_length':
    own = mask / (hparams.get('length') or mask.shape[1])
  elif name != 'sequence_mean':
    own = mask
  return {'token_loss': cotangent[0] * own}


def reduce_case(name, variant='', traits=(), rows=4, **hparams):
  return Case(
    room='losses.reduce',
    name=name,
    variant=variant,
    make=functools.partial(make, {'token_loss': 'BT', 'mask': 'BT'}),
    call=functools.partial(call_reduce, name, hparams),
    axes={'token_loss': 'BT', 'mask': 'BT'},
    # S: the sum, then the count.
    out='S',
    gradient=('token_loss',),
    twin=functools.partial(reduce_twin, name, hparams),
    slope=functools.partial(reduce_slope, name, hparams),
    rows=rows,
    traits=frozenset(traits),
  )


CASES = [
  distill_case('forward_kl'),
  distill_case('forward_kl', 'warm', temperature=2.0),
  distill_case('reverse_kl'),
  distill_case('jsd'),
  distill_case('jsd', 'tilted', beta=0.1, temperature=0.7),
  *(
    distill_case(name, variant, k=k, beta=beta, tail=tail)
    for name in ('top_k_teacher', 'top_k_student')
    for variant, k, beta, tail in (
      ('', 2, None, 'bucket'),
      ('renormalize', 3, 0.4, 'renormalize'),
    )
  ),
  value_case('unclipped', None),
  value_case('clipped_value', 0.3, clip_value=0.3),
  value_case('huber', 0.7, delta=0.7),
  *map(taken_case, regularizers.__all__),
  *map(full_case, regularizers.LOGITS),
  entropy_case('entropy_bonus', np.inf, {}),
  entropy_case(
    'entropy_floor',
    1.0,
    {'target': 1.0},
    traits=('whole_batch', 'discontinuous'),
  ),
  L2,
  reduce_case('token_mean'),
  reduce_case('sequence_mean'),
  reduce_case('sequence_sum'),
  reduce_case('fixed_length', length=7.0),
  reduce_case('fixed_length', 'width', traits=['reads_width']),
  reduce_case('prompt_mean', group_size=3, rows=6, traits=['per_group']),
]
