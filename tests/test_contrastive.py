"""Contrastive losses by hand, and rewards of progress through a thought."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import advantages
from posttrain_jax.core import masked
from posttrain_jax.losses import contrastive, policy_gradient, reduce

# Cosines: c_00 = 1, c_01 = 0, c_10 = 0, c_11 = 3/5.
ANCHORS = jnp.array([[2.0, 0.0], [0.0, 3.0]])
POSITIVES = jnp.array([[5.0, 0.0], [0.0, 1.0]])
TILTED = jnp.array([[5.0, 0.0], [4.0, 3.0]])
ONES = jnp.ones(2)


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_simcse_by_hand():
  loss, metrics = contrastive.simcse(ANCHORS, TILTED, ONES, temperature=1.0)
  # Row 0: cosines 1 and 4/5; row 1: 0 and 3/5.
  expected = [np.log1p(np.exp(-0.2)), np.log1p(np.exp(-0.6))]
  close(loss, expected)
  close(metrics['similarity'], [1.0, 0.6])
  close(metrics['accuracy'], [1.0, 1.0])
  swapped, metrics = contrastive.simcse(
    ANCHORS, TILTED[::-1], ONES, temperature=1.0
  )
  close(swapped, [np.log1p(np.exp(0.2)), np.log1p(np.exp(0.6))])
  close(metrics['accuracy'], [0.0, 0.0])


def test_carft_by_hand():
  # The numerator of row 0 is held at 0.9, its denominator is not.
  loss, metrics = contrastive.carft(
    ANCHORS, POSITIVES, ONES, correct=jnp.array([1.0, 0.0]), temperature=0.5
  )
  close(loss, [np.log(np.exp(2.0) + 1.0) - 1.8, 0.0])
  close(metrics['counted'], [1.0, 0.0])


def test_carft_has_no_gradient_for_annotations():
  def total(a, p):
    return contrastive.carft(a, p, ONES, correct=ONES)[0].sum()

  slope = jax.grad(total, (0, 1))(ANCHORS, TILTED)
  np.testing.assert_array_equal(slope[0], 0.0)
  assert np.abs(slope[1]).max() > 0.01


def test_a_wrong_rollout_is_still_a_negative():
  wrong = jnp.array([1.0, 0.0])
  alone, _ = contrastive.carft(
    ANCHORS, TILTED, jnp.array([1.0, 0.0]), correct=ONES
  )
  beside, _ = contrastive.carft(ANCHORS, TILTED, ONES, correct=wrong)
  # Alone, only the held numerator is left: (1 - 0.9) / 0.2.
  close(alone, [0.5, 0.0])
  close(beside, [0.5 + np.log1p(np.exp(-1.0)), 0.0])


def test_diff_is_simcse_of_differences():
  shift = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
  plain, _ = contrastive.simcse(ANCHORS, TILTED, ONES)
  loss, _ = contrastive.simcse_diff(
    ANCHORS + shift,
    TILTED - shift,
    ONES,
    rejected_anchors=shift,
    rejected_positives=-shift,
  )
  close(loss, plain, 1e-5)


def call(name, a, p, mask):
  extra = {'carft': {'correct': jnp.ones(len(mask))}}.get(name, {})
  if name == 'simcse_diff':
    extra = {'rejected_anchors': -a, 'rejected_positives': -p}
  return getattr(contrastive, name)(a, p, mask, **extra)


@pytest.mark.parametrize('name', contrastive.__all__)
@pytest.mark.parametrize('poison', [np.nan, np.inf, 1e30])
def test_rows_that_do_not_exist_have_no_effect(name, poison):
  short, _ = call(name, ANCHORS, TILTED, ONES)
  mask = jnp.array([1.0, 0.0, 1.0])
  insert = lambda x: jnp.stack([x[0], jnp.full(2, poison), x[1]])
  total = lambda a, p: (call(name, a, p, mask)[0].sum(), call(name, a, p, mask))
  slope, (loss, metrics) = jax.grad(total, (0, 1), has_aux=True)(
    insert(ANCHORS), insert(TILTED)
  )
  close(loss, [short[0], 0.0, short[1]])
  for array in (*slope, *metrics.values()):
    assert np.all(np.isfinite(array)) and not np.any(array[1])


@pytest.mark.parametrize('name', contrastive.__all__)
@pytest.mark.parametrize('scale', [0.0, 1e-15, 1e15])
def test_extreme_embeddings_and_empty_calls_stay_finite(name, scale):
  for mask in (ONES, jnp.zeros(2)):
    total = lambda a: call(name, a, scale * TILTED, mask)[0].sum()  # noqa: B023
    value, slope = jax.value_and_grad(total)(scale * ANCHORS)
    assert np.isfinite(value) and np.all(np.isfinite(slope))
    assert mask.any() or value == 0


def test_value_pooled_by_hand():
  hidden = jnp.array([[[1.0, 0.0], [9.0, 9.0], [0.0, 4.0]]] * 2)
  values = jnp.array([[np.log(3.0), 50.0, 0.0]] * 2)
  mask = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
  pooled = contrastive.value_pooled(hidden, values, mask)
  close(pooled, [[0.75, 1.0], [0.0, 0.0]])


# Token rewards


def test_progress_by_hand():
  """Three episodes, one of which does not exist; a hole in the row."""
  success = jnp.array([[0.5, 9.0, 0.25, 1.0], [0.5, 0.6, 0.7, 0.8]])
  ends = jnp.array([[0, -1, 2, 3], [1, 1, 3, 9]])
  mask = jnp.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
  found = advantages.progress_rewards(
    success, jnp.array([0.25, 0.0]), ends, mask
  )
  close(found, [[0.25, 0.0, -0.25, 0.75], [0.0, 0.6, 0.0, 0.0]])
  # Telescopes to last minus first.
  close(found.sum(axis=1), [0.75, 0.6])


def test_continuations_of_a_prefix_are_remax():
  """Outcome minus the probability of success at the prefix."""
  outcomes = jnp.array([[1.0, 0.0, 1.0]])
  found = advantages.remax(outcomes, greedy_rewards=jnp.array([0.25]))
  close(found, [[0.75, -0.25, 0.75]])


def test_whitening_without_mean_shift_divides_the_spread_alone():
  """Fine-grained RLHF whitens rewards so: (r - mean) / std + mean."""
  rewards = jnp.array([[1.0, 3.0, 50.0], [5.0, 7.0, 50.0]])
  mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
  found = masked.whiten(rewards, mask, center=False)
  spread = np.sqrt(20 / 3)
  expected = [[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]
  close(found, (np.array(expected) / spread + 4.0) * np.asarray(mask), 1e-5)


def test_aepo_term_is_reinforce_on_rewards():
  """E[R grad log pi] over samples of a softmax, exactly, against its form."""
  logits = jnp.array([0.5, -1.0, 0.2])
  rewards = jnp.array([1.0, 0.0, 1.0])
  # Drawn at a temperature; log-probabilities stay at temperature 1.
  drawn = jax.nn.softmax(logits / 1.2)

  def term(logits):
    logps = jax.nn.log_softmax(logits)[:, None]
    mask = jnp.ones((3, 1))
    loss, _ = policy_gradient.reinforce(
      logps, jax.lax.stop_gradient(logps), rewards[:, None], mask
    )
    return (drawn * loss[:, 0]).sum()

  policy = jax.nn.softmax(logits)
  score = jnp.eye(3) - policy[None, :]
  expected = -(drawn[:, None] * rewards[:, None] * score).sum(axis=0)
  close(jax.grad(term)(logits), expected)
  # Rows of two tokens: the mean over answers of R times the whole log-prob.
  logps = jnp.array([[-1.0, -2.0], [-0.5, -0.25]])
  loss, _ = policy_gradient.reinforce(
    logps, logps, jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2))
  )
  total, count = reduce.sequence_sum(loss, jnp.ones((2, 2)))
  close(total / count, 1.5)
