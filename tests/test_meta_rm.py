"""A gradient that is taken one step ahead, and MetaRM's step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_collect import PLAN, PROBLEMS, WORLD
from test_tasks import quick_jit
from test_trainer_arrays import ROWS, batch_of, params, state
from test_trainer_preference import SCORER, close, scorer

from posttrain_jax.lab import alike
from posttrain_jax.losses import reward_model
from posttrain_jax.models import heads
from posttrain_jax.run import accounting, build
from posttrain_jax.run import config as config_lib
from posttrain_jax.trainers import meta, preference, update
from posttrain_jax.trainers.objective import Ahead, Objective

__all__ = ['params', 'scorer', 'state']  # fixtures

SPEC = 'configs/preference.py:recipe=meta_rm'


def load(spec=SPEC, *items):
  return config_lib.load(spec, items)


def toy(value, ahead=None):
  """A mean over rows of value(x, row's first token)."""

  def evaluate(params, state, batch):
    rows = jax.vmap(lambda t: value(params['x'], t))(batch.tokens[:, 0] * 1.0)
    return {'all': jnp.sum(rows)}, {}

  count = lambda batch: {'all': jnp.float32(batch.tokens.shape[0])}
  return Objective(evaluate, count, {'all': 1.0}, ahead=ahead)


@pytest.mark.parametrize('rows', [0, 2])
@pytest.mark.parametrize('rate', [0.5, -0.25, 0.0])
def test_any_loss_may_look_ahead_by_hand(rate, rows, state):
  up = toy(lambda x, token: 1.5 * x**2)  # its gradient is 3 x
  goal = toy(lambda x, token: (x - token) ** 2, Ahead(up, rate, 'up'))
  batch = batch_of()
  start = {'x': jnp.float32(2.0)}
  grads, metrics = update.make_gradient(goal, rows)(
    start, state.replace(params=start), batch
  )
  there = 2.0 + rate * 6.0
  mean = np.mean(np.asarray(batch.tokens[:, 0], np.float64))
  np.testing.assert_allclose(grads['x'], 2 * (there - mean), rtol=1e-6)
  np.testing.assert_allclose(metrics['up/value'], 6.0, rtol=1e-6)
  np.testing.assert_allclose(metrics['up/grad_norm'], 6.0, rtol=1e-6)


def answers_of(seed, count):
  """[ROWS, n] answers beside the rows of pairs, `count` to each problem."""
  rows = [batch_of(seed + i) for i in range(ROWS // 2)]
  take = lambda *x: jnp.stack([a[:count] for a in x])
  grouped = jax.tree.map(take, *rows).replace(extras={})
  room = -(-count // 2)
  index = jnp.minimum(jnp.arange(2 * room), count - 1)
  lay = lambda x: x[:, index].reshape(ROWS, room, *x.shape[2:])
  return grouped, jax.tree.map(lay, grouped)


def difference(params, grouped):
  """The mean difference of scores, of each answer alone."""
  scores = []
  for problem in range(ROWS // 2):
    one = jax.tree.map(lambda x, i=problem: x[i], grouped)
    scores.append(
      heads.sequence_values(
        params, SCORER, one.tokens, one.mask,
        positions=one.positions, segment_ids=one.segment_ids,
      )
    )  # fmt: skip
  return jnp.mean(reward_model.meta_difference(jnp.stack(scores)))


@pytest.mark.long
@pytest.mark.parametrize('count', [3, 4])
def test_the_gradient_is_that_of_the_pairs_one_step_up(count, scorer, state):
  c = load(SPEC, ('meta.answers', str(count)), ('meta.rate', '0.3'))
  plain = load('configs/preference.py:recipe=reward_model')
  make = lambda c, rows: quick_jit(
    update.make_gradient(preference.make_objective(c, {'policy': SCORER}), rows)
  )
  grouped, laid = answers_of(10, count)
  batch = batch_of()
  batch = batch.replace(extras={**batch.extras, 'meta': laid})
  state = state.replace(params=scorer)
  found = make(c, 0)(scorer, state, batch)
  value, up = quick_jit(jax.value_and_grad(difference))(scorer, grouped)
  moved = jax.tree.map(lambda x, g: x + 0.3 * g, scorer, up)
  pairs = make(plain, 0)
  expected, here = (pairs(x, state, batch) for x in (moved, scorer))
  close(found[0], expected[0], 1e-4)
  np.testing.assert_allclose(found[1]['meta/value'], value, rtol=1e-4)
  np.testing.assert_allclose(found[1]['loss'], expected[1]['loss'], rtol=1e-3)
  # It is another gradient than that of the pairs where the model is.
  apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), found[0], here[0])
  assert max(jax.tree.leaves(apart)) > 1e-3
  close(found, make(c, 4)(scorer, state, batch), 1e-4)


@pytest.mark.parametrize('count', [2, 3])
def test_answers_are_laid_beside_the_pairs_of_their_step(count):
  order = jnp.arange(PROBLEMS)
  setting = dataclasses.replace(WORLD, plan=jnp.array(PLAN), order=order)
  draw = meta.make_draw(load(SPEC, ('meta.answers', str(count))))
  rows = quick_jit(lambda key: draw(setting, None, key)[0]['meta'])(
    jax.random.key(0)
  )
  room = -(-count // 2)
  assert rows.tokens.shape[:2] == (2 * PROBLEMS, room)
  counted = np.asarray(rows.mask).reshape(PROBLEMS, 2 * room, -1).sum(-1)
  # Of sums of one digit an answer has its end, and one digit or two before.
  empty = np.array(PLAN)[:, :count] == 3
  assert np.all((counted[:, :count] == 1) == empty)
  np.testing.assert_array_equal(
    counted[:, count:], counted[:, count - 1 : 2 * room - 1]
  )


@pytest.mark.parametrize(
  'spec, items, message',
  [
    ('configs/preference.py:recipe=dpo', [('meta.rate', '0.1')],
     'meta.rate=0.1 is for reward models, not for loss "dpo"'),
    (f'{SPEC},data=jsonl', [], 'the rows are of a file'),
    (SPEC, [('optimizer.freeze', 'embed')], 'leave optimizer.freeze='),
    (SPEC, [('meta.sampler', 'policy')], 'is no model that answers beside'),
    (SPEC, [('meta.sampler', 'acter'), ('others.actor', 'x')],
     'unknown config key "others.actor". Did you mean "others.acter"'),
    (SPEC, [('meta.sampler', 'actor')], 'is no model that answers beside'),
  ],
)  # fmt: skip
def test_what_cannot_work_is_refused(spec, items, message):
  with pytest.raises(ValueError, match=message):
    preference.check(load(spec, *items))


def test_what_the_step_ahead_costs_is_counted():
  """Four answers to each of 16 problems: written once, read three times."""

  def cost(recipe):
    c = load(
      f'configs/preference.py:recipe={recipe}', ('prompts_per_step', '16'),
      ('model.preset', 'depth-1'),
    )  # fmt: skip
    run = build.build(c)
    row = accounting.forward_flops(run.model, 1, run.sizes.row_tokens)
    return accounting.step_flops(c, run.model, run.sizes, run.models) / row

  # The plain one holds no reference either: `ref` answers for both.
  assert cost('meta_rm') - cost('reward_model') == pytest.approx(4 * 16 * 4)


def test_stages_without_it_stay_what_they_were():
  """What is off is no key of a stage that is there already."""
  later = ('meta.', 'partner.', 'strength', 'flip_fraction', 'collect.noise')
  for spec in ('configs/preference.py:recipe=reward_model', 'configs/rl.py'):
    keys = alike.learns(config_lib.load(spec))
    assert not [key for key in keys if key.startswith(later)]
  on = config_lib.load('configs/preference.py:recipe=meta_rm')
  assert 'meta.rate' in alike.learns(on)
