"""A sweep whose points are trained by different processes."""

import json

import fake_gcs
import pytest

from posttrain_jax import log
from posttrain_jax.sweep import __main__ as command
from posttrain_jax.sweep import runner

TINY = (
  '--config', 'configs/sft.py:smoke', '--config.model.preset=depth-2',
  '--config.task.num_digits=1', '--config.log.tensorboard=false',
  '--config.eval.every=0', '--config.eval.samples=0', '--config.num_steps=2',
  '--config.eval.num_problems=0',
)  # fmt: skip
GRID = (*TINY, '--sweep', 'config.optimizer.lr=1e-3,1e-2,1e-1', '--seeds', '2')


def names(*words: str) -> list[str]:
  members, _ = command.parse([*GRID, '--dry_run', *words])
  return [member.name for member in members]


def test_a_point_is_a_setting_with_all_its_seeds():
  every = names()
  points = [names('--only', str(i)) for i in range(3)]
  assert sum(points, []) == every
  assert [len(point) for point in points] == [2, 2, 2]


@pytest.mark.parametrize('number', ['3', '-1'])
def test_a_point_that_is_not_there_is_named(number, capsys):
  assert command.main([*GRID, '--workdir', 'x', f'--only={number}']) == 2
  assert '3 settings, 0 to 2' in capsys.readouterr().err


def test_gather_and_only_do_not_go_together(capsys):
  words = [*GRID, '--workdir', 'x', '--only', '0', '--gather']
  assert command.main(words) == 2
  assert 'leave --only out' in capsys.readouterr().err


def write(path, steps: int) -> None:
  """Metrics of a run that came so far."""
  rows = [{'header': {}}]
  rows += [
    {'step': i + 1, 'split': 'train', 'loss': 1.0, 'num_tokens': 1.0,
     'time/step': 0.1}
    for i in range(steps)
  ]  # fmt: skip
  path.mkdir(parents=True, exist_ok=True)
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (path / 'metrics.jsonl').write_text(text)


def test_gather_names_what_is_not_through_and_trains_nothing(tmp_path, capsys):
  members, _ = command.parse([*GRID, '--dry_run'])
  for index, member in enumerate(members[:5]):
    write(runner.folder(tmp_path, member), 1 if index == 4 else 2)
  assert command.main([*GRID, '--workdir', str(tmp_path), '--gather']) == 2
  told = capsys.readouterr().err
  assert '2 of 6 runs' in told
  assert f'{members[4].name} (1 of 2 steps)' in told
  assert f'{members[5].name} (0 of 2 steps)' in told
  assert not (tmp_path / 'results.csv').exists()
  # One that failed on its way is through.
  for member in members[4:]:
    path = runner.folder(tmp_path, member) / 'failed'
    path.mkdir(parents=True)
    (path / 'step-2.json').write_text('{}')
  write(runner.folder(tmp_path, members[5]), 0)
  assert command.main([*GRID, '--workdir', str(tmp_path), '--gather']) == 0
  lines = (tmp_path / 'results.jsonl').read_text().splitlines()
  status = [json.loads(line)['status'] for line in lines]
  assert status == ['finished'] * 4 + ['diverged'] * 2


@pytest.mark.slow
def test_points_apart_are_the_sweep_at_once(tmp_path, capsys):
  apart, whole = tmp_path / 'apart', tmp_path / 'whole'
  grid = [*TINY, '--sweep', 'config.optimizer.lr=1e-3,1e-2']
  for point in ('1', '0'):
    words = [*grid, '--workdir', str(apart), '--only', point]
    assert command.main(words) == 0
    assert not (apart / 'results.csv').exists()
  assert command.main([*grid, '--workdir', str(apart), '--gather']) == 0
  assert command.main([*grid, '--workdir', str(whole)]) == 0
  rows = [
    [json.loads(line) for line in (x / 'results.jsonl').open()]
    for x in (apart, whole)
  ]
  for one, other in zip(*rows):
    assert one['name'] == other['name'] and one['seed'] == other['seed']
    assert one['train']['loss'] == pytest.approx(other['train']['loss'], 1e-4)
  assert len(log.read(apart / 'runs' / rows[0][0]['name'])[1]) == 2


@pytest.mark.slow
def test_points_of_a_bucket_are_gathered_there(capsys):
  grid = [*TINY, '--sweep', 'config.optimizer.lr=1e-3,1e-2']
  grid += ['--workdir', 'gs://bucket/lr']
  with fake_gcs.served() as objects:
    assert command.main([*grid, '--only', '1']) == 0
    assert command.main([*grid, '--gather']) == 2
    assert '1 of 2 runs' in capsys.readouterr().err
    assert command.main([*grid, '--only', '0']) == 0
    assert command.main([*grid, '--gather']) == 0
    text = objects['bucket/lr/results.jsonl'].decode()
    assert len(text.splitlines()) == 2
    assert objects['bucket/lr/results.csv'].startswith(b'optimizer.lr,')
