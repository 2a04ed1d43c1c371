"""What holds for every policy-gradient loss: a second form, limits, jit."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_pg as reference

from posttrain_jax.losses import policy_gradient, reduce
from posttrain_jax.resolve import hparams_of

# Equal to REINFORCE's gradient on-policy, with these settings.
ON_POLICY = {
  name: {}
  for name in policy_gradient.__all__
  if name not in ('luffy_shaped', 'clip_cov')
} | {'clip_cov': {'cov_low': 1e9, 'cov_high': 2e9}}


def call(name, logps, old_logps, advantages, mask, **hparams):
  loss = getattr(policy_gradient, name)
  if name == 'decoupled_ppo_clip':
    hparams = {'proximal_logps': old_logps, **hparams}
  return loss(logps, old_logps, advantages, mask, **hparams)


CASES = [
  ('reinforce', {}),
  ('ppo_clip', {'clip_low': 0.1, 'clip_high': 0.2}),
  ('ppo_clip', {'clip_low': 0.1, 'clip_high': 0.2, 'dual_clip': 1.3}),
  ('ppo_clip', {'clip_low': 0.1, 'clip_high': 0.2, 'delta': 1.25}),
  (
    'ppo_clip_sequence_mask',
    {'clip_low': 0.1, 'clip_high': 0.2, 'threshold': 0.02},
  ),
  ('sapo', {'temperature_positive': 1.0, 'temperature_negative': 1.5}),
  ('luffy_shaped', {'gamma': 0.1}),
  ('gspo', {'clip_low': 0.02, 'clip_high': 0.03}),
  ('gspo_token', {'clip_low': 0.02, 'clip_high': 0.03}),
  ('luspo', {'clip_low': 0.02, 'clip_high': 0.03}),
  ('gmpo', {'clip_low': 0.2, 'clip_high': 0.3}),
  (
    'vespo',
    {
      'power_positive': 2.0,
      'decay_positive': 3.0,
      'power_negative': 3.0,
      'decay_negative': 2.0,
    },
  ),
  ('cispo', {'clip_low': 0.2, 'clip_high': 0.1}),
  ('truncated_is', {'max_ratio': 1.1}),
  ('sequence_truncated_is', {'max_ratio': 0.9}),
  ('masked_is', {'min_ratio': 0.8, 'max_ratio': 1.3}),
  ('topr', {}),
  (
    'decoupled_ppo_clip',
    {'clip_low': 0.1, 'clip_high': 0.2, 'max_weight': 1.2},
  ),
  ('kl_cov', {'cov_ratio': 0.2, 'kl_coef': 0.7}),
  (
    'clip_cov',
    {'clip_low': 0.1, 'clip_high': 0.2, 'cov_low': 0.1, 'cov_high': 0.8},
  ),
]


def test_every_loss_has_a_second_form():
  assert {name for name, _ in CASES} == set(policy_gradient.__all__)


@pytest.mark.parametrize('name, hparams', CASES)
def test_value_and_gradient_match_float64_reference(name, hparams):
  # Two batches: sequence ratios on both sides of 1, with both signs of A.
  logps, old, advantages, mask = (
    np.concatenate(parts)
    for parts in zip(reference.ragged(0), reference.ragged(2))
  )
  rng = np.random.default_rng(5)
  cotangent = rng.normal(size=mask.shape)
  extra = {}
  if name == 'decoupled_ppo_clip':
    extra['proximal_logps'] = old + 0.2 * rng.normal(size=mask.shape)
  if name == 'clip_cov':
    second = functools.partial(reference.clip_cov_all, mask=mask, **hparams)
    extra['cov_ratio'] = 1.0
  elif name == 'kl_cov':
    second = functools.partial(reference.kl_cov, mask=mask, **hparams)
  else:
    second = functools.partial(
      reference.on_tokens,
      getattr(reference, name),
      mask=mask,
      **hparams,
      **extra,
    )

  # Metrics and masked garbage must not matter to value or gradient.
  def dirty(x):
    return np.where(mask > 0, x, np.nan)

  with jax.enable_x64(True):
    arrays = [jnp.asarray(dirty(x)) for x in (logps, old, advantages)]
    extra = {name: jnp.asarray(value) for name, value in extra.items()}

    def weighted_sum(x):
      loss, _ = call(
        name, x, *arrays[1:], jnp.asarray(mask), **hparams, **extra
      )
      return jnp.sum(loss * cotangent), loss

    slope, loss = jax.jit(jax.grad(weighted_sum, has_aux=True))(arrays[0])
  assert loss.dtype == np.float64

  expected = second(x=logps, fixed=logps, old=old, advantages=advantages)
  assert np.abs(expected).sum() > 0
  np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-10)

  step = 1e-6
  difference = np.zeros_like(logps)
  for index in np.ndindex(logps.shape):
    up, down = logps.copy(), logps.copy()
    up[index] += step
    down[index] -= step
    high, low = (
      second(x=x, fixed=logps, old=old, advantages=advantages)
      for x in (up, down)
    )
    difference[index] = np.sum((high - low) * cotangent) / (2 * step)
  np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('name', ON_POLICY)
def test_on_policy_gradient_is_reinforce(name):
  logps, _, advantages, mask = (
    jnp.asarray(x, jnp.float32) for x in reference.ragged(seed=3)
  )
  # Sequence-level methods mean one advantage per sequence, averaged over it.
  advantages = jnp.broadcast_to(advantages[:, :1], advantages.shape)
  rest = (logps, advantages, mask)
  average = reduce.sequence_mean

  def slope(of):
    def total(x):
      loss, _ = call(of, x, *rest, **(ON_POLICY[of]))
      return average(loss, mask)[0]

    return jax.jit(jax.grad(total))(logps)

  factor = jnp.sum(mask, axis=1)[:, None] if name == 'luspo' else 1.0
  np.testing.assert_allclose(
    slope(name), slope('reinforce') * factor, rtol=2e-5, atol=1e-6
  )


@pytest.mark.parametrize('name', policy_gradient.__all__)
def test_jit_vmap_and_traced_hparams_equal_eager(name):
  loss = getattr(policy_gradient, name)
  hparams = hparams_of(loss)
  batches = [reference.ragged(seed) for seed in (0, 1)]
  stacked = [
    jnp.asarray(np.stack(parts), jnp.float32) for parts in zip(*batches)
  ]

  def run(logps, old, advantages, mask, hparams):
    token_loss, metrics = call(name, logps, old, advantages, mask, **hparams)
    return {'loss': token_loss, **metrics}

  together = jax.jit(jax.vmap(run, in_axes=(0, 0, 0, 0, None)))(
    *stacked, hparams
  )
  for i in range(2):
    alone = run(*(x[i] for x in stacked), hparams)
    assert alone.keys() == together.keys()
    for key, value in alone.items():
      assert value.shape == (4, 6) and value.dtype == jnp.float32, key
      np.testing.assert_allclose(value, together[key][i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', policy_gradient.__all__)
def test_extreme_and_masked_inputs_stay_finite(name):
  # Ratios from e^-1e4 to e^80 and beyond; then garbage under the mask.
  logps = jnp.array(
    [
      [-1e4, -1e4, -0.0, -0.0, -80.0],
      [-0.0, jnp.nan, jnp.inf, -jnp.inf, -1.0],
      [jnp.nan, jnp.inf, -jnp.inf, 1.0, jnp.nan],
    ]
  )
  old = jnp.array(
    [
      [-0.0, -1e4, -80.0, -1e4, -0.0],
      [-80.0, 1.0, jnp.nan, jnp.inf, jnp.nan],
      [0.0, jnp.inf, -jnp.inf, jnp.nan, 1.0],
    ]
  )
  mask = jnp.array([[1.0] * 5, [1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 5])
  signs = jnp.array([1.0, -1.0, 0.0])
  advantages = jnp.where(mask > 0, signs[:, None, None], jnp.nan)

  def run(advantages):
    def total(x):
      loss, metrics = call(name, x, old, advantages, mask)
      return jnp.sum(loss), (loss, metrics)

    slope, (loss, metrics) = jax.grad(total, has_aux=True)(logps)
    return {'slope': slope, 'loss': loss, **metrics}

  for key, value in jax.jit(jax.vmap(run))(advantages).items():
    assert np.isfinite(value).all(), key
    np.testing.assert_array_equal(value[:, mask == 0], 0.0, err_msg=key)


@pytest.mark.parametrize('name', policy_gradient.__all__)
def test_only_logps_carry_a_gradient(name):
  arrays = [jnp.asarray(x, jnp.float32) for x in reference.ragged()]

  def total(old, advantages):
    loss, metrics = call(name, arrays[0], old, advantages, arrays[3])
    return sum(x.sum() for x in (loss, *metrics.values()))

  for slope in jax.jit(jax.grad(total, argnums=(0, 1)))(*arrays[1:3]):
    np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.parametrize('name', policy_gradient.__all__)
def test_signature_and_reference(name):
  loss = getattr(policy_gradient, name)
  positional = [
    p.name
    for p in inspect.signature(loss).parameters.values()
    if p.kind is p.POSITIONAL_OR_KEYWORD
  ]
  assert positional == ['logps', 'old_logps', 'advantages', 'mask']
  assert 'Reference: ' in loss.__doc__ and 'https://' in loss.__doc__
