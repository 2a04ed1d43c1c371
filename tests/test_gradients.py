"""Gradients of parts of a loss: what controllers read, and what it leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipe_runs

from configs import recipes
from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.trainers import gradients, update
from posttrain_jax.trainers.objective import Objective
from posttrain_jax.trainers.rl import objective, steering

ROWS = 6
X = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
W = np.array([0.5, -1.0, 2.0], np.float32)
TOWARD = {'w': jnp.array([1.0, 2.0, -1.0])}
READS = frozenset(
  {'grad_norm/sft', 'grad_norm/rl', 'grad_norm/valid', 'grad_dot/rl/sft',
   'grad_dot/rl/valid', 'grad_dot/sft/valid'}
)  # fmt: skip
SHARE = 0.3


def batch():
  ids = jnp.ones((ROWS, 1), jnp.int32)
  return Batch(
    tokens=ids,
    mask=jnp.ones((ROWS, 1)),
    segment_ids=ids,
    positions=ids,
    extras={'x': jnp.asarray(X)},
  )


def state():
  return TrainState(
    step=jnp.int32(0),
    params={'w': jnp.asarray(W)},
    opt_state=optax.sgd(0.1).init({'w': jnp.asarray(W)}),
    ref_params=None,
    others={},
    control={'share': jnp.float32(SHARE)},
  )


def goal(reads=READS):
  """Sums of squares, of cubes and of sines, over all rows or over half."""

  def evaluate(params, state, rows):
    del state
    z = rows.extras['x'] @ params['w']
    sums = {
      'policy': jnp.sum(z**2),
      'kl': jnp.sum(jnp.sin(z)),
      'sft': jnp.sum(z**3),
    }
    return sums, {'z': (jax.lax.stop_gradient(z)[:, None], rows.mask)}

  def count(rows):
    size = jnp.float32(rows.tokens.shape[0])
    return {'policy': size, 'kl': 2 * size, 'sft': size / 2}

  share = lambda state: state.control['share']
  rest = lambda state: 1.0 - share(state)
  one = lambda state: 1.0
  tenth = lambda state: 0.1
  coefs = {
    'policy': rest,
    'kl': lambda state: 0.1 * rest(state),
    'sft': share,
  }
  parts = gradients.Parts(
    {'sft': (share, {'sft': one}), 'rl': (rest, {'policy': one, 'kl': tenth})},
    reads,
  )
  return Objective(evaluate, count, coefs, parts=parts)


def by_hand():
  """Gradients of the parts, and what is read of them."""
  z = X.astype(np.float64) @ W
  rl = 2 * z @ X / ROWS + 0.1 * np.cos(z) @ X / (2 * ROWS)
  sft = 3 * z**2 @ X / (ROWS / 2)
  known = {'rl': rl, 'sft': sft, 'valid': np.asarray(TOWARD['w'])}
  read = {}
  for name in READS:
    kind, *named = name.split('/')
    first = known[named[0]]
    read[name] = (
      np.linalg.norm(first) if kind == 'grad_norm' else first @ known[named[1]]
    )
  return SHARE * sft + (1 - SHARE) * rl, read


@pytest.mark.parametrize('size', [0, 2])
def test_what_is_read_is_of_the_parts_and_the_gradient_is_of_the_whole(size):
  found, metrics = update.make_gradient(goal(), size)(
    state().params, state(), batch(), toward=TOWARD
  )
  expected, read = by_hand()
  np.testing.assert_allclose(found['w'], expected, rtol=1e-5)
  for name in READS:
    np.testing.assert_allclose(metrics[name], read[name], rtol=1e-5)
  plain = dataclasses.replace(goal(), parts=None)
  whole, others = update.make_gradient(plain, size)(
    state().params, state(), batch()
  )
  np.testing.assert_allclose(whole['w'], found['w'], rtol=1e-5)
  assert set(metrics) - set(others) == READS
  for name, x in others.items():
    np.testing.assert_allclose(metrics[name], x, rtol=1e-5)


def test_a_step_reads_them_of_its_minibatches():
  class Sizes:
    minibatch_rows, microbatch_rows = 3, 0
    updates_per_rollout, group_size = 1, 1

  still = optax.sgd(0.0)
  before = state().replace(opt_state=still.init(state().params))
  _, metrics = update.make_update(goal(), still, Sizes)(
    before, batch(), jax.random.key(0), toward=TOWARD
  )
  z = X.astype(np.float64) @ W
  halves = [3 * z[i] ** 2 @ X[i] / 1.5 for i in (slice(3), slice(3, 6))]
  norms = [np.linalg.norm(x) for x in halves]
  np.testing.assert_allclose(
    metrics['grad_norm/sft'], np.mean(norms), rtol=1e-5
  )


def test_a_gradient_from_outside_has_to_be_given():
  take = update.make_gradient(goal(), 0)
  with pytest.raises(ValueError, match='reads the gradient of "valid"'):
    take(state().params, state(), batch())
  alone = update.make_gradient(goal(frozenset({'grad_norm/sft'})), 0)
  _, metrics = alone(state().params, state(), batch())
  assert [name for name in metrics if name.startswith('grad_')] == [
    'grad_norm/sft'
  ]


@pytest.mark.parametrize(
  'name', ['grad_norm/kl', 'grad_dot/sft/rl', 'grad_dot/rl', 'grad_cos/rl/sft']
)
def test_a_gradient_that_nobody_knows_is_named(name):
  with pytest.raises(ValueError, match=f'reads "{name}"; gradients are known'):
    goal(frozenset({name}))


def test_no_other_recipe_takes_gradients_apart():
  """One backward pass, as long as nothing asks for more."""
  apart = []
  for name in recipes.RL:
    c = recipe_runs.load('rl', name)
    if steering.gradients_read(c):
      apart.append(name)
    else:
      _, parts = objective._shared_out(c, objective._terms_of(c))
      assert parts is None, name
  assert apart == ['sasr', 'amft']
