"""One-token rollout: by hand, against its expectation, against DFT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core.types import TokenSignals
from posttrain_jax.losses import supervised

ONE = jnp.ones((1, 1))


def signals(logps, **arrays):
  return TokenSignals(logps=jnp.asarray(logps), **arrays)


def one(p, **arrays):
  """A single token of probability p."""
  return signals(jnp.log(jnp.array([[p]])), **arrays)


def close(actual, expected, tolerance=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_otr_exact_by_hand():
  # p = q = (3/4, 1/4), target 0, reward -1/2 for the other token.
  logits = jnp.log(jnp.array([[[3.0, 1.0]]]))
  loss, _ = supervised.otr_exact(
    one(0.75, logits=logits), ONE, wrong_reward=-0.5, temperature=1.0
  )
  close(loss, [[-0.75 * np.log(0.75) + 0.125 * np.log(0.25)]])


@pytest.mark.parametrize('wrong_reward', [0.0, -0.5])
def test_otr_exact_at_temperature_one_is_a_multiple_of_dft(wrong_reward):
  z = jnp.array([[[0.3, -1.0, 2.0]]])
  gather = lambda x: jax.nn.log_softmax(x)[..., 1]

  def ours(x):
    record = signals(gather(x), logits=x)
    return supervised.otr_exact(
      record, ONE, wrong_reward=wrong_reward, temperature=1.0
    )[0].sum()

  plain = lambda x: supervised.dft(signals(gather(x)), ONE)[0].sum()
  expected = (1 - wrong_reward) * jax.jit(jax.grad(plain))(z)
  close(jax.jit(jax.grad(ours))(z), expected)


def test_otr_samples_agree_with_the_expectation(key):
  logits = jnp.log(jnp.array([[[5.0, 3.0, 2.0, 0.0]]]))  # the last: never
  tokens = jnp.array([[1]])
  record = one(0.3, logits=logits)
  hparams = {'wrong_reward': -0.2, 'temperature': 1.3}
  exact, expected = supervised.otr_exact(record, ONE, **hparams)
  sampled, metrics = supervised.otr(
    record, ONE, tokens=tokens, key=key, num_samples=20_000, **hparams
  )
  assert np.isfinite(sampled).all()
  # The standard error of a mean of 20k numbers in [-0.4, 1.3] is < 0.006.
  np.testing.assert_allclose(sampled, exact, atol=0.024)
  np.testing.assert_allclose(
    metrics['hit_rate'], expected['hit_rate'], atol=0.014
  )


def test_otr_reads_the_reward_by_token(key):
  # A certain token: always sampled, reward 1 or wrong_reward, loss -r log p.
  logits = jnp.array([[[60.0, 0.0]]])
  record = one(1.0, logits=logits)
  for token, hits in ((0, 1.0), (1, 0.0)):
    _, metrics = supervised.otr(
      record, ONE, tokens=jnp.array([[token]]), key=key
    )
    close(metrics['hit_rate'], [[hits]])
