"""References that move; preference rows under any split; reward models."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from test_collect import MODEL
from test_tasks import quick_jit
from test_trainer_arrays import MODELS, ROWS, batch_of, direct, params, state

from posttrain_jax import token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.core.types import TrainState
from posttrain_jax.losses import preference as preference_room
from posttrain_jax.losses import reduce, reward_model, supervised
from posttrain_jax.models import heads, transformer
from posttrain_jax.trainers import preference, sft, step, update

__all__ = ['params', 'state']  # fixtures


def after(steps, ref, policies):
  """References after each step of a run whose policies are these numbers."""
  refresh = jax.jit(step.make_refresh(*steps))
  out, ref = [], {'w': jnp.float32(ref)}
  for index, policy in enumerate(policies):
    before = TrainState(
      jnp.int32(index + 1), {'w': jnp.float32(policy)}, (), ref_params=ref
    )
    now = refresh(before)
    assert now.params == before.params and now.step == before.step
    ref = now.ref_params
    out.append(float(ref['w']))
  return out


def test_references_move_by_hand():
  policies = [1.0, 2.0, 3.0, 4.0, 5.0]
  assert after((2, 1.0), 0.0, policies) == [0, 2, 2, 4, 4]
  assert after((2, 0.5), 0.0, policies) == [0, 1, 1, 2.5, 2.5]
  assert after((1, 0.25), 0.0, policies[:2]) == [0.25, 0.6875]
  assert after((0, 1.0), 0.0, policies) == [0] * 5
  # A whole replacement is exact: 0.1 + (0.7 - 0.1) is not 0.7.
  assert after((1, 1.0), 0.1, [0.7]) == [float(np.float32(0.7))]


def test_a_reference_keeps_its_type_and_may_be_absent():
  refresh = step.make_refresh(1, 0.5)
  ref = {'w': jnp.zeros(2, jnp.bfloat16)}
  both = TrainState(jnp.int32(1), {'w': jnp.ones(2)}, (), ref_params=ref)
  moved = refresh(both).ref_params['w']
  assert moved.dtype == jnp.bfloat16
  np.testing.assert_array_equal(moved.astype(jnp.float32), 0.5)
  assert refresh(both.replace(ref_params=None)).ref_params is None


def config_of(room, name, nll_coef=0.0, **hparams):
  return ml_collections.ConfigDict(
    {'loss': part(room, name, **hparams), 'nll_coef': nll_coef}
  )


def prepared(params):
  batch = batch_of()
  extras = {
    'scores': batch.extras['scores'],
    'correct': jnp.array([1.0, 0, 1, 1, 0, 0, 0, 1]),
    'mismatched': batch_of(1),
    'shift': jnp.full((ROWS,), 0.1),
  }
  ref = jnp.asarray(direct(params['ref'], batch), jnp.float32)
  return batch.replace(ref_logps=ref, extras=extras)


def close(a, b, tolerance=2e-5):
  compare = lambda x, y: np.testing.assert_allclose(
    x, y, rtol=10 * tolerance, atol=tolerance
  )
  jax.tree.map(compare, a, b)


@pytest.mark.parametrize(
  'name, nll_coef', [('dpo', 0.0), ('simpo', 0.5), ('bco', 0.0)]
)
def test_microbatches_change_nothing(name, nll_coef, params, state):
  config = config_of(preference_room, name, nll_coef)
  goal = preference.make_objective(config, MODELS)
  batch = prepared(params)
  gradient = lambda rows: quick_jit(update.make_gradient(goal, rows))(
    state.params, state, batch
  )
  whole, parts = gradient(0), gradient(2)
  close(whole, parts)
  assert np.abs(whole[0]['embed']['tokens']).max() > 1e-3
  assert ('loss/nll' in whole[1]) == bool(nll_coef)


def test_dpo_with_nll_is_the_sum_of_its_terms(params, state):
  config = config_of(preference_room, 'dpo', 0.5, beta=0.3)
  goal = preference.make_objective(config, MODELS)
  batch = prepared(params)
  _, metrics = quick_jit(update.make_gradient(goal, 0))(
    state.params, state, batch
  )
  logps = direct(params['policy'], batch)
  rho = (logps - np.asarray(batch.ref_logps)).sum(axis=1)
  gap = 0.3 * (rho[::2] - rho[1::2])
  live = [0, 1, 3]  # pair 2 has an empty side
  pairs = np.log1p(np.exp(-gap[live])).mean()
  # Cross-entropy is a mean over the chosen tokens.
  nll = -logps[::2].sum() / batch.mask[::2].sum()
  np.testing.assert_allclose(metrics['loss/preference'], pairs, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss/nll'], nll, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss'], pairs + 0.5 * nll, rtol=1e-4)
  np.testing.assert_allclose(
    metrics['logps/chosen'], logps[::2].sum(axis=1)[live].mean(), rtol=1e-4
  )


def test_kto_compares_with_the_mismatched_answers(params, state):
  goal = preference.make_objective(
    config_of(preference_room, 'kto', beta=0.5), MODELS
  )
  batch = prepared(params)
  gradient = quick_jit(update.make_gradient(goal, 0))
  _, metrics = gradient(state.params, state, batch)
  rho = (direct(params['policy'], batch) - batch.ref_logps).sum(axis=1)
  other = batch.extras['mismatched']
  gap = direct(params['policy'], other) - direct(params['ref'], other)
  live = np.asarray(batch.mask.any(axis=1))
  z0 = max(0.0, gap.sum(axis=1)[live].mean())
  sign = np.where(batch.extras['correct'] > 0, 1, -1)
  losses = 1 / (1 + np.exp(sign * 0.5 * (rho - z0)))
  np.testing.assert_allclose(metrics['loss'], losses[live].mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics['kl'], z0, rtol=1e-3, atol=1e-5)
  desirable = np.asarray(batch.extras['correct'])[live].mean()
  np.testing.assert_allclose(metrics['frac_desirable'], desirable, rtol=1e-6)
  # Rows of padding behind change nothing.
  empty = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), batch)
  close(
    gradient(state.params, state, batch), gradient(state.params, state, empty)
  )


def test_bco_shifts_by_the_mean_of_all_rewards(params, state):
  config = config_of(preference_room, 'bco', beta=0.3)
  carry = preference.controllers(config)['shift']
  first, second = prepared(params), prepared(params)
  # The second step's answers are others, and row 0 is padding there.
  second = second.replace(mask=second.mask.at[0].set(0.0))
  control, seen = carry.init(), []
  for batch, slope in ((first, 1.0), (second, 2.0)):
    batch = batch.replace(old_logps=batch.ref_logps + slope * batch.mask)
    lengths = np.asarray(batch.mask.sum(axis=1))
    seen += list(0.3 * slope * lengths[lengths > 0])
    batch, control, metrics = carry.enter(control, batch, None)
    np.testing.assert_allclose(batch.extras['shift'], np.mean(seen), rtol=1e-5)
    np.testing.assert_allclose(
      metrics['rewards/shift'], np.mean(seen), rtol=1e-5
    )
  assert int(control['count']) == len(seen)
  assert len(seen) == 2 * 7 - 1  # one row is padding in both
  for name in set(preference_room.__all__) - set(preference_room.RUNNING):
    named = {'loss': {'name': name}}
    assert preference.controllers(ml_collections.ConfigDict(named)) == {}


def test_bco_learns_against_its_shift(params, state):
  config = config_of(preference_room, 'bco', beta=0.3)
  goal = preference.make_objective(config, MODELS)
  batch = prepared(params)
  gradient = quick_jit(update.make_gradient(goal, 0))
  _, metrics = gradient(state.params, state, batch)
  rho = (direct(params['policy'], batch) - batch.ref_logps).sum(axis=1)
  sign = np.where(batch.extras['correct'] > 0, 1, -1)
  live = np.asarray(batch.mask.any(axis=1))
  losses = np.log1p(np.exp(-sign * (0.3 * rho - 0.1)))[live]
  np.testing.assert_allclose(metrics['loss'], losses.mean(), rtol=1e-4)


# ---- Reward models.

SCORER = dataclasses.replace(MODEL, value_head=True)


@pytest.fixture(scope='module')
def scorer(params):
  kernel = jax.random.normal(jax.random.key(7), (MODEL.width,))
  head = {'kernel': kernel, 'bias': jnp.float32(0.5)}
  assert set(transformer.init(jax.random.key(0), SCORER)['value_head']) == set(
    head
  )
  return {**params['policy'], 'value_head': head}


@quick_jit
def states_alone(scorer, row):
  return transformer.hidden_states(scorer, SCORER, row)[0]


def direct_values(scorer, batch):
  """Value after the last counted token, of each row alone."""
  out = []
  for tokens, mask in zip(batch.tokens, np.asarray(batch.mask)):
    counted = np.flatnonzero(mask)
    if not counted.size:
      out.append(0.0)
      continue
    hidden = np.asarray(states_alone(scorer, tokens[None]))
    head = jax.tree.map(np.asarray, scorer['value_head'])
    out.append(float(hidden[0, counted[-1]] @ head['kernel'] + head['bias']))
  return np.array(out)


def test_sequence_values_are_those_after_the_last_counted_token(scorer):
  batch = batch_of()
  values = quick_jit(
    lambda params, batch: heads.sequence_values(
      params, SCORER, batch.tokens, batch.mask,
      positions=batch.positions, segment_ids=batch.segment_ids,
    )
  )(scorer, batch)  # fmt: skip
  expected = direct_values(scorer, batch)
  assert expected[5] == 0.0 and len(set(expected)) == ROWS
  np.testing.assert_allclose(values, expected, atol=1e-4)
  with pytest.raises(ValueError, match='no value head'):
    heads.sequence_values(scorer, MODEL, batch.tokens, batch.mask)


def test_an_adversary_learns_where_its_reward_is_read(scorer, state):
  """Its loss on last tokens alone is that of `sequence_values`."""
  batch = batch_of()
  columns = jnp.arange(batch.mask.shape[1])[None]
  last = jnp.max(jnp.where(batch.mask > 0, columns, -1), axis=1, keepdims=True)
  expert = jnp.arange(ROWS) % 2
  batch = batch.replace(
    mask=jnp.where(columns == last, batch.mask, 0.0),
    extras={'expert': expert.astype(jnp.float32)},
  )
  config = config_of(supervised, 'irl_discriminator')
  config.weights = part(token_weights, 'uniform')
  config.reduce = part(reduce, 'sequence_sum')
  goal = sft.make_objective(config, {'policy': SCORER}, ('expert',))
  found, _ = quick_jit(goal.evaluate)(scorer, state, batch)
  logits, counted = direct_values(scorer, batch), np.any(batch.mask, axis=1)
  target = np.where(expert, 0.9, 0.1)
  loss = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(
    0, logits
  )
  assert 2 < counted.sum() < ROWS
  np.testing.assert_allclose(found['loss'], loss[counted].sum(), rtol=1e-5)


def test_a_reward_model_learns_from_live_pairs(scorer, state):
  goal = preference.make_objective(
    config_of(reward_model, 'bradley_terry'), {'policy': SCORER}
  )
  batch = batch_of()
  gradient = lambda rows: quick_jit(update.make_gradient(goal, rows))(
    scorer, state, batch
  )
  whole = gradient(0)
  values = direct_values(scorer, batch)
  gap = (values[::2] - values[1::2])[[0, 1, 3]]
  loss = np.log1p(np.exp(-gap)).mean()
  np.testing.assert_allclose(whole[1]['loss'], loss, rtol=1e-4)
  np.testing.assert_allclose(
    whole[1]['rewards/accuracies'], (gap > 0).mean(), rtol=1e-6
  )
  close(whole, gradient(4))
  # The bias cancels in every pair.
  np.testing.assert_allclose(whole[0]['value_head']['bias'], 0.0, atol=1e-6)


def test_nll_is_for_pairs():
  for room, name in ((preference_room, 'kto'), (reward_model, 'bradley_terry')):
    with pytest.raises(ValueError, match='nll_coef=0.5 is for losses on pairs'):
      preference.make_objective(config_of(room, name, 0.5), MODELS)
