"""Supervised losses: hand-computed values, gradients, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import supervised
from posttrain_jax.types import TokenSignals

MASK = jnp.array([[1.0, 1.0, 0.0]])
LOGPS = jnp.log(jnp.array([[0.5, 0.25, 0.1]]))


def signals(logps=LOGPS, **arrays):
  return TokenSignals(logps=logps, **arrays)


def grad(loss, logps=LOGPS, mask=MASK, **arrays):
  return jax.grad(lambda x: loss(signals(x, **arrays), mask)[0].sum())(logps)


def test_nll_is_minus_logps():
  loss, _ = supervised.nll(signals(), MASK)
  np.testing.assert_allclose(loss, [[np.log(2), np.log(4), 0.0]], rtol=1e-6)


def test_label_smoothing_by_hand():
  # p = (3/4, 1/4), target 0: 0.8 * ln(4/3) + 0.2 * (ln(4/3) + ln 4) / 2.
  logits = jnp.log(jnp.array([[[3.0, 1.0]]]))
  loss, _ = supervised.label_smoothing(
    signals(jnp.log(jnp.array([[0.75]])), logits=logits),
    jnp.ones((1, 1)),
    smoothing=0.2,
  )
  expected = 0.8 * np.log(4 / 3) + 0.1 * (np.log(4 / 3) + np.log(4))
  np.testing.assert_allclose(loss, [[expected]], rtol=1e-6)


def test_label_smoothing_needs_logits():
  with pytest.raises(ValueError, match='signals.logits'):
    supervised.label_smoothing(signals(), MASK)


def test_dft_value_and_gradient():
  loss, metrics = supervised.dft(signals(), MASK)
  expected = [[0.5 * np.log(2), 0.25 * np.log(4), 0.0]]
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(metrics['weight'], [[0.5, 0.25, 0.0]], rtol=1e-6)
  # d(1 - p) / d log p = -p.
  np.testing.assert_allclose(
    grad(supervised.dft), [[-0.5, -0.25, 0.0]], rtol=1e-6
  )
