"""Cases of `rewards.arrays`: rewards of verdicts, scores and lengths."""

import functools

import numpy as np
import reference_numpy_rewards as reference
from objective_cases import Case

from posttrain_jax.rewards import arrays

GROUP, LIMIT = 4, 9
MARKS = ('right', 'format', 'abstained')


def make(names, rng, rows, tokens):
  """Parts and facts; the first group's answers are equally long."""
  del tokens
  shape = (rows, GROUP)
  data = {
    'lengths': rng.integers(1, LIMIT + 1, shape).astype(float),
    'finished': (rng.random(shape) < 0.7).astype(float),
    'done': np.array(rng.choice([0.0, 0.3, 0.5, 0.9])),
  }
  data['lengths'][0] = 5.0
  for name in names:
    if name in MARKS:
      data[name] = (rng.random(shape) < 0.5).astype(float)
    elif name not in data:
      data[name] = rng.random(shape)
  return data


def call(name, labels, hparams, x):
  facts = arrays.Facts(x['lengths'], x['finished'], LIMIT, x['done'])
  parts = {label: x[label] for label in labels}
  rewards, metrics = getattr(arrays, name)(parts, facts, **hparams)
  return {'out': rewards, **metrics}


def each(second, *names):
  """A twin that is a function of one answer's numbers."""

  def twin(x, frozen):
    del frozen
    numbers = [np.broadcast_to(x[k], x['lengths'].shape) for k in names]
    flat = [second(*map(float, row)) for row in zip(*(n.flat for n in numbers))]
    return np.array(flat).reshape(x['lengths'].shape)

  return twin


def case(name, labels, twin, *traits, variant='', **hparams):
  names = ('lengths', 'finished', 'done', *labels)
  return Case(
    room='rewards.arrays',
    name=name,
    variant=variant,
    make=functools.partial(make, names),
    call=functools.partial(call, name, labels, hparams),
    axes={key: '' if key == 'done' else 'BG' for key in names},
    out='BG',
    masks={},
    twin=twin,
    traits=frozenset(traits),
  )


def twin_relative(x, frozen):
  del frozen
  return np.array(
    list(map(reference.relative_length, x['right'], x['lengths']))
  )


CHANCES = {1.0: (1.0, 0.5), 0.0: (-1.0, -0.5)}
STAGES = ((0.2, 0.6), (0.4, 0.8))
JUMPS = 'discontinuous'

CASES = [
  case('length', (), each(lambda n: reference.length(n, LIMIT, 3, 6),
                          'lengths'), low=3, high=6),
  case('soft_overlong', (),
       each(lambda n: reference.soft_overlong(n, 8, 3), 'lengths'),
       max_length=8, cache=3),
  case('cosine_length', ('right',), each(
    lambda right, n, ended: reference.cosine_length(
      right, n, ended, LIMIT, CHANCES, -2.0),
    'right', 'lengths', 'finished'), JUMPS, of='right', exceeded=-2.0),
  case('relative_length', ('right',), twin_relative, JUMPS, of='right'),
  case('weighted', ('right', 'score'), each(
    lambda *x: reference.weighted(x[:2], (2.0, 0.5), (1.0, 3.0), x[2], 0.6),
    'right', 'score', 'done'), of=('right', 'score'), weights=(2.0, 0.5),
    last=(1.0, 3.0), by=0.6),
  case('weighted', ('right', 'score'), each(
    lambda *x: reference.weighted(x, (2.0, 0.5), (2.0, 0.5), 0.0, 1.0),
    'right', 'score'), variant='still', of=('right', 'score'),
    weights=(2.0, 0.5)),
  case('gated', ('score', 'format'), each(
    lambda *x: reference.gated(*x, 0.5, -0.25), 'score', 'format'), JUMPS,
    of='score', by='format', otherwise=-0.25),
  case('tiered', ('right', 'format'), each(
    lambda *x: reference.tiered(x, (1.0, 0.1), -0.5), 'right', 'format'), JUMPS,
    of=('right', 'format'), values=(1.0, 0.1), otherwise=-0.5),
  case('ternary', ('right', 'abstained'), each(
    reference.ternary, 'right', 'abstained'), JUMPS, of='right'),
  case('staged', ('score',), each(
    lambda score, done: reference.staged(score, done, STAGES, 0.5),
    'score', 'done'), JUMPS, of='score', low=0.2, high=0.6, last_low=0.4,
    last_high=0.8),
  case('cosine_tolerance', ('error',), each(
    lambda error: reference.cosine_tolerance(error, 0.1, 0.7), 'error'),
    low=0.1, high=0.7),
  case('f_beta', ('matched', 'said', 'wanted', 'format'), each(
    lambda *x: reference.f_beta(*x, 2.0), 'matched', 'said', 'wanted',
    'format'), JUMPS, beta=2.0),
  *(case('matched_calls', ('names', 'points', 'most', 'format'), each(
    functools.partial(reference.matched_calls, scale=2.0, coarse=coarse),
    'names', 'points', 'most', 'format'), JUMPS, variant='coarse' * coarse,
    scale=2.0, level='coarse' if coarse else 'fine')
    for coarse in (False, True)),
  case('hierarchical', ('format', 'right', 'score', 'error'), each(
    lambda a, b, *x: reference.hierarchical((a, b), x, (0.5, 0.3, 9.0, 2.0),
                                            0.6),
    'format', 'right', 'score', 'error'), JUMPS,
    of=('format', 'right', 'score', 'error'), values=(0.5, 0.3, 9.0, 2.0),
    gates=2, least=0.6),
  case('audited', ('score', 'error'), each(
    lambda a, b, ended: reference.audited((a, b), (2.0, -0.5), ended, -0.7),
    'score', 'error', 'finished'), of=('score', 'error'), weights=(2.0, -0.5),
    unfinished=-0.7),
  *(case('adversary', ('score',), each(
    functools.partial(reference.adversary, kind=kind), 'score'),
    variant=kind, of='score', kind=kind)
    for kind in ('logit', 'log_d', 'minus_log_1md')),
]  # fmt: skip
