"""The lab: stages are kept, started from, measured; results are as seen."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from posttrain_jax import lab, sweep, tasks, trainers
from posttrain_jax.evals import measures
from posttrain_jax.evals.statistics import Check, Claim
from posttrain_jax.lab import __main__ as again
from posttrain_jax.lab import alike, judged, results
from posttrain_jax.run import accounting, auto
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab


def tiny(*items):
  return config_lib.load(
    'configs/sft.py:smoke',
    [
      ('model.preset', 'depth-1'), ('task.num_digits', '1'),
      ('optimizer.schedule', 'constant'), ('optimizer.warmup_updates', '0'),
      ('num_steps', '4'), ('steps_per_call', '4'), ('prompts_per_step', '4'),
      *items,
    ],
  )  # fmt: skip


def same(a, b):
  close = jax.tree.map(lambda x, y: np.allclose(x, y, atol=1e-6), a, b)
  return all(jax.tree.leaves(close))


def test_stages_are_kept_and_go_on_from_each_other(tmp_path, monkeypatch):
  rates = {'optimizer.lr': 1e-2}
  runs = lab.Lab(tmp_path, range(2))
  base = runs.train('base', tiny(), hparams=rates, snapshots=(2,))
  assert base.curves['loss'].shape == (2, 4)
  assert base.account[1]['demonstrations'] == 16
  assert base.account[1]['optimizer_steps'] == 4
  half = base.snapshots[2]
  assert half.account[0]['optimizer_steps'] == 2
  assert half.curves['loss'].shape == (2, 2)
  assert not same(half.params, base.params)
  # The first half of a run is the run of half as many steps.
  short = runs.train('short', tiny(('num_steps', '2')), hparams=rates)
  assert same(short.params, half.params)
  assert short.digest != half.digest
  # Nor is it compiled again; a schedule knows how long it will be.
  assert len(runs._programs) == 1
  decays = tiny(('optimizer.schedule', 'cosine'))
  shorter = tiny(('optimizer.schedule', 'cosine'), ('num_steps', '2'))
  assert alike.computes(decays) != alike.computes(shorter)
  # Seed i goes on from seed i.
  still = runs.train('still', tiny(), base, {'optimizer.lr': 0.0})
  assert same(still.params, base.params)
  took = runs.seconds
  assert took == pytest.approx(
    sum(x.wall_seconds for x in (base, short, still))
  )

  # All of it is read again, by whoever asks for the same.
  def refuse(*args, **kwargs):
    raise AssertionError('it was trained again')

  monkeypatch.setattr(sweep.Program, 'start', refuse)
  again = lab.Lab(tmp_path, range(2))
  read = again.train('base', tiny(), hparams=rates, snapshots=(2,))
  assert read.digest == base.digest and same(read.params, base.params)
  assert list(read.snapshots) == [2]
  again.train('still', tiny(), read, {'optimizer.lr': 0.0})
  # What is looked at or saved along the way changes nothing of it.
  again.train(
    'base', tiny(('eval.every', '1'), ('log.tensorboard', 'false')),
    hparams=rates, snapshots=(2,),
  )  # fmt: skip
  for other in (
    lambda: again.train('base', tiny(), hparams={'optimizer.lr': 2e-2}),
    lambda: again.train('base', tiny(('optimizer.b2', '0.9')), hparams=rates),
    lambda: again.train('base', tiny(), read, rates),
    lambda: lab.Lab(tmp_path, range(1, 3)).train('base', tiny(), None, rates),
  ):
    with pytest.raises(AssertionError, match='trained again'):
      other()


def test_a_stage_is_told_by_the_model_that_it_starts_from():
  learns = lambda *items: alike.learns(tiny(*items))
  assert learns(('init_from', 'runs/a')) != learns(('init_from', 'runs/b'))
  assert learns(('steps_per_call', '2')) == learns()


# What a step's program may hold of the length of its run. (Those of RL have
# controllers, and are not shared at all.)
KNOWS_THE_END = [
  ('optimizer.schedule', 'cosine'), ('optimizer.warmup_ratio', '0.5'),
  ('optimizer.warmup_updates', 'auto'), ('curriculum.name', 'falling_share'),
]  # fmt: skip


@pytest.mark.parametrize('item', KNOWS_THE_END)
def test_runs_of_other_lengths_share_no_program_that_knows_them(item):
  computes = lambda steps, *more: alike.computes(
    tiny(('num_steps', steps), *more)
  )
  assert computes('6') == computes('9')
  assert computes('6', item) != computes('9', item)


def test_a_default_warmup_is_the_stage_that_it_was_as_a_number():
  for name in trainers.KINDS:
    config = config_lib.load(f'configs/{name}.py')
    before = alike.learns(config)
    usual = auto.WARMUPS[name]
    number = config_lib.with_values(config, {config_lib.WARMUP: usual})
    assert alike.learns(number) == before


@pytest.mark.parametrize(
  ('spec', 'key', 'value'),
  [
    ('configs/sft.py', 'collect.slips', 0.1),
    ('configs/sft.py:recipe=una', 'collect.trust', True),
  ],
)
def test_a_stage_from_before_a_key_is_the_stage_that_it_was(spec, key, value):
  config = config_lib.load(spec)
  assert key in config_lib.flatten(config.to_dict())
  assert key not in alike.learns(config)
  other = config_lib.with_values(config, {key: value})
  assert alike.learns(other) != alike.learns(config)


def test_measurements_are_kept_by_what_was_asked(tmp_path):
  runs = lab.Lab(tmp_path, range(2))
  base = runs.train('base', tiny())
  run = sweep.Program(tiny()).run
  probe = measures.Probe(
    run.model, run.task, 8, 1, 8, 0.125, measures=('kl_reverse',)
  )
  found = runs.measure(base, probe, base)
  assert found == {'kl_reverse': pytest.approx([0.0, 0.0], abs=1e-6)}
  files = list(base.path.parent.glob('params-*.json'))
  assert len(files) == 1
  files[0].write_text(
    '{"values": {"kl_reverse": ["nan", 7]}, "wall_seconds": 1}'
  )
  again = lab.Lab(tmp_path, range(2))
  read = again.measure(again.train('base', tiny()), probe, base)['kl_reverse']
  assert np.isnan(read[0]) and read[1] == 7
  # Other problems are another measurement.
  other = again.measure(base, probe, base, split='validation')
  assert other['kl_reverse'] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_bad_snapshot_is_named(tmp_path):
  with pytest.raises(ValueError, match='stage "x": snapshots has 4'):
    lab.Lab(tmp_path, [0]).train('x', tiny(), snapshots=(4,))


def study(**keys):
  given = dict(
    name='toy', title='Toy', question='Is a above b?', paper_claims=('It is.',),
    setup=('Two arms.',), equal='all', tuning='nothing',
    measures={'accuracy': lab.Measure('Accuracy', '%', 'higher', 1)},
    claims=(Claim('c', '000', 'a beats b', 'accuracy', 'a', 'b', 'greater'),),
  )  # fmt: skip
  return lab.Study(**{**given, **keys})


def arm(values, name='accuracy'):
  account = [dict.fromkeys(accounting.ITEMS, float(i)) for i in range(5)]
  given = dict(
    label='An arm', family='sft', config='configs/sft.py', overrides={},
    values={name: values}, account=account,
  )  # fmt: skip
  return lab.Arm(**given)


def made(arms, tmp_path, **keys):
  runs = lab.Lab(tmp_path, range(5))
  return results.results(
    study(**keys),
    arms,
    [],
    runs,
    mode='full',
    command='python -m x',
    seconds=60,
  )


def test_results_judge_and_fill_the_readme(tmp_path):
  high, low = [80.0, 81, 82, 83, 84], [50.0, 52, 51, 50, 53]
  found = made({'a': arm(high), 'b': arm(low)}, tmp_path)
  (claim,) = found['claims']
  assert claim['outcome'] == 'reproduced'
  assert claim['p_value'] < 1e-4  # that of a sign test is 1/32
  assert claim['difference'] == pytest.approx(30.8)
  assert found['arms']['a']['account']['flops'] == 2.0
  readme = tmp_path / 'README.md'
  readme.write_text('# Toy\n<!-- results -->\nold\n<!-- /results -->\nend\n')
  page = results.write(found, tmp_path)
  assert page.exists() and 'a beats b' in page.read_text()
  text = readme.read_text()
  assert 'old' not in text and text.endswith('end\n')
  assert '| a beats b | 0 | **reproduced** | +30.8 [' in text
  assert '| An arm | 82.0 [' in text
  saved = json.loads((tmp_path / 'results.json').read_text())
  assert saved['arms']['b']['values']['accuracy'] == low


def test_a_missing_number_decides_nothing(tmp_path):
  gap = [80.0, 81, 82, 83, float('nan')]
  found = made({'a': arm(gap), 'b': arm([1.0] * 5)}, tmp_path)
  assert found['claims'][0]['outcome'] == 'undecided'
  results.write(found, tmp_path)
  saved = json.loads((tmp_path / 'results.json').read_text())
  assert saved['arms']['a']['values']['accuracy'][4] is None


def test_equal_is_judged_where_both_arms_moved(tmp_path):
  same = dict(name='c', paper='000', statement='a is b', measure='accuracy',
              arm='a', against='b', direction='equal', margin=1.0)  # fmt: skip
  arms = {'a': arm([8.0] * 5), 'b': arm([8.0] * 5)}
  for least, outcome in (
    (8.0, 'reproduced'),
    (8.5, 'not testable here'),
  ):
    asked = Claim(**same, moved='accuracy', at_least=least)
    found = made(arms, tmp_path, claims=(asked,))
    assert found['claims'][0]['outcome'] == outcome
    results.write(found, tmp_path / outcome)
  wrong = Claim(**same, moved='gain', at_least=1.0)
  with pytest.raises(ValueError, match='arm "a" has no measure "gain"'):
    made(arms, tmp_path, claims=(wrong,))


def test_names_that_are_not_there_are_named(tmp_path):
  with pytest.raises(ValueError, match='claim "c": no arm "b"'):
    made({'a': arm([1.0] * 5)}, tmp_path)
  bad = arm([1.0] * 5, 'acuracy')
  with pytest.raises(ValueError, match='Did you mean "accuracy"'):
    made({'a': bad, 'b': bad}, tmp_path)
  (tmp_path / 'README.md').write_text('no marks')
  fine = made({'a': arm([1.0] * 5), 'b': arm([1.0] * 5)}, tmp_path)
  with pytest.raises(ValueError, match='README.md: needs one'):
    results.write(fine, tmp_path)


def test_a_mode_with_fewer_arms_leaves_out_their_claims(tmp_path):
  runs = lab.Lab(tmp_path, range(5))

  def of(arms):
    return results.results(
      study(), arms, [], runs, mode='reduced', command='python -m x',
      seconds=60,
    )  # fmt: skip

  both = {'a': arm([2.0] * 5), 'b': arm([1.0] * 5)}
  assert len(of(both)['claims']) == 1
  assert of({'a': both['a']})['claims'] == []
  # What is misspelt is not what is missing.
  bad = {'a': both['a'], 'b': dataclasses.replace(both['b'], values={})}
  with pytest.raises(ValueError, match='no measure "accuracy"'):
    of(bad)


def test_accounts_of_stages_add_up():
  class Stage:
    account = [dict.fromkeys(accounting.ITEMS, 2.0)] * 3

  total = lab.total_account([Stage, Stage])
  assert len(total) == 3 and total[0]['tokens_trained'] == 4.0


def test_seeds_may_have_numbers_and_starts_of_their_own(tmp_path):
  runs = lab.Lab(tmp_path, (5, 6))
  first = runs.beside(range(2))
  base = first.train('base', tiny(), hparams={'optimizer.lr': 1e-2})
  start = lab.shared(runs, base, [1, 1])
  lent = jax.tree.map(lambda x: x[1], base.params)
  assert same(jax.tree.map(lambda x: x[0], start.params), lent)
  still = runs.train('own', tiny(), start, {'optimizer.lr': [0.0, 1e-2]})
  assert same(jax.tree.map(lambda x: x[0], still.params), lent)
  assert not same(jax.tree.map(lambda x: x[1], still.params), lent)
  assert len(runs._programs) == 1  # two labs of as many seeds share it
  assert runs.commits == {base.commit}
  assert runs.seconds == pytest.approx(still.wall_seconds + base.wall_seconds)
  with pytest.raises(ValueError, match='3 values for 2 seeds'):
    runs.train('own', tiny(), start, {'optimizer.lr': [0.0, 1e-2, 0.0]})
  two, five = SimpleNamespace(seeds=(8, 9)), SimpleNamespace(seeds=range(5))
  assert lab.turns(five, two) == [0, 1, 0, 1, 0]
  with pytest.raises(ValueError, match='1 entries for 2 seeds'):
    lab.shared(runs, base, [0])
  with pytest.raises(ValueError, match='rows has 2, which is not in 0..1'):
    lab.shared(runs, base, [0, 2])


def test_unequal_tries_are_refused(tmp_path):
  tuned = lambda n: {'optimizer.lr': {'grid': list(range(1, n)), 'chosen': 2}}
  of = lambda n: dataclasses.replace(arm([2.0] * 5), tuned=tuned(n))
  with pytest.raises(ValueError, match='3 values for "a", 4 values for "b"'):
    made({'a': of(4), 'b': of(5)}, tmp_path)
  assert made({'a': of(4), 'b': of(4)}, tmp_path)['claims']


def test_a_value_at_the_edge_is_not_testable(tmp_path):
  grids = {'inside': 2, 'edge': 3}
  for name, chosen in grids.items():
    tuned = {'lr': {'grid': [1, 2, 3], 'chosen': chosen}}
    a = dataclasses.replace(arm([9.0, 8, 9, 8, 9]), tuned=tuned)
    (claim,) = made({'a': a, 'b': arm([1.0] * 5)}, tmp_path)['claims']
    assert (claim['outcome'] == 'not testable here') == (name == 'edge')
  assert claim['rule'] == 'lr=3 of arm "a" is the edge of its grid 1..3'


def test_outcomes_are_those_of_the_values(tmp_path):
  rng = np.random.default_rng(0)
  right = (rng.uniform(size=(5, 40)) < 0.8).astype(float)
  wrong = (rng.uniform(size=(5, 40)) < 0.3).astype(float)
  of = lambda x: dataclasses.replace(
    arm((100 * x.mean(1)).tolist()), outcomes={'accuracy': x}
  )
  found = made({'a': of(right), 'b': of(wrong)}, tmp_path)
  assert found['claims'][0]['outcome'] == 'reproduced'
  page = results.write(found, tmp_path)
  assert page.exists()
  saved = json.loads((tmp_path / 'results.json').read_text())
  kept = judged.outcomes(saved['arms']['a'], 'accuracy')
  np.testing.assert_array_equal(kept, 100 * right)
  other = dataclasses.replace(of(right), outcomes={'accuracy': wrong})
  with pytest.raises(ValueError, match='outcomes of "accuracy" have the means'):
    made({'a': other, 'b': of(wrong)}, tmp_path)


def test_claims_go_through_json(tmp_path):
  check = Check('some', 'accuracy', ('a',), least=0.5)
  asked = Claim('c', '000', 'a beats b', 'accuracy', 'a', 'b', 'greater', 1.0,
                checks=(check,), spread=0.5, when='after')  # fmt: skip
  arms = {'a': arm([9.0, 8, 9, 8, 9]), 'b': arm([1.0] * 5)}
  found = made(arms, tmp_path, claims=(asked,))
  page = results.write(found, tmp_path)
  assert 'Seen afterwards' in page.read_text()
  saved = json.loads((tmp_path / 'results.json').read_text())
  assert judged.claim_of(saved['claims'][0]) == asked
  # Judged again, nothing changes.
  new = again.again(saved, study(claims=(asked,)))
  assert new['claims'] == saved['claims']


def test_problems_are_counted_by_identity():
  task = tasks.make(name='addition', num_digits=1)
  probe = measures.Probe(
    model=None, task=task, num_problems=64, samples=1, batch=64,
    heldout_fraction=0.5, measures=('accuracy_greedy',), part='test',
  )  # fmt: skip

  class Runs:
    def split_keys(self, split):
      return jax.random.split(jax.random.key(len(split)), 2)

  apart = lab.of_probe(Runs(), probe)
  assert apart['drawn'] == 128 and apart['shared'] == 0
  assert 10 < apart['test'] <= 100 and 10 < apart['validation'] <= 100
  # Without halves they overlap.
  whole = lab.of_probe(Runs(), dataclasses.replace(probe, part=''))
  assert whole['shared'] > 0
  # By hand: the digits of each sum, the smaller one first.
  seen = set()
  for key in Runs().split_keys('test'):
    batch = probe.problems(key)
    for row, real in zip(np.asarray(batch.prompt), batch.prompt_mask):
      text = vocab.decode(row[np.asarray(real) > 0])
      first, second = text.strip('=').split('+')
      seen.add(tuple(sorted((first, second))))
  assert len(seen) == apart['test']


def test_folders_that_cannot_be_judged_are_named(capsys):
  root = pathlib.Path(__file__).parent.parent / 'experiments'
  assert again.main([str(root / 'forgeting')]) == 2
  assert 'Did you mean "forgetting"' in capsys.readouterr().err
  assert again.main([str(root / 'template')]) == 2
  assert 'results.json: the study writes it' in capsys.readouterr().err
