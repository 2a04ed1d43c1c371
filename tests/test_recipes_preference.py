"""Every recipe of configs/preference.py and configs/distill.py trains."""

import numpy as np
import pytest
import recipe_runs

from configs import recipes
from posttrain_jax.run import accounting, build

QUICK = ('dpo', 'simpo', 'kto', 'reward_model', 'online_dpo', 'gkd')


def rows(names):
  return [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in names
  ]


@pytest.mark.parametrize('name', rows(recipes.PREFERENCE))
def test_the_loss_falls(name):
  found = recipe_runs.learn_on_one_batch('preference', name)
  assert found['loss'][-1] < found['loss'][0], found['loss']
  # DiscoPOP's loss is not monotone in the margin: from 0 it falls both ways.
  if 'rewards/margins' in found and name != 'discopop':
    margins = found['rewards/margins']
    assert margins[-1] > margins[0], margins


@pytest.mark.parametrize('name', rows(recipes.DISTILL))
def test_the_student_comes_closer_to_its_teacher(name):
  found = recipe_runs.learn_on_one_batch('distill', name)
  assert found['loss'][-1] < 0.8 * found['loss'][0], found['loss']


@pytest.mark.parametrize('name', rows(['online_dpo']))
def test_own_answers_get_better(name):
  found = recipe_runs.repeat_step(
    'preference', name, ('group_size', '8'), ('optimizer.lr', '1e-3')
  )
  assert found['reward'][-1] > found['reward'][0], found['reward']


@pytest.mark.slow
def test_spin_meets_its_last_iterate():
  found = recipe_runs.repeat_step(
    'preference', 'spin', ('ref.refresh_every', '4'), ('optimizer.lr', '2e-3')
  )
  # Every fourth step the opponent becomes the policy: margins start again at 0.
  margins = found['rewards/margins']
  np.testing.assert_allclose(margins[[0, 4]], 0.0, atol=1e-6)
  assert np.all(margins[[3, 7]] > 0.0)


def test_what_a_step_costs_counts_rows_and_frozen_models():
  c = recipe_runs.load('preference', 'dpo', *recipe_runs.SIZES)
  run = build.build(c)
  cost = accounting.step_flops(c, run.model, run.sizes, run.models)
  length = run.sizes.row_tokens
  # 32 rows trained and scored by the reference; 16 problems, 8 answers each.
  rows = accounting.forward_flops(run.model, 32, length)
  written = accounting.forward_flops(run.model, 16 * 8, length)
  assert cost == pytest.approx(3 * rows + rows + written)


@pytest.mark.parametrize('name, more', [('bco', 1), ('kto', 2)])
def test_what_is_scored_besides_is_counted(name, more):
  def cost(recipe):
    c = recipe_runs.load('preference', recipe, *recipe_runs.SIZES)
    run = build.build(c)
    row = accounting.forward_flops(run.model, run.sizes.rows,
                                   run.sizes.row_tokens)  # fmt: skip
    return accounting.step_flops(c, run.model, run.sizes, run.models) / row

  gap = cost(name) - cost('apo_zero_unpaired')
  assert gap == pytest.approx(more)
