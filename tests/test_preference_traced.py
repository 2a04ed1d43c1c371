"""Hyperparameters of preference losses may be traced in sweeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import SequenceSignals
from posttrain_jax.losses import preference


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


LENGTHS = ((3, 2), (1, 4), (2, 2))


def make_tokens():
  """Per-token log-probabilities of three pairs, policy and reference."""
  rng = np.random.default_rng(7)
  draw = lambda n: -rng.uniform(0.1, 2.0, n)
  policy = [[draw(n), draw(m)] for n, m in LENGTHS]
  ref = [[draw(n), draw(m)] for n, m in LENGTHS]
  return policy, ref


def pack(pairs, which, size=4, padding=0.0):
  """SequenceSignals of one side; a fourth pair is padding on both sides."""
  tokens = np.full((len(pairs) + 1, size), padding)
  mask = np.zeros_like(tokens)
  for b, pair in enumerate(pairs):
    tokens[b, : len(pair[which])] = pair[which]
    mask[b, : len(pair[which])] = 1.0
  sums = np.where(mask, tokens, 0.0).sum(1)
  sums[-1] = padding
  return SequenceSignals(
    logps=jnp.asarray(sums),
    length=jnp.asarray(mask.sum(1)),
    token_logps=jnp.asarray(tokens),
    mask=jnp.asarray(mask),
  )


def collisions(size=4):
  rng = np.random.default_rng(9)
  return [-rng.uniform(0.1, 1.0, (len(LENGTHS) + 1, size)) for _ in range(2)]


REWARDS = np.array([[0.5, 0.1, -0.3, 0.0], [0.2, 0.9, 0.0, 0.0]])


def extras(name):
  if name == 'copg':
    sides = ('chosen_rewards', 'rejected_rewards')
    return dict(zip(sides, map(jnp.asarray, REWARDS)))
  if name == 'wpo':
    sides = ('chosen_collision', 'rejected_collision')
    return dict(zip(sides, map(jnp.asarray, collisions())))
  return {}


def signals32(padding=0.0):
  policy, ref = make_tokens()
  with np.errstate(invalid='ignore'):
    signals = [
      pack(pairs, which, padding=padding)
      for pairs in (policy, ref)
      for which in (0, 1)
    ]
  return [
    jax.tree.map(lambda x: np.array(x, np.float32), record)
    for record in signals
  ]


@pytest.mark.parametrize(
  'name, key, values',
  [
    ('sigmoid', 'beta', [0.1, 1.0]),
    ('exo_pair', 'label_smoothing', [1e-3, 0.2]),
    ('f_dpo', 'beta', [0.1, 1.0]),
    ('ld_dpo', 'alpha', [0.0, 1.0]),
    ('alphapo', 'alpha', [0.0, 0.5]),
    ('rrhf', 'length_penalty', [0.0, 1.0]),
    ('discopop', 'tau', [0.05, 1.0]),
  ],
)
def test_hyperparameters_may_be_traced(name, key, values):
  signals = signals32()
  loss = lambda x: getattr(preference, name)(
    *signals, **extras(name), **{key: x}
  )[0]
  traced = jax.jit(jax.vmap(loss))(jnp.array(values))
  for row, x in zip(traced, values):
    close(row, loss(x))
  assert np.abs(traced[0] - traced[1]).max() > 1e-3
