"""Parts of the study of curricula, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.curricula import design, run, shown
from experiments.curricula.probe import Levels
from posttrain_jax import curricula
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import tasks as run_tasks

FULL = design.SCALES['full']


def _probe(each: int, part: str = 'test') -> Levels:
  return Levels(
    model=make_config('depth-1'),
    task=run_tasks.make_task(design.levels(design.EVEN)),
    each=each,
    heldout_fraction=0.125,
    temperature=1.0,
    part=part,
  )


def test_problems_of_the_probe_are_level_by_level():
  probe = _probe(4)
  examples = jax.jit(probe.problems)(jax.random.key(0))
  levels = np.repeat(np.arange(len(design.LEVELS)), 4)
  np.testing.assert_array_equal(examples.answer['task'], levels)
  digits = np.asarray(examples.prompt_mask).sum(1) / 2
  np.testing.assert_array_equal(digits, np.array(design.LEVELS)[levels])
  assert len(set(np.asarray(examples.prompt_id).tolist())) == len(levels)


def test_the_probe_says_how_right_each_level_is():
  probe = _probe(4)
  params = transformer.init(jax.random.key(1), probe.model)
  found = jax.jit(probe)(params, None, jax.random.key(0))
  assert found['accuracy/problems'].shape == (len(design.LEVELS), 4)
  np.testing.assert_allclose(
    found['accuracy'], found['accuracy/problems'].mean(1)
  )


def test_an_arm_of_floor_alone_draws_evenly():
  numbers = {
    key.removeprefix('curriculum.'): value
    for key, value in design.WAYS['uniform'].hparams
  }
  made = curricula.bandit(**numbers)
  state = {'mean': jnp.array([0.9, 0.1, 0.0])}
  np.testing.assert_allclose(made.weights(state), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize('name', design.WAYS)
def test_numbers_of_a_way_are_of_its_config(name):
  way = design.WAYS[name]
  config = run.arm_config(way.program, FULL)
  known = config_lib.flatten(config.to_dict())
  assert {design.RATE, *dict(way.hparams)} <= known.keys()
  own = design.PROGRAMS[way.program]
  assert config.curriculum.name == (own.curriculum or 'none')
  # In the order of levels, though configs sort their parts by name.
  parts = list(config.task.parts.to_dict().values())
  assert tuple(x['count'] for x in parts) == design.LEVELS
  assert tuple(x['weight'] for x in parts) == own.weights
  assert own.weights[-1] == 0.0, 'the last level is never drawn'
  assert (config.paradigm == 'sft') == (name == 'sft')


@pytest.mark.parametrize('scale', design.SCALES.values())
def test_a_grid_fills_the_programs_of_the_runs(scale):
  count = len(scale.tuning_seeds)
  assert scale.seeds % count == 0
  assert not set(scale.tuning_seeds) & set(range(scale.seeds))
  assert {'uniform', *design.BANDITS[:1]} <= set(scale.arms)


def test_claims_ask_of_arms_and_measures_that_there_are():
  known = {'base', design.BEST, *design.WAYS}
  for claim in design.CLAIMS:
    arms = {
      claim.arm,
      claim.against,
      *(a for c in claim.checks for a in c.arms),
    }
    assert arms <= known, claim.name
    what = {claim.measure, claim.moved, *(c.measure for c in claim.checks)}
    assert what <= design.STUDY.measures.keys(), claim.name


def test_values_are_of_the_level_that_gained_most():
  start = np.zeros((2, len(design.LEVELS), 4))
  right = start.copy()
  right[0, 1], right[1, 1, :2] = 1.0, 1.0  # gains 100 and 50 points
  right[:, 2, 0] = 1.0  # gains 25 on both
  values = run.values_of(right, start)
  np.testing.assert_allclose(values['gain'], [100.0, 50.0])
  np.testing.assert_allclose(values['accuracy'], [31.25, 18.75])
  np.testing.assert_allclose(values[design.measure_of(design.LEVELS[2])], 25.0)
  # The level that is never drawn is no part of what rates are chosen by.
  np.testing.assert_allclose(run.score(right), [1.25 / 3, 0.75 / 3])


def test_the_best_bandit_is_the_one_of_the_tuning_seeds():
  scores = {'uniform': 0.9, 'bandit': 0.4, 'bandit_sharp': 0.6}
  assert run.Tuning({}, {}, {}, scores).best == 'bandit_sharp'


def test_levels_that_are_drawn_have_chances():
  assert design.LEVELS[:-1] == shown.DRAWN
