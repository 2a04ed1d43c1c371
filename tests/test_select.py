"""Choosing among completions: votes by hand, expectations over all subsets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import Rollout
from posttrain_jax.rollout import select


def answers(*groups):
  """Answers of up to three tokens: (tokens [B, G, 3], mask); 9s are noise."""
  tokens = np.full((len(groups), len(groups[0]), 3), 9)
  mask = np.zeros(tokens.shape, np.float32)
  for b, group in enumerate(groups):
    for g, words in enumerate(group):
      tokens[b, g, : len(words)] = words
      mask[b, g, : len(words)] = 1
  return jnp.asarray(tokens), jnp.asarray(mask)


def test_best_of_n_takes_the_first_of_the_best():
  completion = jnp.arange(24).reshape(2, 3, 4)
  rollout = Rollout(
    completion=completion,
    mask=jnp.ones((2, 3, 4)),
    logps=-1.0 * completion,
    finished=jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]),
  )
  scores = jnp.array([[0.5, 2.0, 2.0], [-1.0, -3.0, -2.0]])
  best = jax.jit(select.best_of_n)(rollout, scores)
  assert best.completion.tolist() == [[[4, 5, 6, 7]], [[12, 13, 14, 15]]]
  assert best.logps.shape == (2, 1, 4) and best.given is None
  assert best.finished.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
  'group, index',
  [
    ([[1], [2], [2], [3]], 1),
    ([[1], [2], [2], [1]], 0),  # a tie: the answer that came first
    ([[1], [1, 1], [1, 1], [1, 1, 1]], 1),  # a beginning is another answer
    ([[], [], [], [4]], 3),  # nothing is no answer
    ([[], [], [], []], 0),
    ([[9], [], [9, 9], [9, 9]], 2),  # what is masked does not count
  ],
)
def test_majority_by_hand(group, index):
  other = [[5], [6], [7], [7]]
  found = jax.jit(select.majority)(*answers(group, other))
  assert found.tolist() == [index, 2]


def test_weights_outvote_numbers():
  group = answers([[1], [2], [1], [3]])
  vote = lambda *weights: int(
    select.weighted_majority(*group, jnp.array([weights]))[0]
  )
  assert vote(0.2, 0.7, 0.3, 0.1) == 1
  assert vote(0.3, 0.5, 0.3, 0.1) == 0
  assert vote(0.0, 0.5, 0.6, 0.1) == 0  # the answer's first completion
  assert vote(0.3, 0.6, 0.3, 0.1) == 0  # a tie
  assert vote(-0.3, -0.5, -0.3, -0.4) == 3


def test_majority_at_k_averages_blocks():
  group = answers([[1], [2], [2], [3], [3], [1], [4]], [[5]] * 7)
  rewards = jnp.array([[0, 1, 1, 0.5, 0.5, 0, 1], [1, 1, 1, 1, 1, 1, 0.0]])
  at = lambda k: select.majority_at_k(*group, rewards, k).tolist()
  # Blocks [1 2 2] and [3 3 1]; the seventh completion is left over.
  assert at(3) == [0.75, 1.0]
  assert at(2) == pytest.approx([(0 + 1 + 0.5) / 3, 1.0])
  assert at(1) == pytest.approx([4 / 7, 6 / 7])
  assert at(7) == [0.0, 1.0]  # 1, 2 and 3 twice each: 1 came first


@pytest.mark.parametrize('k', [1, 2, 3, 5, 6])
def test_expected_best_is_the_mean_over_subsets(k):
  rng = np.random.default_rng(k)
  scores = rng.normal(size=(4, 6)).astype(np.float32)
  scores[1] = np.round(scores[1])  # ties
  scores[2] = 0.0
  rewards = rng.random((4, 6)).astype(np.float32)
  expected = [
    np.mean(
      [
        rewards[b, subset[int(np.argmax(scores[b, list(subset)]))]]
        for subset in itertools.combinations(range(6), k)
      ]
    )
    for b in range(4)
  ]
  found = jax.jit(select.best_of_k_expected, static_argnums=2)(
    scores, rewards, k
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_best_by_reward_is_pass_at_k():
  correct = jnp.array([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
  found = select.best_of_k_expected(correct, correct, 2)
  np.testing.assert_allclose(found, [0.7, 0.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize('k, near', [(0, 1), (4, 3)])
def test_k_out_of_range(k, near):
  group = answers([[1], [2], [3]])
  ones = jnp.ones((1, 3))
  with pytest.raises(ValueError, match=f'k={k} .* nearest valid: {near}'):
    select.majority_at_k(*group, ones, k)
  with pytest.raises(ValueError, match=f'k={k} .* nearest valid: {near}'):
    select.best_of_k_expected(ones, ones, k)
