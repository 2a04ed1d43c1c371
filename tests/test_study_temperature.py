"""Parts of the study of entropy that is held, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.temperature import design, run
from posttrain_jax import lab
from posttrain_jax.run import config as config_lib

FULL = design.SCALES['full']


def test_the_average_of_a_moving_weight_by_hand():
  # At 0, 1/4, 1/2 and 3/4 of the run.
  assert run.kl_average(0.0, 1.0, 0.5, 4) == pytest.approx(0.3125)
  assert run.kl_average(0.0, 1.0, 0.0, 4) == pytest.approx(0.375)
  assert run.kl_average(0.2, 0.2, 0.5, 4) == pytest.approx(0.2)


@pytest.mark.parametrize('scale', design.SCALES)
def test_schedules_of_a_kl_weight_have_one_average(scale):
  steps = design.SCALES[scale].steps
  shapes = []
  for arm, way in design.WAYS.items():
    if way.program != 'kl':
      continue
    low, high, turn = (
      run.hparams_of(arm, design.SCALES[scale])[f'kl_controller.{key}']
      for key in ('low', 'high', 'turn')
    )
    average = run.kl_average(low, high, turn, steps)
    assert average == pytest.approx(design.KL_AVERAGE, rel=1e-5)
    shapes.append((low, high, turn))
  assert len(set(shapes)) == len(shapes) >= 2


@pytest.mark.parametrize('program', design.PROGRAMS)
def test_arms_of_a_program_differ_in_numbers_that_it_has(program):
  known = config_lib.flatten(run.arm_config(program, FULL).to_dict())
  arms = [arm for arm, way in design.WAYS.items() if way.program == program]
  keys = {frozenset(run.hparams_of(arm, FULL)) for arm in arms}
  assert len(keys) == 1  # else it would be compiled for each
  assert keys.pop() <= known.keys()
  told = {
    (design.WAYS[arm].start, *run.hparams_of(arm, FULL).items()) for arm in arms
  }
  assert len(told) == len(arms)


def test_how_far_an_entropy_is_from_its_target_by_hand():
  entropy = np.array([[9.0, 9.0, 0.3, 0.5], [9.0, 9.0, 0.4, 0.5]])
  np.testing.assert_allclose(run.miss(entropy, 0.4), [25.0, 12.5])


def test_all_rates_of_a_seed_begin_from_one_start(monkeypatch):
  asked = []
  base = SimpleNamespace(snapshots={FULL.weak_steps: 'weak'})
  own = SimpleNamespace(seeds=FULL.base_seeds, train=lambda *args, **keys: base)
  monkeypatch.setattr(
    lab, 'shared', lambda runs, made, rows: asked.append(rows) or made
  )
  for seeds in ((100, 101) * 4, range(8)):
    runs = SimpleNamespace(seeds=seeds, beside=lambda _: own)
    assert run.bases_of(runs, FULL) == {'strong': base, 'weak': 'weak'}
  assert asked == [[0, 1] * 4, [0, 1, 2, 3] * 2]
