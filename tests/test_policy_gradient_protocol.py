"""What is promised of policy-gradient losses: on-policy gradient, tracing."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_numpy_pg as reference

from posttrain_jax.core.resolve import hparams_of
from posttrain_jax.losses import policy_gradient, reduce

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
def test_signature_and_reference(name):
  loss = getattr(policy_gradient, name)
  positional = [
    p.name
    for p in inspect.signature(loss).parameters.values()
    if p.kind is p.POSITIONAL_OR_KEYWORD
  ]
  assert positional == ['logps', 'old_logps', 'advantages', 'mask']
  assert 'Reference: ' in loss.__doc__ and 'https://' in loss.__doc__
