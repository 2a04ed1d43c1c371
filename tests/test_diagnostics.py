"""Diagnostics: hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import diagnostics


def test_rollout_metrics_by_hand():
  rewards = jnp.array([[1.0, 0.0], [0.1, 0.1]])
  lengths = jnp.array([[2, 4], [3, 4]])
  mask = (jnp.arange(4)[None, None, :] < lengths[:, :, None]).astype(float)
  finished = jnp.array([[1.0, 0.0], [1.0, 1.0]])
  metrics = jax.jit(diagnostics.rollout_metrics)(rewards, mask, finished)
  expected = {
    'reward': 0.3,
    # Sample deviation of (1, 0) is sqrt(1/2), of (0.1, 0.1) it is 0.
    'reward_std': 0.5**0.5 / 2,
    'frac_reward_zero_std': 0.5,
    'completions/mean_length': 13 / 4,
    'completions/min_length': 2.0,
    'completions/max_length': 4.0,
    'completions/mean_terminated_length': 3.0,
    'completions/min_terminated_length': 2.0,
    'completions/max_terminated_length': 4.0,
    'completions/clipped_ratio': 0.25,
  }
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    assert metrics[name] == pytest.approx(value, abs=1e-6), name


def test_rollout_metrics_without_an_ended_completion_or_a_group():
  metrics = diagnostics.rollout_metrics(
    jnp.ones((3, 1)), jnp.ones((3, 1, 5)), jnp.zeros((3, 1))
  )
  assert metrics['completions/mean_terminated_length'] == 0.0
  assert metrics['completions/max_terminated_length'] == 0.0
  assert metrics['completions/clipped_ratio'] == 1.0
  assert metrics['reward_std'] == 0.0
  assert metrics['frac_reward_zero_std'] == 1.0


def test_equal_rewards_have_no_spread_whatever_their_rounding():
  # The standard deviation of eight float32 copies of this is not exactly 0.
  rewards = jnp.full((4, 8), 1234.567)
  metrics = diagnostics.rollout_metrics(
    rewards, jnp.ones((4, 8, 1)), jnp.ones((4, 8))
  )
  assert metrics['frac_reward_zero_std'] == 1.0


def test_logp_gap_ignores_what_the_mask_hides():
  sampler = jnp.array([[-1.0, -2.0, 5.0]])
  learner = jnp.array([[-1.5, -1.75, -jnp.inf]])
  mask = jnp.array([[1.0, 1.0, 0.0]])
  gap = diagnostics.logp_gap(sampler, learner, mask)
  assert gap['rollout/logp_gap_max'] == 0.5
  assert gap['rollout/logp_gap_mean'] == 0.375


def test_logp_gap_shows_a_nan():
  gap = diagnostics.logp_gap(
    jnp.array([[jnp.nan, -1.0]]), -jnp.ones((1, 2)), jnp.ones((1, 2))
  )
  assert jnp.isnan(gap['rollout/logp_gap_max'])


def test_pass_at_k_by_hand():
  correct = jnp.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
  assert diagnostics.pass_at_k(correct, 1) == pytest.approx(3 / 12)
  # k = 2: 1 - C(3,2)/C(4,2) = 1/2; 1 - C(2,2)/6 = 5/6; 0.
  assert diagnostics.pass_at_k(correct, 2) == pytest.approx((1 / 2 + 5 / 6) / 3)
  assert diagnostics.pass_at_k(correct, 4) == pytest.approx(2 / 3)


@pytest.mark.parametrize('k', [0, 5])
def test_pass_at_k_needs_enough_samples(k):
  with pytest.raises(ValueError, match='4 samples'):
    diagnostics.pass_at_k(jnp.ones((2, 4)), k)


def test_wilson_interval_by_hand():
  # Successes 8 of 10, z = 1.959964: center 0.71674, half-width 0.22658.
  low, high = diagnostics.wilson_interval(8, 10)
  assert low == pytest.approx(0.4901625, abs=1e-6)
  assert high == pytest.approx(0.9433178, abs=1e-6)


def test_wilson_interval_at_the_ends():
  z = 1.959963985
  low, high = diagnostics.wilson_interval(0, 10)
  assert low == pytest.approx(0.0, abs=1e-12)
  assert high == pytest.approx(z**2 / (10 + z**2), abs=1e-6)
  assert diagnostics.wilson_interval(10, 10)[1] == 1.0
  with pytest.raises(ValueError, match='11 successes of 10'):
    diagnostics.wilson_interval(11, 10)
  with pytest.raises(ValueError, match='between 0 and 1'):
    diagnostics.wilson_interval(1, 10, confidence=95)


def test_difference_interval_matches_newcombes_example():
  # Newcombe's (1998) example (a): 56/70 - 48/80 has interval 0.0524, 0.3339.
  first, second = (
    (s / n, *diagnostics.wilson_interval(s, n)) for s, n in ((56, 70), (48, 80))
  )
  low, high = diagnostics.difference_interval(first, second)
  assert low == pytest.approx(0.0524, abs=5e-5)
  assert high == pytest.approx(0.3339, abs=5e-5)


def test_bootstrap_interval():
  assert diagnostics.bootstrap_interval([2.0]) == (2.0, 2.0)
  values = np.random.default_rng(1).normal(size=400)
  low, high = diagnostics.bootstrap_interval(values, num_resamples=2000)
  half_width = 1.96 * values.std() / 20
  assert low == pytest.approx(values.mean() - half_width, abs=0.02)
  assert high == pytest.approx(values.mean() + half_width, abs=0.02)
  with pytest.raises(ValueError, match='non-empty'):
    diagnostics.bootstrap_interval([])
