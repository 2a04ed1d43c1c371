"""The quickstart from end to end, at a size that proves the path only."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from configs import quickstart as quickstart_config
from experiments.quickstart import triples
from posttrain_jax import report
from posttrain_jax.models import transformer
from posttrain_jax.quickstart import answers, command, statements, training
from posttrain_jax.run import accounting, build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

ROOT = Path(__file__).parent.parent
SPEC = 'configs/quickstart.py'


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_all_arms_are_compared(tmp_path, capsys):
  argv = ['--config', f'{SPEC}:smoke', '--workdir', str(tmp_path)]
  assert command.main(argv) == 0
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert list(summary['arms']) == ['base', 'sft', 'grpo', 'own']
  assert [x['text'] for x in summary['statements']] == [
    x.text for x in judged(np.zeros(3), np.ones(3))
  ]
  for name, arm in summary['arms'].items():
    for key in ('accuracy', 'retention'):
      seeds = arm[f'{key}_seeds']
      assert len(seeds) == 3 and arm[key] == pytest.approx(np.mean(seeds))
      assert arm[f'{key}_low'] <= arm[key] <= arm[f'{key}_high']
    if name != 'base':
      points = {x['rate']: x for x in summary['frontiers'][name]}
      assert len(points) == 2
      chosen = points[arm['rate']]
      assert chosen['accuracy_seeds'] == arm['accuracy_seeds']
      assert arm['flops'] == pytest.approx(
        summary['arms']['grpo']['flops'], rel=0.5
      )
  assert summary['problems']['new']['shared'] == 0
  assert {x['arm'] for x in summary['samples']} == set(training.LABELS.values())
  page = (tmp_path / 'report.html').read_text()
  assert 'SFT on own right answers' in page
  assert (tmp_path / 'plots' / 'frontier.png').is_file()
  out = capsys.readouterr().out
  assert 'Training the base model' in out and 'report.html' in out
  # The base is one, of the first seed; the same command trains nothing again.
  (base,) = (tmp_path / 'stages').glob('base-*')
  stages = {x: x.stat().st_mtime_ns for x in tmp_path.glob('stages/*/*.json')}
  assert command.main(argv) == 0
  assert stages == {
    x: x.stat().st_mtime_ns for x in tmp_path.glob('stages/*/*.json')
  }
  again = json.loads((tmp_path / 'summary.json').read_text())
  assert again['arms'] == summary['arms']


@pytest.mark.parametrize(
  'item, told',
  [
    ('seeds=1', 'seeds=1 is not a whole number from 2 on; nearest valid: 2'),
    ('seed=-1', 'seed=-1'),
    ('eval.batch=0', 'eval.batch=0'),
    ('eval.new_problems=500', 'eval.new_problems=500 is no multiple of '
     'eval.batch=256; nearest valid: 512'),
    ('rates=(6e-4, 3e-4)', 'rates=(0.0006, 0.0003) are not positive and'),
    ('rates=(0.0, 3e-4)', 'rates=(0.0, 0.0003) are not'),
    ('rates=()', 'rates=() are not'),
    ('own.task.max_number=9', 'own.task is not that of grpo'),
    ('base.model.preset=nano', 'base.model is not that of grpo'),
    ('grpo.num_stepz=1', 'Did you mean'),
    ('base.task.name=addition', 'is one task'),
  ],
)  # fmt: skip
def test_what_cannot_be_a_quickstart_is_refused(item, told, capsys):
  argv = ['--config', SPEC, '--dry_run', f'--config.{item}']
  assert command.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and told in error, error
  assert len(error.splitlines()) == 1


def test_a_quickstart_writes_into_no_bucket(capsys):
  argv = ['--config', SPEC, '--dry_run', '--workdir=gs://bucket/first']
  assert command.main(argv) == 2
  assert '--workdir=gs://bucket/first' in capsys.readouterr().err


def test_arms_cost_the_same():
  config = config_lib.load(SPEC)
  steps = training.steps_of(config)
  assert steps['grpo'] == config.grpo.num_steps
  spent = []
  for name, count in steps.items():
    run = build.build(config[name])
    spent.append(
      count * accounting.step_flops(config[name], run.model, run.sizes)
    )
  assert max(spent) < 1.03 * min(spent)


def test_the_old_tasks_are_the_others_in_equal_parts():
  config = config_lib.load(SPEC)
  old = training.old_tasks(config)
  assert set(old.weights) == {1.0}
  assert len(old.tasks) == len(quickstart_config.OLD)
  assert not any('countdown' in name for name in old.names)
  # The base sees the new task as the arms do.
  seen = dict(config.base.task.parts.countdown)
  seen.pop('weight')
  assert {'name': 'countdown', **seen} == config.grpo.task.to_dict()


def test_texts_end_where_the_answer_does():
  tokens = np.zeros((1, 6), np.int32)
  tokens[0, :4] = [*vocab.encode('1+2'), vocab.EOS]
  mask = np.array([[1, 1, 1, 1, 0, 0]])
  assert answers.texts(tokens, mask) == ['1+2']


def test_the_front_leaves_out_what_is_beaten():
  points = [(30, 80), (50, 60), (40, 55), (60, 20), (55, 10)]
  assert statements.front(points).tolist() == [[30, 80], [50, 60], [60, 20]]
  # Collapsed arms have the base model alone.
  assert statements.front([(30, 80), (20, 10)]).tolist() == [[30, 80]]


def test_what_is_kept_is_read_off_the_front():
  points = [(30, 80), (50, 60), (60, 20)]
  assert statements.kept_at(points, 40) == 70
  assert statements.kept_at(points, 55) == 40
  assert statements.kept_at(points, 60) == 20
  assert statements.kept_at(points, 10) == 80
  assert math.isnan(statements.kept_at(points, 61))


def test_arms_are_compared_at_what_both_reach():
  grpo = [[(30, 80), (50, 70), (70, 60)], [(30, 80), (40, 70)]]
  sft = [[(30, 80), (60, 20)], [(30, 80), (60, 20)]]
  levels, more = statements.matched(grpo, sft)
  assert levels.tolist() == [60, 40]
  assert more.tolist() == [65 - 20, 70 - 60]


def judged(base, grpo, grpo_kept=60.0, sft_kept=20.0):
  fronts = {
    'grpo': [[(b, 80.0), (max(g, b) + 30, grpo_kept + b)]
             for b, g in zip(base, grpo)],
    'sft': [[(b, 80.0), (max(g, b) + 30, sft_kept)]
            for b, g in zip(base, grpo)],
  }  # fmt: skip
  return statements.statements(np.array(base), {'grpo': np.array(grpo)}, fronts)


@pytest.mark.parametrize(
  'gains, holds',
  [
    ([10, 11, 12], True),
    ([4, 4.1, 4.2], False),  # sure, but below 5 points
    ([1, 11, 30], False),  # 14 on average, but the interval reaches below 0
    ([-10, -11, -12], False),
  ],
)
def test_clearly(gains, holds):
  base = np.array([30.0, 31.0, 33.0])
  (first, second) = judged(base, base + np.array(gains))
  assert first.holds is holds
  assert first.difference.mean == pytest.approx(np.mean(gains))
  assert second.holds and second.difference.low > 0


def test_the_rate_is_chosen_on_validation_problems():
  found = {3e-4: np.array([0.1, 0.5]), 6e-4: np.array([0.4, 0.4])}
  assert statements.chosen(found) == 6e-4
  found[1e-3] = np.array([0.4, 0.4])
  assert statements.chosen(found) == 6e-4


def test_the_triples_are_apart_and_used_for_no_pilot():
  seeds = [seed for triple in triples.TRIPLES for seed in triple]
  assert len(triples.TRIPLES) == 10 and len(set(seeds)) == 30
  assert not set(seeds) & set(triples.PILOT_SEEDS)
  config = quickstart_config.get_config()
  first = triples.TRIPLES[0]
  assert first == tuple(range(config.seed, config.seed + config.seeds))


def point(accuracy, retention, validation):
  seeds = np.array([-0.01, 0.0, 0.01])
  return training.Point(
    accuracy=accuracy + seeds, greedy=accuracy + 0.1 + seeds,
    retention=retention + seeds, validation=validation + seeds,
    shown=(('1+2', True), ('3', False)),
  )  # fmt: skip


def test_a_summary_follows_from_what_was_found(tmp_path, capsys):
  config = config_lib.load(SPEC)
  gained = {'sft': 0.45, 'grpo': 0.5, 'own': 0.4}
  points = {
    name: {
      2e-4: point(best - 0.05, 0.7, 0.3),
      # The best on validation problems is taken, not the best that is reported.
      4e-4: point(best, 0.4 if name == 'sft' else 0.7, 0.5),
      8e-4: point(best + 0.1, 0.1, 0.4),
    }
    for name, best in gained.items()
  }
  found = training.Found(
    base=point(0.3, 0.8, 0.3),
    points=points,
    steps={'sft': 70, 'grpo': 60, 'own': 52},
    account={name: {'flops': 1e11} for name in points},
    prompts=('1,2>3:', '2,3>7:'),
    problems={'new': dict(test=140, validation=130, shared=0, drawn=700),
              'old': dict(test=400, validation=0, shared=0, drawn=700)},
    seconds=100.0,
    commit='abc1234',
  )  # fmt: skip
  summary = command.summarise(config, found)
  arms = summary['arms']
  assert list(arms) == ['base', 'sft', 'grpo', 'own']
  for name, best in gained.items():
    assert arms[name]['rate'] == 4e-4
    assert arms[name]['accuracy'] == pytest.approx(best)
    assert arms[name]['accuracy_low'] < best - 0.02  # t of three seeds is wide
  above, kept = summary['statements']
  assert above['holds'] and above['difference'] == pytest.approx(20.0)
  # At 55% SFT has 10 points left, and GRPO, from 50%, 70 to 60%, 10: 40.
  assert kept['holds'] and kept['difference'] == pytest.approx(30.0)
  assert [x['completion'] for x in summary['samples'][:4]] == ['1+2'] * 4
  made = {'command': 'c', 'commit': 'abc1234', 'hardware': 'h'}
  command.show(summary)
  assert 'holds: GRPO stands clearly above' in capsys.readouterr().out
  page = report.write_comparison(tmp_path, summary | made).read_text()
  assert '140 different held-out' in page
  assert '50.0 [47.5, 52.5]' in page


def test_step_costs_by_hand():
  c = config_lib.load('configs/sft.py', [('prompts_per_step', '4')])
  run = build.build(c)
  model, sizes = run.model, run.sizes
  weights = transformer.param_count(model)
  scores = 2 * model.num_layers * model.num_heads * model.head_dim
  tokens = 4 * sizes.row_tokens
  forward = 2 * tokens * (weights + scores * sizes.row_tokens)
  assert accounting.step_flops(c, model, sizes) == pytest.approx(3 * forward)


def test_a_rollout_costs_its_prompts_once():
  c = config_lib.load('configs/rl.py', [])
  run = build.build(c)
  cost = accounting.step_flops(c, run.model, run.sizes)
  rows, length = run.sizes.rows, run.sizes.row_tokens
  update = 3 * accounting.forward_flops(run.model, rows, length)
  rollout = cost - update
  alone = accounting.forward_flops(run.model, rows, length)
  assert 0 < rollout < alone
  with_reference = config_lib.load('configs/rl.py', [('kl.coef', '0.1')])
  more = accounting.step_flops(with_reference, run.model, run.sizes)
  assert more == pytest.approx(cost + alone)
