"""MLPs of experts, against a loop over tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.models import experts, parameters
from posttrain_jax.models.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=8, num_layers=4, width=6, num_heads=1, num_kv_heads=1, head_dim=2,
  mlp_dim=4, num_experts=5, experts_per_token=2, expert_dim=3,
  dense_layers=(0, 2),
)  # fmt: skip
X = jax.random.normal(jax.random.key(1), (2, 4, 6))


def layer(key):
  """The parameters of one layer's experts; none chooses the last."""
  table = parameters.param_table(CONFIG)
  names = ('router', 'expert_gate', 'expert_up', 'expert_down')
  shapes = {name: table[f'layers/{name}'].shape[1:] for name in names}
  keys = jax.random.split(key, len(names))
  return {
    name: jax.random.normal(k, shapes[name]) for name, k in zip(names, keys)
  }


def by_hand(weights, x, normalise):
  """Token by token, expert by expert."""
  w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
  silu = lambda a: a / (1 + np.exp(-a))
  out = np.zeros_like(x, np.float64)
  for place in np.ndindex(x.shape[:2]):
    token = np.asarray(x[place], np.float64)
    scores = token @ w['router']
    shares = np.exp(scores) / np.exp(scores).sum()
    best = np.argsort(-shares)[: CONFIG.experts_per_token]
    total = shares[best].sum() if normalise else 1.0
    for e in best:
      inner = silu(token @ w['expert_gate'][e]) * (token @ w['expert_up'][e])
      out[place] += shares[e] / total * (inner @ w['expert_down'][e])
  return out


@pytest.mark.parametrize('normalise', [False, True])
def test_experts_by_hand(normalise):
  config = ModelConfig(**{**vars(CONFIG), 'norm_experts': normalise})
  weights = layer(jax.random.key(0))
  found = experts.mlp(weights, X, jax.nn.silu, config)
  np.testing.assert_allclose(found, by_hand(weights, X, normalise), atol=1e-5)
  _, chosen = experts.route(weights['router'], X.reshape(-1, 6), config)
  used = set(np.asarray(chosen).ravel().tolist())
  assert 1 < len(used) <= 5


def dense(weights, x):
  """All experts compute all tokens: exact, and so is its gradient."""
  shares = jax.nn.softmax(x @ weights['router'], axis=-1)
  least = jax.lax.top_k(shares, CONFIG.experts_per_token)[0][..., -1:]
  shares = jnp.where(shares >= least, shares, 0.0)
  inner = jax.nn.silu(jnp.einsum('btd,edx->btex', x, weights['expert_gate']))
  inner = inner * jnp.einsum('btd,edx->btex', x, weights['expert_up'])
  return jnp.einsum('btex,exd,bte->btd', inner, weights['expert_down'], shares)


def test_gradients_are_those_of_all_experts_computed():
  weights = layer(jax.random.key(0))
  sparse = lambda w, x: experts.mlp(w, x, jax.nn.silu, CONFIG)
  loss = lambda f: lambda w, x: jnp.sum(jnp.sin(f(w, x)))
  got = jax.grad(loss(sparse), argnums=(0, 1))(weights, X)
  expected = jax.grad(loss(dense), argnums=(0, 1))(weights, X)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
    assert np.any(b)


def test_seeds_side_by_side():
  """A sweep maps a run over seeds."""
  weights = jax.vmap(layer)(jax.random.split(jax.random.key(3), 2))
  run = functools.partial(
    experts.mlp, x_BTD=X, activation=jax.nn.silu, config=CONFIG
  )
  loss = lambda w: jnp.sum(jnp.sin(run(w)))
  both = jax.vmap(jax.value_and_grad(loss))(weights)
  for seed in range(2):
    one = jax.value_and_grad(loss)(
      jax.tree.map(lambda w, i=seed: w[i], weights)
    )
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one)):
      np.testing.assert_allclose(a[seed], b, atol=1e-5, rtol=1e-5)


def test_layers_of_two_kinds_are_held_apart():
  table = parameters.param_table(CONFIG)
  assert table['layers/gate'].shape == (2, 6, 4)
  assert table['layers/expert_gate'].shape == (2, 5, 6, 3)
  assert table['layers/query'].shape[0] == 4
  params = parameters.init(jax.random.key(0), CONFIG)
  split = parameters.unstack(params, CONFIG)['layers']
  assert ['router' in x for x in split] == [False, True, False, True]
  assert ['gate' in x for x in split] == [True, False, True, False]
  np.testing.assert_array_equal(
    split[3]['router'], params['layers']['router'][1]
  )
  np.testing.assert_array_equal(split[2]['up'], params['layers']['up'][1])
  # Of 5 experts of 3 * 6 * 3 numbers, 2 layers leave 3 unused each.
  unused = 2 * 3 * (3 * 6 * 3)
  assert (
    parameters.param_count(CONFIG) - parameters.active_param_count(CONFIG)
    == unused
  )


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(experts_per_token=0), r'experts_per_token=0 is not within 1\.\.'),
    (dict(experts_per_token=6), r'is not within 1\.\.num_experts=5'),
    (dict(expert_dim=0), 'expert_dim=0 is below 1'),
    (dict(gated=False), 'experts are gated'),
    (dict(dense_layers=[7]), 'dense_layers=.*no layer 7'),
  ],
)
def test_sizes_that_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    ModelConfig(**{**vars(CONFIG), **fields})
