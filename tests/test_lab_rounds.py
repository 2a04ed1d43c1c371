"""Rounds: what goes from stage to stage, by a lab that only writes down what it
is asked, and a loop that trains."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_lab import same, tiny

from posttrain_jax import lab
from posttrain_jax.core import keys
from posttrain_jax.run import accounting


class Written:
  """A lab of two seeds that trains nothing: names of models are texts."""

  def __init__(self):
    self.asked = []

  def train(self, name, config, start, hparams, roles, draw):
    others = {k: x.name for k, x in roles.items()}
    start = start and start.name
    self.asked.append((name, config, start, dict(hparams), others, draw))
    account = [dict.fromkeys(accounting.ITEMS, x) for x in (1.0, 10.0)]
    return SimpleNamespace(name=name, account=account)

  def measure(self, trained, probe, split):
    return probe(trained, split)


def model(name):
  return SimpleNamespace(name=name)


def test_stages_hand_on_models_and_numbers():
  runs = Written()
  start = lab.Carry(
    {'policy': model('base'), 'judge': model('blank')}, {'weight': 1.0}
  )
  probe = lambda trained, split: {
    f'{trained.name} {split}': [0.0, 0.0], 'found': [0.5, len(runs.asked)]
  }  # fmt: skip
  stages = [
    lab.Train('judge', 'J', {'ref': 'policy'}, fresh=True),
    lab.Train('policy', 'P', {'reward': 'judge'},
              {'rewards.model.weight': 'weight', 'optimizer.lr': 0.1}),
    lab.Look('policy', probe, {'weight': 'found'}),
  ]  # fmt: skip
  seen = lab.rounds(runs, stages, 2, start)
  rate = {'optimizer.lr': 0.1}
  assert runs.asked == [
    ('judge-1', 'J', None, {}, {'ref': 'base'}, 1),
    ('policy-1', 'P', 'base', {'rewards.model.weight': 1.0} | rate,
     {'reward': 'judge-1'}, 1),
    ('judge-2', 'J', None, {}, {'ref': 'policy-1'}, 2),
    ('policy-2', 'P', 'policy-1', {'rewards.model.weight': (0.5, 2)} | rate,
     {'reward': 'judge-2'}, 2),
  ]  # fmt: skip
  assert [x.models['policy'].name for x in seen] == ['policy-1', 'policy-2']
  assert seen[-1].numbers == {'weight': (0.5, 4)}
  # Two stages a round, of 1 and of 10 for the two seeds.
  assert [x.account[1]['optimizer_steps'] for x in seen] == [20.0, 40.0]
  assert start.account == () and start.numbers == {'weight': 1.0}


def test_models_change_places():
  start = lab.Carry({'a': model('x'), 'b': model('y')})
  swap = lab.Swap('a', 'b', every=2)
  seen = lab.rounds(Written(), [swap], 4, start)
  assert [x.models['a'].name for x in seen] == ['x', 'y', 'y', 'x']
  assert [x.models['b'].name for x in seen] == ['y', 'x', 'x', 'y']


@pytest.mark.parametrize('stages, times, told', [
  ([lab.Swap('a', 'a')], 0, 'times=0 rounds are none; nearest valid: 1'),
  ([], 1, 'rounds without a stage'),
  ([lab.Train('a', ''), lab.Train('a', '')], 1, 'two stages of a round train'),
  ([lab.Train('polcy', '')], 1,
   'stage "polcy" of round 1: no model "polcy" is carried. Did you mean "pol'),
  ([lab.Train('policy', '', {'ref': 'judge'})], 1, 'no model "judge"'),
  ([lab.Train('policy', '', {}, {'optimizer.lr': 'rat'})], 1,
   'no number "rat" is carried. Did you mean "rate"'),
  ([lab.Look('policy', lambda *x: {'found': [1.0]}, {'rate': 'fund'})], 1,
   'look at "policy" of round 1: nothing is measured as "fund"'),
])  # fmt: skip
def test_what_is_not_there_is_named(stages, times, told):
  start = lab.Carry({'policy': model('base')}, {'rate': 0.1})
  with pytest.raises(ValueError, match=told):
    lab.rounds(Written(), stages, times, start)


def test_draws_of_a_seed_are_apart():
  kinds = [keys.STEPS, keys.START, keys.EVALUATION, keys.EVALUATION + 1]
  one = keys.seed_key(3)
  found = [keys.drawn_key(3, draw) for draw in range(4)]
  assert np.array_equal(*map(jax.random.key_data, (found[0], one)))
  found += [jax.random.fold_in(one, kind) for kind in kinds]
  assert len({jax.random.key_data(x).tobytes() for x in found}) == 8
  with pytest.raises(ValueError, match='draw=-1 is negative'):
    keys.drawn_key(3, -1)


@dataclasses.dataclass(frozen=True)
class Rate:
  """A number that is made of parameters, to train on with."""

  def __call__(self, params, base_params, key):
    del base_params, key
    total = sum(jax.numpy.abs(x).mean() for x in jax.tree.leaves(params))
    return {'rate': 1e-2 / total}


@pytest.mark.long
def test_a_loop_trains_in_one_program_and_draws_anew(tmp_path):
  runs = lab.Lab(tmp_path, range(2), brief=True)
  base = runs.train('base', tiny(), hparams={'optimizer.lr': 1e-2})
  stages = [
    lab.Look('policy', Rate(), {'rate': 'rate'}),
    lab.Train('policy', tiny(), hparams={'optimizer.lr': 'rate'}),
  ]
  start = lab.Carry({'policy': base})
  seen = lab.rounds(runs, stages, 2, start)
  assert len(runs._programs) == 1
  first, last = (x.models['policy'] for x in seen)
  assert seen[0].numbers['rate'] != seen[1].numbers['rate']
  assert last.hparams['optimizer.lr'] == seen[1].numbers['rate']
  assert seen[1].account[0]['optimizer_steps'] == 8
  # It is the stage that any lab trains which is told the same.
  other = lab.Lab(tmp_path / 'other', range(2), like=runs)
  rates = {'optimizer.lr': list(last.hparams['optimizer.lr'])}
  again = other.train('x', tiny(), first, rates, draw=2)
  assert same(again.params, last.params) and again.digest == last.digest
  # With the problems of the first round it would be another one.
  twice = other.train('x', tiny(), first, rates, draw=1)
  assert twice.digest != again.digest
  assert not np.allclose(twice.curves['loss'], again.curves['loss'])
  # A loop that was stopped goes on: what is there is read.
  took = {path: path.stat().st_mtime for path in tmp_path.rglob('stage.json')}
  fresh = lab.Lab(tmp_path, range(2), like=runs)
  more = lab.rounds(fresh, stages, 2, start)
  assert more[-1].models['policy'].digest == last.digest
  assert all(p.stat().st_mtime == at for p, at in took.items())
