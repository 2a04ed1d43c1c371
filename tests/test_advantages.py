"""Advantages: hand-computed numbers, second forms in NumPy, identities."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import advantages
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import hparams_of

REWARDS = [[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0]]
HAND = {
  # Row std with ddof 1: sqrt(1/3) and 1; centred rows +-1/2 and 3/2, -1/2.
  'group_normalized': [
    [0.5 / (math.sqrt(1 / 3) + 1e-4) * s for s in (1, -1, -1, 1)],
    [x / (1.0 + 1e-4) for x in (1.5, -0.5, -0.5, -0.5)],
  ],
  'group_centered': [[0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5]],
  # The last is as good as another one: it earns their mean, 1/3 and 2/3, which
  # is then the group's, with variances 2/9 and 8/9.
  'label_in_group': [
    [x / (math.sqrt(2 / 9) + 1e-4) for x in (2 / 3, -1 / 3, -1 / 3, 0)],
    [x / (math.sqrt(8 / 9) + 1e-4) for x in (4 / 3, -2 / 3, -2 / 3, 0)],
  ],
  'leave_one_out': [
    [2 / 3, -2 / 3, -2 / 3, 2 / 3],
    [2.0, -2 / 3, -2 / 3, -2 / 3],
  ],
  'raw': REWARDS,
  'signed': [[1.0, -1.0, -1.0, 1.0], [1.0, -1.0, -1.0, -1.0]],
  # Batch mean 1/2, sum of squares 6 - 8/4 = 4, variance 4/7.
  'batch_whitened': [
    [(r - 0.5) / math.sqrt(4 / 7 + 1e-8) for r in row] for row in REWARDS
  ],
  'group_centered_batch_scaled': [
    [x / (math.sqrt(4 / 7) + 1e-4) for x in row]
    for row in ([0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5])
  ],
  # Sum of squares of centred rewards 1 + 3, again variance 4/7.
  'group_centered_batch_whitened': [
    [x / math.sqrt(4 / 7 + 1e-8) for x in row]
    for row in ([0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5])
  ],
  'remax': [[0.0, -1.0, -1.0, 0.0], [1.5, -0.5, -0.5, -0.5]],
}


def call(name, rewards, **hparams):
  if name == 'remax':
    hparams = {'greedy_rewards': jnp.array([1.0, 0.5]), **hparams}
  return getattr(advantages, name)(rewards, **hparams)


@pytest.mark.parametrize('name', HAND)
def test_hand_computed(name):
  np.testing.assert_allclose(
    call(name, jnp.array(REWARDS)), HAND[name], rtol=1e-5, atol=1e-7
  )


def test_signed_is_right_above_its_threshold():
  rewards = jnp.array([[0.5, 0.51], [0.1, 0.0]])
  signed = advantages.signed
  np.testing.assert_array_equal(signed(rewards), [[-1, 1], [-1, -1]])
  lower = signed(rewards, threshold=0.05)
  np.testing.assert_array_equal(lower, [[1, 1], [1, -1]])


def test_batch_std_of_rewards_and_of_centred_rewards_differ():
  rewards = jnp.array([[0.0, 1.0], [10.0, 11.0]])
  scaled = advantages.group_centered_batch_scaled(rewards)
  whitened = advantages.group_centered_batch_whitened(rewards)
  # Variances 101/3 and 1/3.
  np.testing.assert_allclose(scaled[0, 1], 0.5 / math.sqrt(101 / 3), rtol=1e-4)
  np.testing.assert_allclose(whitened[0, 1], 0.5 / math.sqrt(1 / 3), rtol=1e-4)


def test_pass_at_k_hand_computed():
  # G = 4, two wrong, k = 2: P = C(2,2)/C(4,2) = 1/6, s = sqrt(5)/6; a wrong
  # one has a wrong partner with probability 1/3.
  ours = advantages.pass_at_k(jnp.array([[1.0, 1.0, 0.0, 0.0]]), k=2)
  good, bad = 1 / math.sqrt(5), -1 / math.sqrt(5)
  np.testing.assert_allclose(ours, [[good, good, bad, bad]], rtol=1e-6)


@pytest.mark.parametrize('k', [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_sets(k):
  for wins in range(7):
    rewards = np.array([1.0] * wins + [0.0] * (6 - wins))
    sets = list(itertools.combinations(range(6), k))
    of_set = np.array([rewards[list(s)].max() for s in sets])
    std = of_set.std()
    expected = np.zeros(6)
    if std > 0:
      for i in range(6):
        mine = [r for r, s in zip(of_set, sets) if i in s]
        expected[i] = (np.mean(mine) - of_set.mean()) / std
    ours = advantages.pass_at_k(jnp.array(rewards, jnp.float32)[None, :], k=k)
    np.testing.assert_allclose(ours[0], expected, rtol=1e-5, atol=1e-6)


def test_pass_at_1_is_group_normalized():
  rewards = jnp.array([[1.0, 0.0, 0.0, 0.0, 1.0]])
  np.testing.assert_allclose(
    advantages.pass_at_k(rewards, k=1),
    advantages.group_normalized(rewards, epsilon=0.0, ddof=0.0),
    rtol=1e-6,
  )


def test_pass_at_k_rejects_a_set_larger_than_the_group():
  with pytest.raises(ValueError, match=r'k=5 is not in 1\.\.4'):
    advantages.pass_at_k(jnp.zeros((1, 4)), k=5)


@pytest.mark.parametrize('group_size', [2, 3, 8])
def test_leave_one_out_is_scaled_group_centered(group_size):
  rewards = np.random.default_rng(group_size).normal(size=(3, group_size))
  ours = advantages.leave_one_out(jnp.asarray(rewards, jnp.float32))
  others = np.stack(
    [np.delete(rewards, i, axis=1).mean(axis=1) for i in range(group_size)], 1
  )
  np.testing.assert_allclose(ours, rewards - others, rtol=1e-5, atol=1e-6)
  scale = group_size / (group_size - 1)
  centered = advantages.group_centered(jnp.asarray(rewards, jnp.float32))
  np.testing.assert_allclose(ours, scale * centered, rtol=1e-5, atol=1e-6)


CENTERED = [
  n for n in advantages.__all__ if n not in ('raw', 'signed', 'remax')
]


@pytest.mark.parametrize('name', CENTERED)
def test_equal_rewards_give_exact_zeros(name):
  hparams = {'k': 1} if name == 'pass_at_k' else {}
  # 0.1 is no binary fraction: the float mean of seven of them is off by one.
  for rewards in (jnp.full((1, 7), 0.1), jnp.full((1, 1), 3.3)):
    np.testing.assert_array_equal(call(name, rewards, **hparams), 0.0)


@pytest.mark.parametrize('ddof', [0.0, 1.0])
def test_float64_forms(ddof):
  rewards = np.random.default_rng(0).normal(size=(5, 4))
  centered = rewards - rewards.mean(1, keepdims=True)
  std = rewards.std(1, ddof=int(ddof), keepdims=True)
  expected = {
    'group_normalized': centered / (std + 1e-4),
    'batch_whitened': (rewards - rewards.mean())
    / np.sqrt(rewards.var(ddof=int(ddof)) + 1e-8),
    'group_centered_batch_scaled': centered
    / (rewards.std(ddof=int(ddof)) + 1e-4),
    'group_centered_batch_whitened': centered
    / np.sqrt(centered.var(ddof=int(ddof)) + 1e-8),
  }
  with jax.enable_x64(True):
    for name, value in expected.items():
      ours = call(name, jnp.asarray(rewards), ddof=ddof)
      assert ours.dtype == np.float64
      np.testing.assert_allclose(ours, value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', advantages.__all__)
def test_jit_and_vmap_with_traced_hparams_equal_eager(name):
  hparams = hparams_of(getattr(advantages, name))
  batches = jnp.stack([jnp.array(REWARDS), 1.0 - jnp.array(REWARDS)])
  together = jax.jit(
    jax.vmap(lambda r, h: call(name, r, **h), in_axes=(0, None))
  )(batches, hparams)
  for i in range(2):
    alone = call(name, batches[i], **hparams)
    assert alone.dtype == jnp.float32
    np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', advantages.__all__ + advantages.TOKEN)
def test_documented(name):
  doc = getattr(advantages, name).__doc__
  assert 'Reference: ' in doc or name == 'last_token_rewards'


# Tokens.


def test_gae_hand_computed_steps_over_masked_tokens():
  rewards = jnp.array([[9.0, 1.0, 9.0, 2.0, 9.0]])
  values = jnp.array([[7.0, 0.5, 7.0, 0.25, 7.0]])
  mask = jnp.array([[0.0, 1.0, 0.0, 1.0, 0.0]])
  ours, returns = advantages.gae(rewards, values, mask, gamma=0.5, lam=0.5)
  # Last: 2 - 1/4. First: 1 + 0.5 * 0.25 - 0.5 + 0.25 * 1.75.
  np.testing.assert_allclose(ours, [[0, 1.0625, 0, 1.75, 0]], rtol=1e-6)
  np.testing.assert_allclose(returns, [[0, 1.5625, 0, 2.0, 0]], rtol=1e-6)


def gae_by_loop(rewards, values, mask, gamma, lam):
  """Sum over later counted tokens of (gamma lam)^l delta, in float64."""
  out = np.zeros_like(values)
  for b in range(len(values)):
    at = [t for t in range(mask.shape[1]) if mask[b, t]]
    after = [values[b, t] for t in at[1:]] + [0.0]
    delta = [
      rewards[b, t] + gamma * nxt - values[b, t] for t, nxt in zip(at, after)
    ]
    for i, t in enumerate(at):
      out[b, t] = sum(
        (gamma * lam) ** (j - i) * delta[j] for j in range(i, len(at))
      )
  return out


@pytest.mark.parametrize('gamma, lam', [(1.0, 1.0), (0.9, 0.7), (1.0, 0.0)])
def test_gae_matches_float64_loop(gamma, lam):
  rng = np.random.default_rng(2)
  rewards, values = rng.normal(size=(2, 4, 7))
  mask = (rng.random((4, 7)) < 0.6).astype(float)
  mask[-1] = 0.0
  expected = gae_by_loop(rewards, values, mask, gamma, lam)
  rewards, values = (np.where(mask > 0, x, np.nan) for x in (rewards, values))
  with jax.enable_x64(True):
    ours, returns = jax.jit(advantages.gae)(
      jnp.asarray(rewards), jnp.asarray(values), mask, gamma=gamma, lam=lam
    )
  np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(
    returns, np.where(mask > 0, expected + values, 0.0), rtol=1e-10, atol=1e-10
  )


def test_gae_with_lam_1_is_returns_minus_values():
  rng = np.random.default_rng(3)
  rewards, values = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)
  mask = jnp.asarray(rng.random((3, 6)) < 0.7, jnp.float32)
  ours, _ = advantages.gae(rewards, values, mask, gamma=0.9, lam=1.0)
  to_go = advantages.discounted_returns(rewards, mask, gamma=0.9)
  np.testing.assert_allclose(
    ours, masked.select(to_go - values, mask), rtol=1e-4, atol=1e-5
  )


def test_discounted_returns_hand_computed():
  ours = advantages.discounted_returns(
    jnp.array([[1.0, 5.0, 2.0, 4.0]]),
    jnp.array([[1.0, 0.0, 1.0, 1.0]]),
    gamma=0.5,
  )
  # 1 + 0.5 * (2 + 0.5 * 4); the masked 5 is dropped and costs no discount.
  np.testing.assert_allclose(ours, [[3.0, 0.0, 4.0, 4.0]], rtol=1e-6)


def test_whitened_returns_hand_computed():
  rewards = jnp.array([[1.0, 5.0, 2.0], [0.0, 0.0, 0.0]])
  mask = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
  # Returns 3, 2 and 0: a mean of 5/3 and a variance of 7/3 over tokens.
  ours = advantages.whitened_returns(rewards, mask)
  scale = 1 / math.sqrt(7 / 3 + 1e-8)
  expected = [[4 / 3 * scale, 0, scale / 3], [0, -5 / 3 * scale, 0]]
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_last_token_rewards():
  mask = jnp.array([[0.0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
  ours = advantages.last_token_rewards(jnp.array([3.0, 5.0, 7.0]), mask)
  np.testing.assert_array_equal(
    ours, [[0, 0, 3, 0], [0, 0, 0, 5], [0, 0, 0, 0]]
  )


def test_segment_rewards():
  mask = jnp.array([[1.0, 1, 1, 1], [1, 1, 0, 1]])
  ours = advantages.segment_rewards(
    jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]),
    jnp.array([[1, 3, 3], [-1, 2, 4]]),
    mask,
  )
  np.testing.assert_array_equal(ours, [[0, 1, 0, 6], [0, 0, 0, 0]])
