"""Q-Tuning's quadrants and its filling up, by hand."""

import jax.numpy as jnp
import numpy as np

from posttrain_jax import token_weights
from posttrain_jax.core.types import TokenSignals


def array(*rows):
  return jnp.array(rows, jnp.float32)


def test_q_tuning_keeps_the_two_corners():
  # Rows on the (perplexity, entropy) plane: noise, misconception, redundant,
  # to calibrate; and a padding row.
  logps = -array([3.0, 3, 3, 3], [3.0, 1, 1, 7], [0.1] * 4, [0.2] * 4, [9] * 4)
  entropy = array([2.0] * 4, [0.2] * 4, [0.1] * 4, [2.1] * 4, [9.0] * 4)
  mask = jnp.ones((5, 4)).at[4].set(0.0)
  record = TokenSignals(logps=logps, entropy=entropy)
  weights = token_weights.q_tuning(
    record, mask, sample_fraction=0.5, token_fraction=0.5, normalize=False
  )
  # Row 1 drops its token of loss 7 and that token's neighbour.
  expected = np.zeros((5, 4))
  expected[1], expected[3] = [1, 1, 0, 0], 1
  np.testing.assert_allclose(weights, expected)


def test_q_tuning_fills_up_when_the_corners_are_empty():
  # Perplexity and entropy rise together: no row in the corners.
  logps = -array([0.1] * 2, [0.5] * 2, [1.0] * 2, [1.5] * 2)
  entropy = array([0.1] * 2, [1.4] * 2, [1.5] * 2, [2.0] * 2)
  record = TokenSignals(logps=logps, entropy=entropy)
  weights = token_weights.q_tuning(
    record, jnp.ones((4, 2)), sample_fraction=0.25
  )
  assert np.count_nonzero(weights.sum(1)) == 1
  # The row whose two scaled numbers differ most.
  assert weights[1].all()
