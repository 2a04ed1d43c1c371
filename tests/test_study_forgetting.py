"""Parts of the study of forgetting, by hand."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.forgetting import (
  design,
  frontier,
  run,
  sequence,
  setting,
  shown,
)
from posttrain_jax import lab
from posttrain_jax.run import accounting


def point(new, kept, test_new=None, test_kept=None):
  """Shares of right answers in %, of two seeds alike."""
  of = lambda x: np.tile((np.arange(100) < x).astype(float), (2, 1))
  return frontier.Point(
    '',
    {'validation': of(new), 'test': of(new if test_new is None else test_new)},
    {'validation': of(kept),
     'test': of(kept if test_kept is None else test_kept)},
  )  # fmt: skip


def test_the_hull_by_hand():
  # The base, one on the hull, one below it, one that lost ground, the last.
  gain = np.array([0.0, 10.0, 15.0, -5.0, 20.0])
  kept = np.array([90.0, 88.0, 70.0, 95.0, 60.0])
  assert frontier.hull(gain, kept) == [0, 1, 4]
  # As far with less kept, and a straight line: the corner between is left out.
  assert frontier.hull(np.array([0, 10, 10.0]), np.array([9, 5, 7.0])) == [0, 2]
  assert frontier.hull(np.array([0, 1, 2.0]), np.array([9, 8, 7.0])) == [0, 2]
  assert frontier.hull(np.array([0, -1.0]), np.array([9, 9.0])) == [0]


def test_an_arm_at_a_gain_lies_between_the_points_around_it():
  gain, kept = np.array([0.0, 10, 20]), np.array([90.0, 88, 60])
  found = lambda at: frontier.weights_at(gain, kept, at).tolist()
  assert found(12.5) == [0.0, 0.75, 0.25]
  assert found(5.0) == [0.5, 0.5, 0.0]
  assert found(20.0) == [0.0, 0.0, 1.0]
  assert found(25.0) == [0.0, 0.0, 1.0]  # it never gets there


def test_validation_chooses_and_test_problems_tell():
  """A point that was lucky on validation problems earns nothing by it."""
  base = point(30, 90)
  points = [base, point(40, 89, test_new=38, test_kept=80), point(50, 60)]
  found = frontier.mixed(points, 15.0)
  # Half of each of the two points; on test problems 8 and 20 points.
  np.testing.assert_allclose(100 * found['kept'].mean(1), [70.0, 70.0])
  np.testing.assert_allclose(found['gain'], [14.0, 14.0])
  np.testing.assert_allclose(found['most'], [20.0, 20.0])
  assert set(np.unique(found['kept'].round(6))) == {0.0, 0.5, 1.0}


def test_rank_correlation_by_hand():
  correlation = frontier.rank_correlation
  assert correlation([1, 2, 30], [4, 5, 6]) == pytest.approx(1.0)
  assert correlation([1, 2, 3], [6, 5, 5]) == pytest.approx(-np.sqrt(0.75))
  assert correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
  assert np.isnan(correlation([1, 1], [1, 2]))


EVERY_STAGE = [
  *((arm, way.task) for arm, way in design.WAYS.items() if way.spec),
  *((arm, 'far') for arm in design.IN_TURN),
]


@pytest.mark.parametrize('arm, task', EVERY_STAGE)
@pytest.mark.parametrize('mode', design.SCALES)
def test_every_stage_takes_the_same_rows_and_updates(arm, task, mode):
  scale = design.SCALES[mode]
  config = setting.arm_config(arm, scale, task)
  assert {**config.task, **design.EVERY[task]} == config.task.to_dict()
  rows = config.prompts_per_step * config.get('group_size', 1)
  updates = rows // (config.minibatch_rows or rows)
  assert updates == design.WAYS[arm].updates
  assert rows == scale.rows * updates
  assert config.num_steps * updates == scale.steps
  for step, at in zip(setting.snapshots_of(arm, scale), scale.snapshots):
    assert step * updates == at and 0 < step < config.num_steps


def test_models_are_blended_and_kept(tmp_path):
  """WiSE-FT: a quarter of the way, seed by seed."""
  start = {'a': {'b': np.zeros((2, 3), np.float32)}}
  end = {'a': {'b': np.array([[4.0] * 3, [8.0] * 3], np.float32)}}
  runs = types.SimpleNamespace(workdir=tmp_path)
  of = lambda params, name: types.SimpleNamespace(params=params, digest=name)
  stage = lab.Trained(
    'sft', None, {}, (), {}, 'sft', '', 0.0, tmp_path / 'x', {}
  )

  class Kept(lab.Trained):
    params = end

  kept = Kept(**{x.name: getattr(stage, x.name)
                 for x in dataclasses.fields(stage)})  # fmt: skip
  made = setting.blend(runs, of(start, 'base'), kept, 0.25)
  assert made.digest == 'sft-wise-0.25'
  found = lab.Trained.params.fget(made)['a']['b']
  np.testing.assert_array_equal(found, [[1.0] * 3, [2.0] * 3])


def test_small_and_large_rates_are_halves_of_sft():
  base = point(30, 90)
  points = {1e-4: [point(35, 90)], 1e-3: [point(50, 50)]}
  found = shown.Found(points, 1e-4, points[1e-4][0])
  made = shown.halves(found, base, 8.0, [])
  small, large = made['sft_small'].values, made['sft_large'].values
  np.testing.assert_allclose(small['most'], 5.0)
  np.testing.assert_allclose(small['matched'], 90.0)
  np.testing.assert_allclose(small['beyond'], -3.0)
  # 8 of 20 points: 60% of the base, 40% of what is left at the end.
  np.testing.assert_allclose(large['matched'], 74.0)
  np.testing.assert_allclose(large['off'], 0.0, atol=1e-9)
  # Three quarters of what both reach.
  other = shown.Found({1e-3: [point(42, 80)]}, 1e-3, point(42, 80))
  assert shown.equal_gain([found, other], base) == pytest.approx(9.0)
  assert len(found.along(base)) == 3


def test_claims_are_of_arms_and_measures_that_there_are():
  made = {
    'base',
    'base_far',
    'sft_small',
    'sft_large',
    'by_kl',
    'by_distance',
    'bar',
    'base_sequence',
    *design.SCALES['full'].arms,
    *(f'{x}_sequence' for x in design.SCALES['full'].sequence),
  }
  for claim in design.STUDY.claims:
    assert {claim.arm, claim.against} <= made
    assert claim.measure in design.STUDY.measures
    for check in claim.all_checks:
      assert set(check.arms) <= made and check.measure in design.STUDY.measures
  assert run.SCALES is design.SCALES


class Judge:
  """Knows what each stage answers: {stage: (near, far, kept)}, in %."""

  def __init__(self, known):
    self.known = known

  def point(self, stage, new):
    near, far, kept = self.known[stage.digest]
    return point(near if new == 'near' else far, kept)

  def right(self, stage, name, part):
    return self.point(stage, name).new[part]


def stage_of(digest):
  return lab.Trained(
    'x', None, {}, ({x: 1.0 for x in accounting.ITEMS},) * 2, {}, digest, '',
    0.0, None, {},
  )  # fmt: skip


def test_a_sequence_goes_on_from_its_own_models_at_their_rates():
  trained = []

  class Runs:
    def train(self, name, config, start, hparams):
      trained.append((name, config.task.num_numbers, start, hparams))
      return f'{start}, then far'

  tried = {3e-4: 'large', 1e-4: 'small'}
  made = sequence.follow(Runs(), design.SCALES['full'], 'grpo', tried)
  assert trained == [
    ('grpo-far', 3, 'small', {design.RATE: 1e-4}),
    ('grpo-far', 3, 'large', {design.RATE: 3e-4}),
  ]
  assert made == {1e-4: 'small, then far', 3e-4: 'large, then far'}


def test_a_sequence_is_compared_at_an_equal_gain_on_its_second_task():
  """SFT: 10 points of the first task lost at 12 gained, nothing below."""
  stages = {x: stage_of(x) for x in ('base', 's1', 's2', 'g1', 'g2')}
  judge = Judge(
    {'base': (40, 0, 80), 's1': (50, 0, 80), 's2': (30, 12, 70),
     'g1': (45, 0, 80), 'g2': (45, 8, 80)}
  )  # fmt: skip
  rate = 1e-4
  firsts = {'sft': {rate: stages['s1']}, 'grpo': {rate: stages['g1']}}
  lasts = {'sft': {rate: stages['s2']}, 'grpo': {rate: stages['g2']}}
  made = sequence.arms(judge, stages['base'], firsts, lasts)
  value = lambda arm, name: np.mean(made[f'{arm}_sequence'].values[name])
  # Three quarters of the 8 points that both reach; the base: (40 + 80) / 2.
  assert value('base', 'at') == pytest.approx(6.0)
  assert value('base', 'retention') == pytest.approx(60.0)
  assert value('sft', 'matched') == pytest.approx(60 - 10 * 6 / 12)
  assert value('grpo', 'matched') == pytest.approx(60 + 2.5 * 6 / 8)
  assert value('sft', 'off') == pytest.approx(0.0)
  assert value('sft', 'most') == pytest.approx(12.0)
  # From 50, once it was learned; what got better is no loss.
  assert value('sft', 'lost_of_best') == pytest.approx(20.0)
  assert value('grpo', 'lost_of_best') == pytest.approx(0.0)
  shown_of = sequence.figure(judge, stages['base'], firsts, lasts)
  assert shown_of['values'] == [
    [40, 0, 80], [50, 0, 80], [30, 12, 70], [45, 0, 80], [45, 8, 80],
  ]  # fmt: skip
  assert len(shown_of['rows']) == 5


def test_the_base_is_mixed_of_the_same_tasks_as_before():
  """The far task is a part of what the base saw: none of the base changed."""
  config = setting.base_config(design.SCALES['full'])
  far = config.task.parts.far
  assert (far.num_numbers, far.max_number, far.operators) == (3, 9, '+-*/')
  assert set(config.task.parts) == set(design.WEIGHTS)
