"""Parts of the study of SFT's objectives, by hand."""

import numpy as np
import pytest

from experiments.sft_objectives import figures, run
from experiments.sft_objectives.design import (
  DATA,
  NOISE,
  OBJECTIVES,
  RATE,
  SCALES,
  SLIPS,
  STUDY,
  arm_of,
)
from posttrain_jax import lab
from posttrain_jax.run import build

# Beside those that the design crosses with data.
MORE = {'base', 'clean_only', 'nll_otr'}


def test_claims_and_their_checks_are_of_arms_that_are_run():
  scale = SCALES['full']
  arms = {arm_of(*pair) for pair in scale.arms} | MORE
  for claim in STUDY.claims:
    asked = {claim.arm, claim.against}
    asked |= {arm for check in claim.all_checks for arm in check.arms}
    assert asked <= arms, claim.name
  assert not {*scale.tuning_seeds} & {*range(scale.seeds)}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_an_objective_is_given_the_models_that_it_reads(name):
  way = OBJECTIVES[name]
  config = run.arm_config(way.recipe, SCALES['reduced'], 6)
  needed = build.build(config).models.keys() - {'policy'}
  given = dict(way.roles)
  assert given.keys() <= needed
  # A reference that is not named is where the policy starts.
  assert needed - given.keys() <= {'ref'}
  assert run.uses_clean(way) == ('clean' in {way.start, *given.values()})
  for key, _ in way.hparams:
    assert key.split('.')[1] in config[key.split('.')[0]]


class Stages:
  """A lab that trains nothing and says what it was asked for."""

  def train(self, name, config, start, hparams, roles=None, draw=0):
    return name, start, hparams, roles, draw


@pytest.mark.parametrize('data', DATA)
def test_an_arm_starts_where_it_should_on_what_it_should_read(data):
  scale = SCALES['reduced']
  bench = run.Bench(Stages(), scale, 'BASE', 'CLEAN', None)
  own = {NOISE: DATA[data].noise, SLIPS: DATA[data].slips, RATE: 0.5}
  for name, way in OBJECTIVES.items():
    made, start, hparams, roles, draw = bench.train(name, data, 0.5)
    assert made == arm_of(name, data) and not draw
    assert start == ('CLEAN' if name == 'after' else 'BASE')
    assert hparams == own | dict(way.hparams)
    assert roles == {role: x.upper() for role, x in way.roles}


def arm(new, flops):
  return lab.Arm(
    'arm', 'sft', '', {}, {'new': np.array(new)}, [{'flops': x} for x in flops]
  )


def test_cost_and_harm_by_hand():
  arms = {
    'base': arm([10.0, 20.0], [8.0, 8.0]),
    'nll': arm([50.0, 60.0], [4.0, 4.0]),
    'nll_rows': arm([45.0, 59.0], [4.0, 4.0]),
    'poft_tokens': arm([45.0, 59.0], [6.0, 8.0]),  # PoFT on clean ones is not
  }
  found = run.compared(arms)
  assert found['nll_rows'].values['harm'].tolist() == [5.0, 1.0]
  assert found['poft_tokens'].values['cost'].tolist() == [1.5, 2.0]
  for name in ('base', 'nll', 'poft_tokens'):
    assert 'harm' not in found[name].values
  grid = figures.grid(found, SCALES['full'], 'new', '')
  places = list(OBJECTIVES), list(DATA)
  row, column = places[0].index('nll'), places[1].index('rows')
  assert grid['values'][row][column] == 52.0
  assert grid['values'][row][places[1].index('tokens')] is None
