"""Rewards of sets, calls, actions and audited features, by hand; numbers of
entries that a program takes as inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_rewards as reference

from posttrain_jax.core.types import Rollout
from posttrain_jax.rewards import answers, arrays, entries, mixing
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import values

NAN = float('nan')
FOUND = {
  'matched': [2.0, 0.0, 3.0, 1.0, NAN],
  'said': [4.0, 0.0, 3.0, 1.0, 1.0],
  'wanted': [2.0, 2.0, 3.0, 5.0, 1.0],
  'format': [1.0, 1.0, 1.0, 0.0, 1.0],
  'names': [1.0, 0.5, 1.0, 1.0, 1.0],
  'points': [4.0, 1.0, 0.0, 4.0, NAN],
  'most': [4.0, 4.0, 0.0, 4.0, 4.0],
  'kind': [1.0, 0.0, 1.0, 1.0, 1.0],
  'name': [1.0, 1.0, 0.7, 1.0, 0.8],
  'text': [0.5, 1.0, 0.75, 1.0, NAN],
}
LEVELS = {'of': ['format', 'kind', 'name', 'text'],
          'values': [0.5, 0.3, 0.2, 1000.0], 'gates': 2}  # fmt: skip


@pytest.mark.parametrize('name, keys, expected', [
  # P = 1/2, R = 1; nothing is named; all of it; a shut gate.
  ('f_beta', {'beta': 1.0}, [2 / 3, 0, 1, 0, NAN]),
  ('f_beta', {}, [10 * 0.5 / (9 * 0.5 + 1), 0, 1, 0, NAN]),
  # Right; half of the names and a quarter of the points; no call is wanted;
  # nothing can be read.
  ('matched_calls', {}, [3, 6 * 1.5 / 5 - 3, 0, -3, NAN]),
  ('matched_calls', {'scale': 1.0, 'level': 'coarse'}, [1, -1, 0, -1, NAN]),
  # A likeness of 1/2 is none, nor is one of 0.7; 3/4 is.
  ('hierarchical', LEVELS, [1.0, 0.5, 750.8, 0, NAN]),
  ('hierarchical', LEVELS | {'gates': 0, 'least': 0.0},
   [501, 1000.7, 750.94, 1000.5, NAN]),
])  # fmt: skip
def test_counted_by_hand(name, keys, expected):
  parts = {k: np.array([x], np.float32) for k, x in FOUND.items()}
  ones = np.ones((1, 5), np.float32)
  facts = arrays.Facts(ones, ones, 9)
  found, metrics = getattr(arrays, name)(parts, facts, **keys)
  np.testing.assert_allclose(found, [expected], rtol=1e-6)
  assert metrics == {}


def test_to_list_all_pays_less_than_to_be_right_and_more_than_to_miss():
  """F_3 of the right one of ten, of all ten, of another one."""
  row = lambda *x: np.array([x], np.float32)
  parts = {'matched': row(1, 1, 0), 'said': row(1, 10, 1),
           'wanted': row(1, 1, 1), 'format': row(1, 1, 1)}  # fmt: skip
  found, _ = arrays.f_beta(parts, arrays.Facts(row(1), row(1), 1))
  np.testing.assert_allclose(found, [[1.0, 10 / 19, 0.0]], rtol=1e-6)


def test_audited_by_hand():
  parts = {'a': np.array([[1.0, 0.0, NAN, NAN]], np.float32),
           'b': np.array([[0.5, 1.0, 1.0, NAN]], np.float32)}  # fmt: skip
  ended = np.array([[1.0, 1.0, 0.0, 1.0]], np.float32)
  facts = arrays.Facts(ended, ended, 9)
  keys = {'of': ['a', 'b']}
  found, _ = arrays.audited(parts, facts, weights=[3.0, -1.0], **keys)
  expected = [[2.5 / 4, -0.25, -1.25, NAN]]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found, _ = arrays.audited(parts, facts, weights=[0.0, 0.0], **keys)
  np.testing.assert_allclose(found, [[0, 0, -1, NAN]])


def test_an_audit_takes_away_what_does_not_go_with_gold():
  """Gold goes with the first feature, against the second; the third is in
  every answer."""
  features = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]])
  gold = np.array([0.0, 1.0, 1.0, 0.0])
  before = np.array([0.2, 0.4, 0.6])
  # Of the second: means 3/4 and 1/2, of the product 1/4.
  own = (1 / 4 - 3 / 8) / np.sqrt(3 / 16 * 1 / 4)
  found = arrays.audit(features, gold, before)
  np.testing.assert_allclose(found, [1.0, own, 0.6], rtol=1e-5)
  half = arrays.audit(features, gold, before, rate=0.5)
  np.testing.assert_allclose(half, [0.6, 0.2 + own / 2, 0.6], rtol=1e-5)
  # Where all are as good, nothing is known.
  same = arrays.audit(features, np.ones(4), before)
  np.testing.assert_allclose(same, before)
  rng = np.random.default_rng(0)
  features, gold = rng.normal(size=(9, 3)), rng.normal(size=9)
  found = jax.jit(arrays.audit)(features, gold, before, rate=0.7)
  expected = reference.audit(features, gold, before, 0.7)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


LISTED = (
  {'name': 'verifier', 'weight': 0.5},
  {'name': 'verifier', 'part': 'format', 'weight': 0},
  {'name': 'audited', 'of': ['verifier', 'format'], 'weights': [1.0, 1.0]},
)


def test_numbers_of_entries_may_be_inputs_of_a_program():
  config = config_lib.load('configs/rl.py')
  config.rewards = LISTED
  mask = jnp.ones((1, 2, 3))
  samples = Rollout(mask, mask, mask, jnp.ones((1, 2)))
  parts = {'reward': jnp.array([[1.0, 0.0]]), 'format': jnp.ones((1, 2))}
  keys = ('rewards.verifier.weight', 'rewards.audited.weights.1')

  def earned(*numbers):
    own = config_lib.with_values(config, dict(zip(keys, numbers)))
    values.check(own)
    listed = entries.read(own.rewards)
    mixing.check(listed, 3)
    return answers.make_mix(listed, {})(None, None, samples, parts)['reward']

  once = jax.jit(earned)
  np.testing.assert_allclose(once(0.5, 1.0), [[1.5, 0.5]])
  np.testing.assert_allclose(once(0.0, 3.0), [[1.0, 0.75]])
  assert once._cache_size() == 1
  np.testing.assert_allclose(earned(0.5, 1.0), [[1.5, 0.5]])
  assert config.rewards == LISTED


@pytest.mark.parametrize('key, told', [
  ('rewards.verifer.weight', 'no reward "verifer". Did you mean "verifier"'),
  ('rewards.audited', 'it has no ""'),
  ('rewards.audited.weight.0', 'is no number of weight=1.0'),
  ('rewards.audited.wieghts.0', 'no "wieghts". Did you mean "weights"'),
  ('rewards.audited.weights', 'is no number of weights='),
  ('rewards.audited.weights.2', 'is no number of weights='),
  ('rewards.audited.of.0', 'is no number of of='),
])  # fmt: skip
def test_a_number_that_is_not_there_is_named(key, told):
  config = config_lib.load('configs/rl.py')
  config.rewards = LISTED
  with pytest.raises(ValueError, match=told.replace('.', r'\.')):
    config_lib.with_values(config, {key: 1.0})


def test_more_gates_than_entries():
  listed = [{'name': 'verifier'}, {'name': 'hierarchical', 'of': ['verifier'],
                                   'values': [1.0], 'gates': 2}]  # fmt: skip
  with pytest.raises(ValueError, match=r'gates=2 of 1 entries'):
    entries.read(listed)
