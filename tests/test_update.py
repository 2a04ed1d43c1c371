"""Updates: exact under any split of the rows, and what optax is asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from posttrain_jax.core.types import Batch, TokenSignals, TrainState
from posttrain_jax.losses import reduce
from posttrain_jax.trainers import arrays, objective, optim, update

ROWS, TOKENS = 8, 5


def batch_of(key):
  keys = jax.random.split(key, 3)
  lengths = jnp.array([5, 3, 1, 4, 0, 2, 5, 2])
  mask = (jnp.arange(TOKENS)[None] < lengths[:, None]).astype(jnp.float32)
  return Batch(
    tokens=jax.random.randint(keys[0], (ROWS, TOKENS), 0, 7),
    mask=mask,
    segment_ids=mask.astype(int),
    positions=jnp.zeros((ROWS, TOKENS), int),
    advantages=jax.random.normal(keys[1], (ROWS, TOKENS)),
  )


def make_evaluate(average):
  """Two terms whose value depends on the row: a stand-in for a model."""

  def evaluate(params, state, batch):
    del state
    table = params['table'][batch.tokens]
    terms = {'policy': table * batch.advantages, 'kl': jnp.square(table)}
    sums = {name: average(x, batch.mask)[0] for name, x in terms.items()}
    return sums, objective.with_mask({'entropy': jnp.sin(table)}, batch.mask)

  return evaluate


def make_goal(name):
  average = getattr(reduce, name)
  return objective.Objective(
    make_evaluate(average),
    objective.count_with(average, 'policy', 'kl'),
    {'policy': 1.0, 'kl': 0.3},
  )


GOAL = {
  name: make_goal(name)
  for name in ('token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length')
}
PARAMS = {'table': jnp.linspace(-1.0, 1.0, 7)}
STATE = TrainState(jnp.int32(0), PARAMS, ())


@pytest.mark.parametrize('name', GOAL)
@pytest.mark.parametrize('rows', [1, 2, 4])
def test_microbatches_change_nothing(name, rows, key):
  batch = batch_of(key)
  whole = jax.jit(update.make_gradient(GOAL[name], 0))(PARAMS, STATE, batch)
  parts = jax.jit(update.make_gradient(GOAL[name], rows))(PARAMS, STATE, batch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    whole, parts,
  )  # fmt: skip


def test_padding_rows_and_row_order_change_nothing(key):
  gradient = jax.jit(update.make_gradient(GOAL['sequence_mean'], 0))
  batch = batch_of(key)
  expected = gradient(PARAMS, STATE, batch)
  order = jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
  moved = jax.tree.map(lambda x: x[order], batch)
  padded = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), batch)
  for other in (moved, padded):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      gradient(PARAMS, STATE, other), expected,
    )  # fmt: skip


def test_an_empty_batch_moves_nothing(key):
  batch = batch_of(key)
  batch = batch.replace(mask=jnp.zeros_like(batch.mask))
  grads, metrics = update.make_gradient(GOAL['token_mean'], 0)(
    PARAMS, STATE, batch
  )
  np.testing.assert_array_equal(grads['table'], 0.0)
  assert metrics['loss'] == 0.0 and np.isfinite(metrics['entropy'])


def sizes(**changes):
  out = dict(
    minibatch_rows=ROWS, microbatch_rows=0, updates_per_rollout=1,
    group_size=1,
  )  # fmt: skip
  return ml_collections.ConfigDict({**out, **changes})


def run(batch, **changes):
  optimizer = optax.sgd(0.1)
  state = TrainState(jnp.int32(0), PARAMS, optimizer.init(PARAMS))
  change = update.make_update(GOAL['token_mean'], optimizer, sizes(**changes))
  return jax.jit(change)(state, batch, jax.random.key(5))


def test_minibatches_are_updates_in_turn(key):
  batch = batch_of(key)
  state, _ = run(batch, minibatch_rows=4)
  expected = PARAMS
  for start in (0, 4):
    part = jax.tree.map(lambda x, s=start: x[s : s + 4], batch)
    grads, _ = update.make_gradient(GOAL['token_mean'], 0)(
      expected, STATE, part
    )
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, expected, grads)
  np.testing.assert_allclose(
    state.params['table'], expected['table'], rtol=1e-5
  )
  assert state.step == 1


def test_later_passes_shuffle_whole_groups(key):
  seen = []

  evaluate = GOAL['token_mean'].evaluate

  def record(params, state, batch):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), batch.tokens[:, 0])
    return evaluate(params, state, batch)

  goal = dataclasses.replace(GOAL['token_mean'], evaluate=record)
  batch = batch_of(key)
  batch = batch.replace(
    tokens=jnp.broadcast_to(jnp.arange(ROWS)[:, None] % 7, (ROWS, TOKENS))
  )
  optimizer = optax.sgd(0.1)
  state = TrainState(jnp.int32(0), PARAMS, optimizer.init(PARAMS))
  change = update.make_update(
    goal, optimizer, sizes(updates_per_rollout=3, group_size=2)
  )
  jax.block_until_ready(jax.jit(change)(state, batch, jax.random.key(5)))
  jax.effects_barrier()
  orders = {tuple(x.tolist()) for x in seen}
  assert (0, 1, 2, 3, 4, 5, 6, 0) in orders
  assert len(orders) > 1
  for order in orders:  # rows 2i and 2i + 1 stay together
    pairs = {order[i : i + 2] for i in range(0, ROWS, 2)}
    assert pairs == {(0, 1), (2, 3), (4, 5), (6, 0)}


def optimizer_config(**changes):
  config = ml_collections.ConfigDict(
    dict(
      name='adamw', lr=0.1, schedule='constant', warmup_updates=0,
      warmup_ratio=0.0,
      final_fraction=0.0, weight_decay=0.0, l2_to_start=0.0, b1=0.9,
      b2=0.95, eps=1e-8,
      max_grad_norm=1.0, moments='params', freeze=(),
    )
  )  # fmt: skip
  config.update(changes)
  return config


TREE = {
  'layers': {'query': jnp.ones((2, 2)), 'mlp_norm': jnp.ones(2)},
  'embed': {'tokens': jnp.ones((3, 2))},
}


def one_update(**changes):
  optimizer = optim.make_optimizer(optimizer_config(**changes), TREE, 10)
  grads = jax.tree.map(jnp.ones_like, TREE)
  updates, _ = optimizer.update(grads, optimizer.init(TREE), TREE)
  return updates


def test_adam_by_hand():
  # The first Adam step is the sign of the gradient, whatever its size.
  jax.tree.map(
    lambda u: np.testing.assert_allclose(u, -0.1, rtol=1e-5), one_update()
  )


def test_weight_decay_spares_norms():
  updates = one_update(weight_decay=0.5)
  np.testing.assert_allclose(updates['layers']['mlp_norm'], -0.1, rtol=1e-5)
  np.testing.assert_allclose(updates['layers']['query'], -0.15, rtol=1e-5)


def test_the_pull_to_the_start_by_hand():
  """coef/2 |x - start|^2 with gradient 1 beside it, at rate 0.1: the first step
  is -0.1, the second -0.1 (1 + 0.5 * -0.1), and clipping sees the sum."""
  changes = dict(name='sgd', b1=0.0, max_grad_norm=0.0, l2_to_start=0.5)
  grads = jax.tree.map(jnp.ones_like, TREE)

  def two(**more):
    config = optimizer_config(**{**changes, **more})
    optimizer = optim.make_optimizer(config, TREE, 10)
    params, state, found = TREE, optimizer.init(TREE), []
    for _ in range(2):
      updates, state = optimizer.update(grads, state, params)
      params = jax.tree.map(jnp.add, params, updates)
      found.append(float(updates['layers']['query'][0, 0]))
    return found

  np.testing.assert_allclose(two(), [-0.1, -0.095], rtol=1e-6)
  clipped = -0.1 / np.sqrt(12)
  np.testing.assert_allclose(
    two(max_grad_norm=1.0, l2_to_start=1e4), [clipped, -clipped], rtol=1e-6
  )
  # Those that are frozen have no start.
  np.testing.assert_allclose(two(freeze=('embed/.*',)), two(), rtol=1e-6)


def test_frozen_parameters_do_not_move():
  updates = one_update(freeze=('embed/.*',), weight_decay=0.5)
  np.testing.assert_array_equal(updates['embed']['tokens'], 0.0)
  assert np.all(updates['layers']['query'] < 0)
  with pytest.raises(ValueError, match='matches no parameter.*layers/query'):
    one_update(freeze=('embd.*',))


def test_gradients_are_clipped_by_their_global_norm():
  # 12 ones: norm sqrt(12); clipped to 1 each is 1/sqrt(12).
  updates = one_update(name='sgd', b1=0.0)
  np.testing.assert_allclose(
    updates['layers']['query'], -0.1 / np.sqrt(12), rtol=1e-5
  )
  updates = one_update(name='sgd', b1=0.0, max_grad_norm=0.0)
  np.testing.assert_allclose(updates['layers']['query'], -0.1, rtol=1e-5)


@pytest.mark.parametrize(
  'schedule, expected',
  [
    ('constant', [0.5, 1, 1, 1, 1, 1]),
    ('linear', [0.5, 1, 1, 0.775, 0.55, 0.325]),
    ('cosine', [0.5, 1, 1, 0.868198, 0.55, 0.231802]),
  ],
)
def test_schedules_by_hand(schedule, expected):
  config = optimizer_config(
    schedule=schedule, warmup_updates=2, final_fraction=0.1
  )
  function = optim.make_schedule(config, 6)
  values = [float(function(count)) for count in range(6)]
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_warmup_as_a_share_of_the_run():
  # In place of the number, and rounded up.
  config = optimizer_config(warmup_updates=50, warmup_ratio=0.25)
  assert [optim.warmup_of(config, n) for n in (1, 4, 6, 100)] == [1, 1, 2, 25]
  rise = optim.make_schedule(config, 6)
  np.testing.assert_allclose([rise(i) for i in range(3)], [0.5, 1.0, 1.0])


def test_bad_optimizers_name_the_nearest():
  with pytest.raises(ValueError, match='Did you mean "adamw"'):
    one_update(name='adam')
  with pytest.raises(ValueError, match='Did you mean "cosine"'):
    one_update(schedule='cosin')
  with pytest.raises(ValueError, match='warmup_updates=11 is not in 0..10'):
    one_update(warmup_updates=11)


def test_signals_that_a_loss_reads_are_found():
  def loss(signals: TokenSignals, mask):
    return signals.logps * signals.logits.sum(-1) * mask, {}

  assert arrays.signals_read_by(loss) == {'logps', 'logits'}


def test_parts_that_need_other_arrays_are_refused():
  from posttrain_jax.losses import policy_gradient

  with pytest.raises(ValueError, match='needs the array "proximal_logps"'):
    objective.bind(policy_gradient, {'name': 'decoupled_ppo_clip'})
