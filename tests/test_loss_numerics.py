"""Functions of log-probabilities at their limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import numerics


@pytest.mark.parametrize('x', [-1e-5, -0.01, -0.69, -0.7, -5.0, -30.0])
def test_log1mexp_is_accurate_in_float32(x):
  expected = math.log(-math.expm1(np.float32(x)))
  value, slope = jax.value_and_grad(numerics.log1mexp)(jnp.float32(x))
  np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-12)
  p = math.exp(np.float32(x))
  np.testing.assert_allclose(slope, p / math.expm1(x), rtol=2e-5)


def test_log1mexp_at_its_ends():
  ends = jnp.array([0.0, -jnp.inf, -1e4])
  np.testing.assert_allclose(
    numerics.log1mexp(ends), [math.log(1e-6), 0.0, 0.0], rtol=1e-5
  )
  slope = jax.vmap(jax.grad(numerics.log1mexp))(ends)
  np.testing.assert_allclose(slope, [-1e6, 0.0, 0.0], rtol=1e-5)


def test_exp_is_clamped_flat_and_passes_nan_on():
  value, slope = jax.vmap(jax.value_and_grad(numerics.exp))(
    jnp.array([1.0, 80.0, 1e4, jnp.nan])
  )
  top = np.float32(math.exp(80.0))
  np.testing.assert_allclose(value, [math.e, top, top, np.nan], rtol=1e-5)
  np.testing.assert_allclose(slope, [math.e, top, 0.0, np.nan], rtol=1e-5)


def test_straight_through_has_one_value_and_anothers_gradient():
  f = lambda x: numerics.straight_through(x**2, jnp.float32(7.0))
  value, slope = jax.value_and_grad(f)(jnp.float32(3.0))
  assert (value, slope) == (7.0, 6.0)
