"""KL and entropy terms: hand-computed numbers, exact identities, limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import regularizers

# KL on taken tokens.

KL = {
  'kl_k1': lambda d, ratio: d,
  'kl_k2': lambda d, ratio: d**2 / 2,
  'kl_k3': lambda d, ratio: np.exp(-d) - 1 + d,
  'kl_k3_plus': lambda d, ratio: np.exp(-d) - 1 + d,
  'kl_k1_corrected': lambda d, ratio: ratio * d,
  'kl_k2_corrected': lambda d, ratio: ratio * d**2 / 2,
  'kl_k3_corrected': lambda d, ratio: ratio * (np.exp(-d) - 1 + d),
}


def kl(name, logps, ref_logps, mask, old_logps):
  f = getattr(regularizers, name)
  extra = {'old_logps': old_logps} if name.endswith('corrected') else {}
  return f(logps, ref_logps, mask, **extra)


def test_kl_hand_computed():
  logps, ref = jnp.array([[math.log(2.0)]]), jnp.zeros((1, 1))
  expected = {
    'kl_k1': math.log(2.0),
    'kl_k2': math.log(2.0) ** 2 / 2,
    'kl_k3': math.log(2.0) - 0.5,
    'kl_k3_plus': math.log(2.0) - 0.5,
    # Sampled with probability 1/4 of the policy's.
    'kl_k1_corrected': 4 * math.log(2.0),
    'kl_k2_corrected': 2 * math.log(2.0) ** 2,
    'kl_k3_corrected': 4 * math.log(2.0) - 2,
  }
  assert expected.keys() == set(regularizers.__all__)
  for name, number in expected.items():
    loss, metrics = kl(
      name, logps, ref, jnp.ones((1, 1)), jnp.full((1, 1), -math.log(2.0))
    )
    np.testing.assert_allclose(loss, [[number]], rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(metrics['kl'], loss)


@pytest.mark.parametrize('name', regularizers.__all__)
def test_kl_matches_float64_form(name):
  rng = np.random.default_rng(2)
  logps, ref, old = -np.abs(rng.normal(size=(3, 4, 5)))
  # Small differences too, where k3 switches to its series.
  ref[0] = logps[0] + np.array([1e-12, 1e-5, -3e-3, 9.9e-3, -1.01e-2])
  mask = (rng.random((4, 5)) < 0.7).astype(float)
  mask[0], mask[-1] = 1.0, 0.0
  form = KL[name]

  def second(x):
    if name == 'kl_k3_plus':
      form_of_slope = KL['kl_k2']
    else:
      form_of_slope = form
    held = name == 'kl_k2_corrected'
    return mask * form_of_slope(x - ref, np.exp((logps if held else x) - old))

  def dirty(x):
    return jnp.asarray(np.where(mask > 0, x, np.nan))

  with jax.enable_x64(True):
    run = jax.jit(lambda x: kl(name, x, dirty(ref), mask, dirty(old))[0])
    loss = run(dirty(logps))
    slope = jax.grad(lambda x: run(x).sum())(dirty(logps))
  expected = mask * form(logps - ref, np.exp(logps - old))
  np.testing.assert_allclose(loss, expected, rtol=1e-9, atol=1e-12)
  numeric = (second(logps + 1e-6) - second(logps - 1e-6)) / 2e-6
  np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-8)


def test_k3_is_never_negative():
  d = jnp.concatenate(
    [jnp.linspace(-0.02, 0.02, 2001), jnp.geomspace(1e-12, 1e-2, 500)]
  )[None, :]
  loss, _ = regularizers.kl_k3(d, jnp.zeros_like(d), jnp.ones_like(d))
  assert (loss >= 0).all()
  assert (loss[d != 0] > 0).mean() > 0.99
  exact = np.expm1(-np.float64(d)) + np.float64(d)
  big = np.abs(np.asarray(d)) > 1e-4
  np.testing.assert_allclose(loss[big], exact[big], rtol=1e-4)


def categorical(seed=0, tokens=7):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=tokens), jnp.float32) for _ in range(3)]


def exact_kl(logits, other):
  p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
  return jnp.sum(jnp.exp(p) * (p - q))


def expectation(name, logits, ref, old, under):
  """Mean of an estimator and of its gradient over tokens drawn from `under`."""
  weight = jax.nn.softmax(under)

  def mean(x):
    loss, _ = kl(
      name,
      jax.nn.log_softmax(x)[None, :],
      jax.nn.log_softmax(ref)[None, :],
      jnp.ones((1, x.size)),
      jax.nn.log_softmax(old)[None, :],
    )
    return jnp.sum(weight * loss[0])

  return jax.value_and_grad(mean)(logits)


def test_estimators_on_an_enumerable_distribution():
  logits, ref, old = categorical()
  true, reverse_slope = jax.value_and_grad(exact_kl)(logits, ref)
  forward_slope = jax.grad(exact_kl, argnums=1)(ref, logits)
  close = dict(rtol=1e-4, atol=1e-6)

  @jax.jit
  def expectations(under):
    return {n: expectation(n, logits, ref, old, under) for n in KL}

  on, off = expectations(logits), expectations(old)
  for name in ('kl_k1', 'kl_k3', 'kl_k3_plus'):
    np.testing.assert_allclose(on[name][0], true, **close)
  assert abs(on['kl_k2'][0] - true) > 0.01
  np.testing.assert_allclose(on['kl_k1'][1], 0.0, atol=1e-6)
  np.testing.assert_allclose(on['kl_k2'][1], reverse_slope, **close)
  np.testing.assert_allclose(on['kl_k3_plus'][1], reverse_slope, **close)
  np.testing.assert_allclose(on['kl_k3'][1], forward_slope, **close)

  for name in ('kl_k1_corrected', 'kl_k3_corrected'):
    np.testing.assert_allclose(off[name][0], true, **close)
    np.testing.assert_allclose(off[name][1], reverse_slope, **close)
  np.testing.assert_allclose(off['kl_k2_corrected'][1], reverse_slope, **close)
  # Without the correction the same tokens give another number.
  assert abs(off['kl_k3'][0] - true) > 0.01


@pytest.mark.parametrize('name', regularizers.__all__)
def test_kl_stays_finite_and_masked(name):
  x = jnp.array([[-1e4, 0.0, 0.0, -1e4, jnp.nan], [jnp.inf] * 5])
  ref = jnp.array([[0.0, -1e4, -80.0, -1e4, jnp.inf], [jnp.nan] * 5])
  mask = jnp.array([[1.0, 1, 1, 1, 0], [0.0] * 5])
  loss, _ = kl(name, x, ref, mask, ref)
  slope = jax.grad(lambda x: kl(name, x, ref, mask, ref)[0].sum())(x)
  for array in (loss, slope):
    assert np.isfinite(array).all()
    np.testing.assert_array_equal(array[mask == 0], 0.0)


# Whole distributions, entropy, parameters.


def test_full_divergences_hand_computed():
  logits = jnp.log(jnp.array([[[0.5, 0.5, 1e-30], [9.0, 9.0, 9.0]]]))
  ref = jnp.log(jnp.array([[[0.25, 0.75, 1e-30], [1.0, 2.0, 3.0]]]))
  mask = jnp.array([[1.0, 0.0]])
  expected = {
    'full_kl_reverse': 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
    'full_kl_forward': 0.25 * math.log(0.5) + 0.75 * math.log(1.5),
    # Midpoint (3/8, 5/8).
    'full_js': 0.25 * math.log(4 / 3)
    + 0.25 * math.log(4 / 5)
    + 0.125 * math.log(2 / 3)
    + 0.375 * math.log(6 / 5),
    'full_entropy': -math.log(2),
  }
  assert expected.keys() == set(regularizers.LOGITS)
  for name, number in expected.items():
    loss, _ = getattr(regularizers, name)(logits, ref, mask)
    np.testing.assert_allclose(loss, [[number, 0.0]], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize('name', regularizers.LOGITS)
def test_full_divergences_with_banned_tokens_and_garbage(name):
  logits = jnp.array([[[0.0, 1.0, -jnp.inf], [jnp.nan] * 3, [0.0, 1e4, -1e4]]])
  ref = jnp.array([[[0.5, 0.0, -jnp.inf], [jnp.inf] * 3, [0.0, -1e4, 1e4]]])
  mask = jnp.array([[1.0, 0.0, 1.0]])
  f = getattr(regularizers, name)
  loss, metrics = f(logits, ref, mask)
  slope = jax.grad(lambda x: f(x, ref, mask)[0].sum())(logits)
  for array in (loss, slope, *metrics.values()):
    assert np.isfinite(array).all()
  assert loss[0, 1] == 0.0
  np.testing.assert_array_equal(slope[0, 1], 0.0)
  # A banned token changes nothing for the rest.
  alone, _ = f(logits[:, :1, :2], ref[:, :1, :2], mask[:, :1])
  np.testing.assert_allclose(loss[:, :1], alone, rtol=1e-5)


def test_full_divergences_match_float64_and_exact_gradient():
  rng = np.random.default_rng(4)
  logits, ref = rng.normal(size=(2, 1, 2, 6))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  log_q = ref - np.log(np.exp(ref).sum(-1, keepdims=True))
  p, q = np.exp(log_p), np.exp(log_q)
  m = np.log((p + q) / 2)
  expected = {
    'full_kl_reverse': (p * (log_p - log_q)).sum(-1),
    'full_kl_forward': (q * (log_q - log_p)).sum(-1),
    'full_js': ((p * (log_p - m)) + (q * (log_q - m))).sum(-1) / 2,
    'full_entropy': (p * log_p).sum(-1),
  }
  ones = np.ones((1, 2))
  with jax.enable_x64(True):
    for name, number in expected.items():
      f = getattr(regularizers, name)
      np.testing.assert_allclose(f(logits, ref, ones)[0], number, rtol=1e-10)

    def slope_of(f):
      return jax.grad(lambda x: f(x, ref, ones)[0].sum())(jnp.asarray(logits))

    # d KL(p || q) = p (log p/q - KL); d KL(q || p) = p - q.
    gap = log_p - log_q - expected['full_kl_reverse'][..., None]
    np.testing.assert_allclose(
      slope_of(regularizers.full_kl_reverse), p * gap, rtol=1e-9
    )
    np.testing.assert_allclose(
      slope_of(regularizers.full_kl_forward), p - q, rtol=1e-9
    )


def test_entropy_terms():
  entropy = jnp.array([[0.1, 0.3, jnp.nan]])
  mask = jnp.array([[1.0, 1.0, 0.0]])
  loss, metrics = regularizers.entropy_bonus(entropy, mask)
  np.testing.assert_allclose(loss, [[-0.1, -0.3, 0.0]], rtol=1e-6)
  np.testing.assert_allclose(metrics['entropy'], [[0.1, 0.3, 0.0]], rtol=1e-6)
  # Mean 0.2: the bonus is on at or below the target only.
  on, _ = regularizers.entropy_floor(entropy, mask, target=0.21)
  off, _ = regularizers.entropy_floor(entropy, mask, target=0.19)
  np.testing.assert_array_equal(on, loss)
  np.testing.assert_array_equal(off, 0.0)


def test_l2_to_start():
  params = {'a': jnp.array([1.0, 2.0]), 'b': jnp.array([[3.0]])}
  start = {'a': jnp.array([0.0, 4.0]), 'b': jnp.array([[3.0]])}
  assert regularizers.l2_to_start(params, start) == 2.5
  slope = jax.grad(regularizers.l2_to_start)(params, start)
  np.testing.assert_allclose(slope['a'], [1.0, -2.0])
  slope = jax.grad(regularizers.l2_to_start, argnums=1)(params, start)
  np.testing.assert_array_equal(slope['a'], 0.0)
