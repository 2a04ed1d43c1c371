"""Reward-model losses: hand-computed values and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.resolve import arrays_of, hparams_of
from posttrain_jax.losses import preference, reward_model

LN2, LN3 = np.log(2.0), np.log(3.0)
# Differences 0, ln 3 and -ln 3: probabilities 1/2, 3/4 and 1/4.
GOOD = jnp.array([1.0, 2.0 + LN3, 0.0])
BAD = jnp.array([1.0, 2.0, LN3])


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_bradley_terry_by_hand():
  loss, metrics = reward_model.bradley_terry(GOOD, BAD)
  close(loss, [LN2, np.log(4 / 3), np.log(4)])
  close(metrics['rewards/margins'], [0.0, LN3, -LN3])
  close(metrics['rewards/accuracies'], [0.0, 1.0, 0.0])
  centered, _ = reward_model.bradley_terry(GOOD, BAD, center_coef=0.5)
  close(centered - loss, [2.0, 0.5 * (4 + LN3) ** 2, 0.5 * LN3**2])


def test_preference_has_the_same_bradley_terry():
  assert preference.bradley_terry is reward_model.bradley_terry


def test_a_margin_moves_the_difference():
  loss, _ = reward_model.bradley_terry(GOOD, BAD, jnp.array([0.0, LN3, -LN3]))
  close(loss, [LN2, LN2, LN2])


def test_soft_label_by_hand():
  # Cross-entropy of (p, 1 - p) with the probabilities 1/2, 3/4, 1/4.
  prob = jnp.array([0.3, 0.75, 0.0])
  loss, _ = reward_model.soft_label(GOOD, BAD, label_prob=prob)
  entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
  close(loss, [LN2, entropy, -np.log(0.75)])


def test_soft_label_has_its_minimum_where_the_model_says_the_label():
  slope = jax.grad(
    lambda r: reward_model.soft_label(
      r, BAD, label_prob=jnp.array([0.5, 0.75, 0.25])
    )[0].sum()
  )(GOOD)
  close(slope, np.zeros(3))


def test_certain_labels_are_bradley_terry():
  plain, _ = reward_model.bradley_terry(GOOD, BAD)
  loss, _ = reward_model.soft_label(GOOD, BAD, label_prob=jnp.ones(3))
  close(loss, plain)


def test_adaptive_margin_by_hand_and_detached():
  strength = jnp.array([-LN3, 0.0, LN3])
  run = lambda s: reward_model.adaptive_margin(GOOD, BAD, strength=s)[0]
  # d - margin: ln 3, ln 3, -2 ln 3.
  close(run(strength), [np.log(4 / 3), np.log(4 / 3), np.log(10)])
  slope = jax.grad(lambda s: run(s).sum())(strength)
  np.testing.assert_array_equal(slope, 0.0)


def test_soft_margin_by_hand_and_detached():
  # Doubted by 1/4, sure, and sure by a margin: d - strength is ln 3, ln 3 and
  # -2 ln 3.
  strength = jnp.array([-LN3, 0.0, LN3])
  run = lambda s: reward_model.soft_margin(GOOD, BAD, strength=s)[0]
  doubted = 0.25 * np.log(4 / 3) + 0.75 * np.log(4)
  close(run(strength), [doubted, np.log(4 / 3), np.log(10)])
  slope = jax.grad(lambda s: run(s).sum())(strength)
  np.testing.assert_array_equal(slope, 0.0)
  sure = jnp.abs(strength)
  margin, _ = reward_model.adaptive_margin(GOOD, BAD, strength=sure)
  close(run(sure), margin)


def test_strength_is_the_mean_and_population_std_of_an_ensemble():
  gaps = jnp.array([[1.0, -2.0], [3.0, -2.0], [5.0, -2.0], [7.0, -2.0]])
  mean, std = reward_model.preference_strength(gaps)
  close(mean, [4.0, -2.0])
  close(std, [np.sqrt(5.0), 0.0])


def test_flip_swaps_the_weakest_pairs_in_every_array():
  strength = jnp.array([0.5, -1.0, 2.0, -3.0, 0.0])
  chosen = {'tokens': jnp.arange(10).reshape(5, 2), 'reward': jnp.arange(5.0)}
  rejected = jax.tree.map(lambda x: x + 100, chosen)
  first, second, swapped = reward_model.flip(chosen, rejected, strength, 0.4)
  np.testing.assert_array_equal(swapped, [False, True, False, True, False])
  np.testing.assert_array_equal(first['reward'], [0, 101, 2, 103, 4])
  np.testing.assert_array_equal(second['reward'], [100, 1, 102, 3, 104])
  np.testing.assert_array_equal(first['tokens'][1], [102, 103])
  np.testing.assert_array_equal(first['tokens'][0], [0, 1])


@pytest.mark.parametrize(
  'fraction, count', [(0.0, 0), (0.1, 1), (0.3, 3), (0.59, 5), (1.0, 10)]
)
def test_flip_counts_round_down(fraction, count):
  x = jnp.zeros(10)
  run = jax.jit(lambda f: reward_model.flip(x, x, jnp.arange(10.0), f)[2])
  assert int(run(jnp.float32(fraction)).sum()) == count


def test_flip_keeps_pairs_without_a_strength():
  x, strength = jnp.zeros(4), jnp.array([jnp.nan, 1.0, jnp.nan, 2.0])
  swapped = reward_model.flip(x, x, strength, 0.5)[2]
  np.testing.assert_array_equal(swapped, [False, True, False, True])


def test_meta_difference_by_hand():
  # Pairs at distance 0, ln 3 and ln 3: 2/9 (1/2 + 3/4 + 3/4).
  rewards = jnp.array([[0.0, LN3, 0.0], [5.0, 5.0, 5.0]])
  close(reward_model.meta_difference(rewards), [4 / 9, 1 / 3])
  slope = jax.grad(lambda r: reward_model.meta_difference(r).sum())(rewards)
  # Ascent pulls the answers apart; 2/9 * 3/16 for each of the two pairs.
  close(slope[0], np.array([-1.0, 2.0, -1.0]) * 2 / 9 * 3 / 16)
  np.testing.assert_array_equal(slope[1], 0.0)


def test_attribute_regression_by_hand():
  scores = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
  targets = jnp.array([[3.0, 1.0], [3.0, jnp.nan], [jnp.nan, jnp.nan]])
  mask = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
  run = lambda s: reward_model.attribute_regression(s, targets, mask)
  loss, metrics = run(scores)
  close(loss, [2.5, 4.0, 0.0])
  close(metrics['error'], [1.5, 2.0, 0.0])
  slope = jax.grad(lambda s: run(s)[0].sum())(scores)
  close(slope, [[-2.0, 1.0], [-4.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize('name', reward_model.__all__)
def test_scores_far_apart_stay_finite(name):
  loss = getattr(reward_model, name)
  extra = {key: jnp.full(2, 0.5) for key in arrays_of(loss)}
  assert 'center_coef' in hparams_of(loss)
  good, bad = jnp.array([-1e4, 1e4]), jnp.array([1e4, -1e4])
  value, slope = jax.value_and_grad(lambda x: loss(x, bad, **extra)[0].sum())(
    good
  )
  assert np.isfinite(value) and np.all(np.isfinite(slope))
