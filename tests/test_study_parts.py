"""Parts of the study of budgets, by hand."""

import numpy as np
import pytest

from experiments.budget import bench, tuned
from experiments.budget import settings as budget
from posttrain_jax import lab
from posttrain_jax.report.study import asked


@pytest.mark.parametrize('name', budget.SETTINGS)
def test_every_share_spends_the_whole_budget(name):
  own = budget.SETTINGS[name]
  for share in own.shares:
    demonstrations, pairs = own.counts(budget.SHARES[share])
    spent = own.price * demonstrations + pairs
    assert abs(spent - own.budget) <= 0.5 * (1.0 + own.price)
  assert own.counts(1.0) == (own.budget / own.price, 0)
  assert own.counts(0.0) == (0, own.budget)
  assert budget.TUNINGS[own.tuned].task == own.task
  assert budget.TUNINGS[own.tuned].preset == own.preset


def test_an_example_is_as_many_rows_in_either_stage():
  """Two epochs of demonstrations, one of pairs, which are two rows each."""
  for scale in budget.SCALES.values():
    assert scale.epochs['sft'] == 2 * scale.epochs['dpo']
    # A grid's cells fill the program that the study's seeds are trained in.
    assert scale.places * len(scale.tune_seeds) == scale.seeds
    own = range(scale.first_seed, scale.first_seed + scale.seeds)
    assert not set(scale.tune_seeds) & set(own)
  for count in (100, 1000, 3000):
    rows = [bench.steps_of(count, epochs) * bench.ROWS for epochs in (2.0, 1.0)]
    assert rows[0] / 2 == pytest.approx(rows[1], rel=0.2)
  assert bench.steps_of(1, 1.0) == 1


class Stages:
  """A lab that trains nothing and says what it was asked for."""

  def __init__(self):
    self.seeds, self.asked = (4, 7), {}

  def beside(self, seeds):
    return self

  def train(self, name, config, start, hparams, roles=None):
    self.asked = {'start': start, 'hparams': hparams, 'roles': roles}
    return name


def test_every_seed_has_demonstrations_and_pairs_of_its_own(monkeypatch):
  runs = Stages()
  made = bench.Bench(runs, budget.SCALES['full'])
  monkeypatch.setattr(made, 'base', lambda own: 'base')
  monkeypatch.setattr(made, 'strong', lambda own: 'strong')
  made.sft(budget.SETTINGS['style_100'], 100, 1e-3)
  hparams = runs.asked['hparams']
  sets = set(hparams['problems.seed'])
  assert hparams['problems.count'] == 100.0 and len(sets) == 2
  assert hparams['task.direct'] == hparams['task.program'] == 0.5
  assert hparams['task.slips'] == hparams['task.columns'] == 0.0
  values = {bench.RATE: 1e-4, bench.BETA: 0.1}
  for name, writer in (('cot_1000', 'start'), ('cot_1000_given', 'strong')):
    made.dpo(budget.SETTINGS[name], 'start', 75, values)
    assert runs.asked['roles'] == {'writer': writer}
    assert runs.asked['start'] == 'start'
    assert not sets & set(runs.asked['hparams']['problems.seed'])


def test_cells_of_a_grid_are_trained_side_by_side():
  asked = []

  def train(values):
    asked.append(values)
    return np.array(values['a']) + np.arange(6) % 2

  cells = lab.Cells(train, lambda stage: stage, places=3, seeds=2)
  names = [cells.add({'a': float(x), 'b': 1.0}) for x in range(4)]
  assert cells.add({'a': 0.0, 'b': 1.0}) == names[0] and not asked
  assert cells.score(names[1]).tolist() == [1.0, 2.0]
  assert asked == [{'a': [0, 0, 1, 1, 2, 2], 'b': [1] * 6}]
  assert cells.score(names[3]).tolist() == [3.0, 4.0]
  # What is left over fills the program, and nothing is trained twice.
  assert asked[1]['a'] == [3.0] * 6
  assert cells.score(names[0]).tolist() == [0.0, 1.0] and len(asked) == 2
  with pytest.raises(ValueError, match="{'a': 9.0} was not added"):
    cells.score((('a', 9.0),))


def test_a_grid_of_cells_is_tuned_and_grows_as_any_other():
  asked = []

  def cells_of(best):
    def train(values):
      asked.append(values['a'])
      return -np.abs(np.log(np.array(values['a']) / best))

    return lab.Cells(train, lambda stage: stage, places=2, seeds=1)

  cells = {'low': cells_of(0.1), 'high': cells_of(1.0)}
  found = lab.tune_cells(cells, 'a', (0.1, 1.0), extend=1)
  assert found['low'].chosen == 0.1 and found['high'].chosen == 1.0
  # Both ends were someone's best: the grid grew there, for both arms.
  assert sorted(found['low'].tried) == sorted(found['high'].tried)
  np.testing.assert_allclose(sorted(found['low'].tried), [0.01, 0.1, 1, 10])
  np.testing.assert_allclose(np.sort(asked), [[0.1, 1]] * 2 + [[0.01, 10]] * 2)
  score = cells['low'].score(found['low'].tried[found['low'].chosen])
  assert score.tolist() == [0.0]


def test_stages_take_what_was_tuned_nearest_to_them():
  chosen = tuned.Chosen.__new__(tuned.Chosen)
  rates = {30: 1e-2, 300: 1e-3}
  chosen.sft = {
    ('cot', 'depth-2'): {
      count: lab.Tuned({1e-3: None, 1e-2: None}, rate, True)
      for count, rate in rates.items()
    }
  }
  grids = {bench.BETA: (0.1, 1.0), bench.RATE: (1e-4, 1e-3, 1e-2)}
  together = lambda beta, rate: lab.Together(
    grids, {}, {bench.BETA: beta, bench.RATE: rate}, ()
  )
  chosen.dpo = {
    'cot_1000': {'mixed': together(1.0, 1e-3), 'cold': together(0.1, 1e-4)}
  }
  own = budget.SETTINGS['cot_1000']
  assert chosen.rate(own, 94) == 1e-2 and chosen.rate(own, 96) == 1e-3
  assert chosen.values(own, 0)[bench.BETA] == 0.1
  assert chosen.values(own, 100)[bench.BETA] == 1.0
  found = chosen.entries([('cot_1000', own, 0.25)], {'cot_1000': ('a', 'b')})
  assert found['rate of DPO (cot_1000)'] == {
    'grid': [1e-4, 1e-3, 1e-2], 'chosen': {'a': 1e-3, 'b': 1e-3}
  }  # fmt: skip
  key = 'rate of SFT (cot, depth-2, 300 demonstrations)'
  assert found[key] == {'grid': [1e-3, 1e-2], 'chosen': {'a': 1e-3, 'b': 1e-3}}
  assert set(chosen.entries([('c', own, 1.0)], {})) == {key}
  with pytest.raises(ValueError, match='nothing was tuned for "style_300"'):
    chosen.values(budget.SETTINGS['style_100'], 0)


def test_what_an_arm_took_is_said_once():
  assert asked.taken(1e-3) == '0.001'
  assert asked.taken({'a': 1e-3, 'b': 1e-3}) == '0.001'
  several = {'a': 1e-3, 'b': 3e-3, 'c': 1e-3}
  assert asked.taken(several) == '0.001 (a, c), 0.003 (b)'
