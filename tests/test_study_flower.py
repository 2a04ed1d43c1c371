"""What the study of Flower chooses and reports, by numbers by hand."""

import numpy as np
import pytest

from experiments.flower import bench, run, settings
from experiments.flows.tuned import heated
from posttrain_jax import lab


def found(kl, hit, hot=()):
  """Measures of two seeds; `hot` at higher temperatures than 1."""
  values = {'kl': kl, 'kl_back': 0.0, 'entropy': 1.0, 'hit': hit, 'taken': 0.1}
  held = {
    heated(name, heat): np.full(2, x)
    for heat in settings.HEAT
    for name, x in values.items()
  }
  held |= {heated('kl', heat): np.full(2, x) for heat, x in hot}
  return held | {'right': np.full(2, 0.5)}


def chosen(**arms):
  """Of {arm: measures at its one rate}."""
  return run.Chosen(
    {arm: lab.Tuned({1e-3: None}, 1e-3, False) for arm in arms},
    {arm: {1e-3: x} for arm, x in arms.items()},
    found(9.0, 0.05),
  )


def test_the_nearest_flower_of_those_that_hit_as_often():
  arms = {
    'sft': found(0.5, 0.45), 'flower_0.999': found(0.48, 0.46),
    'flower_0.99': found(0.3, 0.435),
  }  # fmt: skip
  assert chosen(**arms).flower() == 'flower_0.99'
  arms['flower_0.99'] = found(0.3, 0.42)  # loses three points
  assert chosen(**arms).flower() == 'flower_0.999'
  arms['flower_0.999'] = found(0.48, 0.42)  # now both of them lose more
  assert chosen(**arms).flower() == 'flower_0.99'


def test_the_temperature_that_is_nearest():
  sft = found(0.5, 0.45, [(1.25, 0.4), (1.5, 0.2), (1.75, 0.3)])
  assert chosen(sft=sft).heat() == 1.5


def test_shares_are_reported_in_percent():
  values = run.values_of(found(0.5, 0.45))
  assert values['hit'] == pytest.approx([45.0, 45.0])
  assert values['kl'] == pytest.approx([0.5, 0.5])
  assert values['right'] == pytest.approx([50.0, 50.0])
  assert 'right' not in run.values_of(found(0.5, 0.45), heat=1.5)


def test_a_base_takes_names_evenly_and_its_arms_do_not():
  scale = settings.SCALES['full']
  assert bench.base_config(scale).task.zipf == 0.0
  zipf = {
    name: bench.stage_config(way, scale).task.zipf
    for name, way in settings.WAYS.items()
  }
  assert zipf == dict.fromkeys(zipf, 1.0) | {'flat': 0.5}
