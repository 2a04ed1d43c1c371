"""Cases of `losses.supervised`: every signal is derived from logits `z`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import reference_numpy_rest as rest
import reference_numpy_supervised as reference
from objective_cases import Case, ragged_mask

from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised

VOCAB = 5
AXES = {
  'z': 'BTV',
  'ref_z': 'BTV',
  'old_z': 'BTV',
  'tokens': 'BT',
  'mask': 'BT',
  'negative': 'BT',
  'scores': 'B',
  'correct': 'B',
  'rate': 'B',
}


def make(names, rng, rows, tokens):
  shape = (rows, tokens, VOCAB)
  z = rng.normal(size=shape)
  negative = (rng.random(shape[:2]) < 0.4).astype(float)
  # One token of each kind at least, whatever the other rows hold.
  negative[0, :2] = 0.0, 1.0
  correct = (rng.random(rows) < 0.5).astype(float)
  correct[:2] = 1.0, 0.0
  data = {
    'z': z,
    # Near enough that no log-ratio leaves the domain of a divergence.
    'ref_z': z + 0.4 * rng.normal(size=shape),
    'old_z': z + 0.3 * rng.normal(size=shape),
    'tokens': rng.integers(0, VOCAB, shape[:2]),
    'mask': ragged_mask(rng, rows, tokens),
    'negative': negative,
    'scores': rng.uniform(0.1, 0.9, rows),
    'correct': correct,
    'rate': rng.uniform(0.1, 0.9, rows),
  }
  return {name: data[name] for name in names}


def log_probs(z, mask):
  """Log-softmax; what lies under the mask does not touch it."""
  return jax.nn.log_softmax(jnp.where(mask[..., None] != 0, z, 0.0))


def logps(x, name):
  """Log-probabilities of the tokens under logits `name`, or None.

  Under the mask they are whatever the logits hold there.
  """
  if name not in x:
    return None
  picked = jnp.take_along_axis(
    log_probs(x[name], x['mask']), x['tokens'][..., None], axis=-1
  )[..., 0]
  return jnp.where(x['mask'] != 0, picked, x[name][..., 0])


def call(name, extra, hparams, x):
  own = log_probs(x['z'], x['mask'])
  signals = TokenSignals(
    logps=logps(x, 'z'),
    entropy=-jnp.sum(jnp.exp(own) * jnp.maximum(own, -1e9), axis=-1),
    logits=x['z'],
    ref_logps=logps(x, 'ref_z'),
    old_logps=logps(x, 'old_z'),
    values_after=x['z'][..., 0],
  )
  arrays = {key: x[value] for key, value in extra.items() if key != 'key'}
  if 'key' in extra:
    arrays['key'] = jax.random.key(1)
  loss, metrics = getattr(supervised, name)(
    signals, x['mask'], **arrays, **hparams
  )
  return {'out': loss, **metrics}


def twin(second, other, by_row, x, frozen):
  """[B] row totals, or the total where rows depend on each other."""
  if not by_row:
    return np.asarray(second(x['z'], frozen['z'], x, **other))
  rows = []
  for b in range(len(x['mask'])):
    row = {name: array[b : b + 1] for name, array in x.items()}
    rows.append(second(row['z'], frozen['z'][b : b + 1], row, **other))
  return np.array(rows)


def nll_slope(x, cotangent):
  p = np.exp(x['z'])
  p /= p.sum(-1, keepdims=True)
  target = np.eye(VOCAB)[x['tokens']]
  return {'z': (p - target) * (x['mask'] * cotangent[:, None])[..., None]}


def dft_slope(x, cotangent):
  p = np.exp(x['z'])
  p /= p.sum(-1, keepdims=True)
  p = np.take_along_axis(p, x['tokens'][..., None], -1)
  return {'z': nll_slope(x, cotangent)['z'] * p}


WHOLE = frozenset({'needs_whole_rows'})
LOGITS = frozenset({'reads_logits'})
JUMP = frozenset({'discontinuous'})
SLOPES = {'nll': nll_slope, 'dft': dft_slope}


def case(
  name,
  variant='',
  hparams=None,
  other=None,
  *,
  needs=(),
  extra=None,
  traits=frozenset(),
  second=None,
):
  extra = extra or {}
  arrays = [v for k, v in extra.items() if k != 'key']
  names = list(dict.fromkeys(['z', 'tokens', 'mask', *needs, *arrays]))
  second = second or getattr(reference, name)
  by_row = not {'whole_batch', 'random'} & traits
  return Case(
    room='losses.supervised',
    name=name,
    variant=variant,
    make=functools.partial(make, names),
    call=functools.partial(call, name, extra, hparams or {}),
    axes={key: AXES[key] for key in names},
    out='BT',
    gradient=('z',),
    detached=tuple(
      n
      for n in names
      if n in ('ref_z', 'old_z') or (name, n) == ('poft', 'scores')
    ),
    twin=functools.partial(twin, second, other or {}, by_row),
    slope=SLOPES.get(name),
    traits=traits,
  )


REF, OLD = ('ref_z',), ('old_z',)
TOKENS = {'tokens': 'tokens'}
NEGATIVE = {'negative': 'negative'}
SCORES = {'scores': 'scores'}
NFT = {'correct': 'correct', 'correct_rate': 'rate'}

CASES = [
  case('nll'),
  case('label_smoothing', traits=LOGITS),
  case('dft'),
  case('prob_alpha', '', {'alpha': 0.5}, {'alpha': 0.5}),
  case('prob_alpha', 'negative', {'alpha': -0.3}, {'alpha': -0.3}),
  case(
    'prob_threshold',
    '',
    {'low': 0.05, 'high': 0.4},
    {'low': 0.05, 'high': 0.4},
    traits=JUMP | {'whole_batch'},
  ),
  case('ift', traits=WHOLE),
  *(
    case(
      'asft',
      direction,
      {'direction': direction},
      {'direction': direction},
      extra={'ref_logits': 'ref_z'},
      traits=LOGITS,
    )
    for direction in ('forward', 'reverse')
  ),
  case('psft', needs=OLD),
  case('iw_sft', '', {}, {'level': 'sequence'}, needs=REF, traits=WHOLE),
  case(
    'iw_sft',
    'token',
    {'level': 'token', 'low': 0.2, 'high': 1.8},
    {'level': 'token'},
    needs=REF,
  ),
  *(
    case(
      'f_sft',
      name,
      {'divergence': name},
      {'divergence': name},
      needs=REF,
      traits=WHOLE,
    )
    for name in ('chi2', 'total_variation', 'hellinger', 'js', 'reverse_kl')
  ),
  case(
    'poft',
    '',
    {'beta': 2.0, 'gamma': 0.3},
    extra={'ref_scores': 'scores'},
    traits=WHOLE,
  ),
  *(
    case(
      'una',
      link,
      {'link': link},
      {'link': link},
      needs=REF,
      extra=SCORES,
      traits=WHOLE,
    )
    for link in ('mse', 'bce')
  ),
  case('uft_implicit', needs=REF, traits=WHOLE),
  case(
    'unlikelihood',
    '',
    {'coef': 0.7},
    extra=TOKENS,
    traits=WHOLE | LOGITS | {'reads_tokens'},
  ),
  case('unlikelihood_negative', '', {'coef': 0.7}, extra=NEGATIVE),
  case('forgetting', extra=NEGATIVE, traits=frozenset({'whole_batch'})),
  *(
    case(
      'nft',
      weight,
      {'prompt_weight': weight, 'floor': 0.9},
      {'prompt_weight': weight},
      needs=OLD,
      extra=NFT,
    )
    for weight in ('linear', 'sqrt', 'none')
  ),
  case('irl_discriminator', extra={'expert': 'correct'}),
  case(
    'otr',
    '',
    {'num_samples': 16},
    {'num_samples': 16},
    extra={**TOKENS, 'key': ''},
    traits=LOGITS | {'random', 'reads_tokens'},
    second=rest.otr,
  ),
  case('otr_exact', traits=LOGITS),
]
