"""Policy-gradient losses: hand-computed numbers and identities between them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_pg as reference

from posttrain_jax.losses import policy_gradient, reduce

LOG2 = math.log(2.0)


def call(name, logps, old_logps, advantages, mask, **hparams):
  loss = getattr(policy_gradient, name)
  if name == 'decoupled_ppo_clip':
    hparams = {'proximal_logps': old_logps, **hparams}
  return loss(logps, old_logps, advantages, mask, **hparams)


def gradient(name, logps, *rest, **hparams):
  return jax.grad(lambda x: call(name, x, *rest, **hparams)[0].sum())(logps)


# One row: ratios 2, 1/2, 1 (and a masked token), then the loss by hand.
HAND = [
  ('reinforce', [1, 1, -1], {}, [LOG2, -LOG2, 0.0]),
  ('ppo_clip', [1, 1, 1], {}, [-1.2, -0.5, -1.0]),
  ('ppo_clip', [-1, -1, -1], {}, [2.0, 0.8, 1.0]),
  (
    'ppo_clip',
    [1, -1, 2],
    {'clip_high': 0.5, 'clip_low': 0.6},
    [-1.5, 0.5, -2],
  ),
  ('ppo_clip', [-1, -1, -1], {'dual_clip': 1.5}, [1.5, 0.8, 1.0]),
  ('ppo_clip', [-2, -1, -1], {'delta': 1.7}, [3.4, 0.8, 1.0]),
  ('ppo_clip', [1, 1, 1], {'dual_clip': 1.5, 'delta': 1.1}, [-1.1, -0.5, -1]),
  # exp(mean log-ratio) = 1, so nothing is clipped.
  ('gspo', [1, 1, 1], {}, [-1.0, -1.0, -1.0]),
  ('gspo_token', [3, 2, 1], {}, [-3.0, -2.0, -1.0]),
  ('luspo', [1, 1, 1], {}, [-3.0, -3.0, -3.0]),
  # log 2 is clipped to 0.4: exp((0.4 - log 2) / 3).
  ('gmpo', [1, 1, 1], {}, [-math.exp((0.4 - LOG2) / 3)] * 3),
  ('gmpo', [-1, -1, -1], {}, [math.exp((LOG2 - 0.4) / 3)] * 3),
  # Weights of the whole row are 1: REINFORCE on logps -1 + (log 2, -log 2, 0).
  ('vespo', [1, -1, 1], {}, [1 - LOG2, -1 - LOG2, 1.0]),
  ('topr', [1, -1, 1], {}, [1 - LOG2, -1 - LOG2, 1.0]),
  ('sequence_truncated_is', [1, 1, 1], {'max_ratio': 0.5}, None),
  ('cispo', [1, 1, 1], {'clip_high': 0.5}, None),
  ('truncated_is', [1, 1, 1], {'max_ratio': 1.5}, None),
  ('masked_is', [1, 1, 1], {'max_ratio': 1.5}, None),
  ('sapo', [1, -1, 0], {'temperature_negative': 2.0}, None),
  ('luffy_shaped', [1, 1, 1], {'gamma': 0.5}, None),
]
# Loss is -weight * logps * advantage with logps = -1 + (log 2, -log 2, 0).
BY_WEIGHT = {
  'sequence_truncated_is': [0.5, 0.5, 0.5],
  'cispo': [1.5, 0.5, 1.0],
  'truncated_is': [1.5, 0.5, 1.0],
  'masked_is': [0.0, 0.5, 1.0],
}


@pytest.mark.parametrize('name, advantages, hparams, expected', HAND)
def test_hand_computed(name, advantages, hparams, expected):
  shift = 0.0 if name == 'reinforce' else -1.0
  old = np.full((1, 4), shift)
  logps = old + np.array([[LOG2, -LOG2, 0.0, 5.0]])
  if name == 'reinforce':
    expected = [-a * x for a, x in zip(advantages, logps[0])]
  elif name in BY_WEIGHT:
    expected = [-w * x for w, x in zip(BY_WEIGHT[name], logps[0])]
  elif name == 'sapo':
    # tau (ratio - 1) is 1 and -1: sigmoids 0.7310586 and 0.2689414
    expected = [-4 * 0.7310585786, 2 * 0.2689414214, 0.0]
  elif name == 'luffy_shaped':
    # p = 2/e, 1/(2e), 1/e
    expected = [-p / (p + 0.5) for p in (0.7357589, 0.1839397, 0.3678794)]
  loss, _ = call(
    name,
    jnp.asarray(logps, jnp.float32),
    jnp.asarray(old, jnp.float32),
    jnp.array([[*advantages, 7.0]], jnp.float32),
    jnp.array([[1.0, 1.0, 1.0, 0.0]]),
    **hparams,
  )
  np.testing.assert_allclose(loss[0], [*expected, 0.0], rtol=2e-6, atol=2e-6)


def test_metrics_say_which_side_is_clipped():
  logps = jnp.array([[LOG2, -LOG2, LOG2, -LOG2, 2.0]])
  advantages = jnp.array([[1.0, -1.0, -1.0, 1.0, 1.0]])
  mask = jnp.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
  zeros = jnp.zeros_like(logps)
  _, metrics = call('ppo_clip', logps, zeros, advantages, mask, dual_clip=1.5)
  np.testing.assert_allclose(metrics['ratio'], [[2, 0.5, 2, 0.5, 0]], rtol=1e-6)
  np.testing.assert_array_equal(metrics['clip_high'], [[1, 0, 0, 0, 0]])
  np.testing.assert_array_equal(metrics['clip_low'], [[0, 1, 0, 0, 0]])
  np.testing.assert_array_equal(metrics['clip_dual'], [[0, 0, 1, 0, 0]])
  # A clipped token has no gradient, and no other token loses its own.
  slope = gradient('ppo_clip', logps, zeros, advantages, mask, dual_clip=1.5)
  np.testing.assert_array_equal(slope != 0, [[0, 0, 0, 1, 0]])


def test_sequence_mask_drops_bad_sequences_that_moved():
  logps = jnp.array([[-2.0, -1.0], [-1.0, -1.0]])
  old = jnp.full((2, 2), -1.0)
  mask = jnp.ones((2, 2))
  advantages = jnp.array([[-1.0, 1.0], [-1.0, 1.0]])
  name = 'ppo_clip_sequence_mask'
  # Row 0 moved 0.5 nats per token on average, row 1 none.
  _, metrics = call(name, logps, old, advantages, mask, threshold=0.49)
  np.testing.assert_array_equal(metrics['dropped'], [[1, 0], [0, 0]])
  loss, _ = call(name, logps, old, advantages, mask, threshold=0.49)
  np.testing.assert_allclose(loss, [[0.0, -1.0], [1.0, -1.0]], rtol=1e-6)
  _, metrics = call(name, logps, old, advantages, mask, threshold=0.51)
  assert not metrics['dropped'].any()


def test_decoupled_weight_is_capped_and_clip_is_around_proximal():
  loss, metrics = policy_gradient.decoupled_ppo_clip(
    jnp.log(jnp.array([[0.8, 0.2]])),
    jnp.log(jnp.array([[0.1, 0.2]])),
    jnp.array([[1.0, 1.0]]),
    jnp.ones((1, 2)),
    proximal_logps=jnp.log(jnp.array([[0.4, 0.1]])),
  )
  np.testing.assert_allclose(metrics['weight'], [[2.0, 0.5]], rtol=1e-6)
  np.testing.assert_allclose(metrics['ratio'], [[2.0, 2.0]], rtol=1e-6)
  np.testing.assert_allclose(loss, [[-2.4, -0.6]], rtol=1e-6)


def test_kl_cov_penalises_the_largest_covariance():
  # Centred logps (1, -1, 2, -2), centred advantages (1, 1, -1, -1): products
  # 1, -1, -2, 2. Masked tokens shift neither mean and use no budget.
  logps = jnp.array([[-2.0, -4.0, -1.0, -5.0] + [7.0] * 4])
  old = logps - 0.1
  advantages = jnp.array([[2.0, 2.0, 0.0, 0.0] + [9.0] * 4])
  mask = jnp.array([[1.0] * 4 + [0.0] * 4])
  loss, metrics = call(
    'kl_cov', logps, old, advantages, mask, cov_ratio=0.5, kl_coef=3.0
  )
  np.testing.assert_array_equal(metrics['kl_cov'], [[1, 0, 0, 1] + [0] * 4])
  plain = -advantages * jnp.exp(0.1)
  np.testing.assert_allclose(
    (loss - plain)[:, :4], [[0.3, 0.0, 0.0, 0.3]], rtol=1e-5, atol=1e-6
  )
  _, metrics = call('kl_cov', logps, old, advantages, mask)
  np.testing.assert_array_equal(metrics['kl_cov'], [[0, 0, 0, 1] + [0] * 4])


def test_clip_cov_drops_its_budget_at_random():
  rng = np.random.default_rng(1)
  logps = jnp.asarray(-rng.random((8, 16)), jnp.float32)
  advantages = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
  mask = jnp.ones((8, 16)).at[:, 12:].set(0.0)
  chosen = functools.partial(
    call, 'clip_cov', cov_ratio=0.1, cov_low=-1e9, cov_high=1e9
  )
  loss, metrics = chosen(logps, logps, advantages, mask)
  assert metrics['clip_cov'].sum() == 9  # floor(0.1 * 96)
  np.testing.assert_array_equal(loss[metrics['clip_cov'] == 1], 0.0)
  again = jax.jit(chosen)(logps, logps, advantages, mask)[1]['clip_cov']
  np.testing.assert_array_equal(metrics['clip_cov'], again)
  other = chosen(logps, logps, advantages, mask, seed=1)[1]['clip_cov']
  assert (metrics['clip_cov'] != other).any()
  later = logps.at[0, 0].add(-0.5)
  other = chosen(later, later, advantages, mask)[1]['clip_cov']
  assert (metrics['clip_cov'] != other).any()


@pytest.mark.parametrize('name', ['gspo', 'gspo_token', 'gmpo'])
def test_sequence_ratio_equals_token_ratio_when_all_tokens_share_it(name):
  logps, _, advantages, mask = (
    jnp.asarray(x, jnp.float32) for x in reference.ragged(seed=4)
  )
  advantages = jnp.broadcast_to(advantages[:, :1], advantages.shape)
  shift = jnp.array([0.05, -0.08, 0.3, 0.0])[:, None]
  old = logps - shift
  if name == 'gmpo':  # its range is in nats
    clip, token_clip = (0.1, 0.1), (1 - math.exp(-0.1), math.exp(0.1) - 1)
  else:
    clip = token_clip = (0.1, 0.1)

  def total(of, low, high):
    def value(x):
      hparams = {'clip_low': low, 'clip_high': high}
      loss, _ = call(of, x, old, advantages, mask, **hparams)
      return reduce.sequence_mean(loss, mask)[0]

    return jax.value_and_grad(value)(logps)

  ours, token = total(name, *clip), total('ppo_clip', *token_clip)
  np.testing.assert_allclose(ours[0], token[0], rtol=1e-5)
  np.testing.assert_allclose(ours[1], token[1], rtol=1e-5, atol=1e-7)


def test_luspo_is_gspo_with_sequence_sum():
  logps, old, advantages, mask = (
    jnp.asarray(x, jnp.float32) for x in reference.ragged(seed=6)
  )
  hparams = {'clip_low': 0.1, 'clip_high': 0.1}
  luspo, _ = call('luspo', logps, old, advantages, mask, **hparams)
  gspo, _ = call('gspo', logps, old, advantages, mask, **hparams)
  np.testing.assert_allclose(
    reduce.sequence_mean(luspo, mask),
    reduce.sequence_sum(gspo, mask),
    rtol=1e-5,
  )


def test_luffy_gradient_weight():
  p = jnp.array([[1e-4, 0.1, 0.5, 1.0]])
  slope = gradient(
    'luffy_shaped', jnp.log(p), p * 0, jnp.ones_like(p), jnp.ones_like(p)
  )
  np.testing.assert_allclose(slope, -0.1 * p / (p + 0.1) ** 2, rtol=1e-5)
  np.testing.assert_allclose(slope[0, 1], -0.25, rtol=1e-5)


def test_delta_above_the_clip_is_dual_clip():
  logps, old, advantages, mask = (
    jnp.asarray(x, jnp.float32) for x in reference.ragged(spread=1.0)
  )
  ours, _ = call('ppo_clip', logps, old, advantages, mask, delta=1.5)
  other, _ = call('ppo_clip', logps, old, advantages, mask, dual_clip=1.5)
  plain, _ = call('ppo_clip', logps, old, advantages, mask)
  np.testing.assert_allclose(ours, other, rtol=1e-6)
  assert (np.asarray(ours) != np.asarray(plain)).any()
