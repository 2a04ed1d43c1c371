"""Several processes on loopback: what they train is what one process trains."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from host_jobs import close, job, kinds, rows_of, write_files
from hosts import Hosts, train

from posttrain_jax.run import checkpoint, loop
from posttrain_jax.run import config as config_lib


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_files(tmp_path_factory.mktemp('data'))


@pytest.mark.long
def test_two_processes_train_what_one_does_and_one_goes_on(folder, tmp_path):
  """The one is this process, on two of its devices."""
  two, half = str(tmp_path / 'two'), str(tmp_path / 'half')
  few = {'num_steps': '2', 'eval.every': '0', 'data.eval_fraction': '0'}
  more = few | {'num_steps': '4'}
  train([job(folder, 'answers', two, **more),
         job(folder, 'answers', half, **few)], 2, 1)  # fmt: skip
  one = str(tmp_path / 'one')
  for workdir in (one, half):
    found = job(folder, 'answers', workdir, **more, **{'mesh.data': '2'})
    loop.train(config_lib.load(found['spec'], found['items']), workdir)
  close(one, two)
  close(one, half)
  assert sorted(os.listdir(two)) == [
    'checkpoints', 'config.json', 'metrics.jsonl'
  ]  # fmt: skip


MESH = {'mesh.data': '2', 'mesh.fsdp': '2'}


def jobs_of(folder, names, where, **more):
  return [job(folder, n, where / n, **MESH, **more) for n in names]


@pytest.mark.slow
def test_every_kind_of_run_with_two_processes(folder, tmp_path):
  names = list(kinds(folder))
  train(jobs_of(folder, names, tmp_path / '1'), 1, 4, folder)
  train(jobs_of(folder, names, tmp_path / '2'), 2, 2, folder)
  for name in names:
    close(tmp_path / '1' / name, tmp_path / '2' / name)


@pytest.mark.slow
def test_four_processes_begin_two_go_on_and_one_ends(folder, tmp_path):
  names = ['packed', 'prompts']
  one, changed = tmp_path / '1', tmp_path / 'changed'
  # A rate that falls would fall by the steps that each part has.
  still = {'optimizer.schedule': 'constant'}
  train(jobs_of(folder, names, one, **still), 1, 4, folder)
  for steps, count in ((2, 4), (3, 2), (4, 1)):
    more = {'num_steps': str(steps), **still}
    train(jobs_of(folder, names, changed, **more), count, 4 // count, folder)
  for name in names:
    both = [
      [row['loss'] for row in rows_of(where / name) if 'loss' in row]
      for where in (one, changed)
    ]
    np.testing.assert_allclose(*both, rtol=1e-6, atol=1e-7)


def command(folder, workdir, **more):
  found = job(folder, 'answers', workdir, **more)
  flags = [f'--config.{k}={v}' for k, v in found['items']]
  return ['-m', 'posttrain_jax.train', '--config', found['spec'],
          '--workdir', str(workdir), *flags]  # fmt: skip


def steps_done(workdir):
  file = Path(workdir) / 'metrics.jsonl'
  return len(file.read_text().splitlines()) if file.exists() else 0


LONG = {'num_steps': '400', 'eval.every': '0', 'data.eval_fraction': '0',
        'checkpoint.every': '0', 'optimizer.schedule': 'constant',
        'optimizer.warmup_updates': '0'}  # fmt: skip


@pytest.mark.slow
def test_a_signal_at_one_of_four_saves_one_step_of_all(folder, tmp_path):
  workdir = tmp_path / 'run'
  with Hosts(4) as hosts:
    hosts.start(command(folder, workdir, **LONG))
    hosts.until(lambda: steps_done(workdir) > 5)
    hosts.kill(2, signal.SIGTERM)
    assert hosts.wait() == [128 + signal.SIGTERM] * 4, hosts.logs()
    assert 'goes on from there' in hosts.log(0)
  _, step = checkpoint.find(workdir)
  assert 5 < step < 400 and len(checkpoint.steps(workdir)) == 1
  assert rows_of(workdir)[-1]['step'] == step
  # On two processes it goes on, and is the run that nobody stopped.
  few = {**LONG, 'num_steps': str(step + 3)}
  train([job(folder, 'answers', workdir, **few)], 2, 2)
  train([job(folder, 'answers', tmp_path / 'straight', **few)], 1, 4)
  close(tmp_path / 'straight', workdir)


@pytest.mark.slow
def test_one_killed_ends_all_and_all_go_on(folder, tmp_path):
  workdir = tmp_path / 'run'
  often = {**LONG, 'checkpoint.every': '3'}
  with Hosts(2) as hosts:
    hosts.start(command(folder, workdir, **often))
    hosts.until(lambda: len(checkpoint.steps(workdir)) > 1)
    hosts.kill(1)
    statuses = hosts.wait(90)
    assert statuses[1] == -signal.SIGKILL and statuses[0] != 0
  step = checkpoint.find(workdir)[1]
  few = {**often, 'num_steps': str(step + 4)}
  train([job(folder, 'answers', workdir, **few)], 2, 1)
  train([job(folder, 'answers', tmp_path / 'straight', **few)], 1, 2)
  close(tmp_path / 'straight', workdir)


@pytest.mark.slow
def test_what_goes_wrong_is_one_sentence_on_all(folder, tmp_path):
  """A mesh that leaves one out; a loss that is no number, with its record,
  taken again; a start from the run of others."""
  run = tmp_path / 'run'
  with Hosts(2) as hosts:
    hosts.start(command(folder, run, **{'mesh.data': '1', 'mesh.fsdp': '1'}))
    assert hosts.wait() == [2, 2], hosts.logs()
    assert 'with several processes it has to take all' in hosts.log(0)
  with Hosts(2) as hosts:
    hosts.start(command(folder, run, **{'optimizer.lr': '1e39'}))
    assert hosts.wait() == [1, 1], hosts.logs()
    assert 'to see it again' in hosts.log(0)
  record = next((run / 'failed').glob('step-*.json'))
  with Hosts(2) as hosts:
    hosts.start(['-m', 'posttrain_jax.train', '--replay', str(record)])
    assert hosts.wait() == [1, 1], hosts.logs()
    assert 'every metric bit for bit as recorded' in hosts.log(0)
  good = tmp_path / 'good'
  jobs = [job(folder, 'grpo', good, num_steps='2')]
  jobs += [
    job(folder, 'grpo', tmp_path / 'next', init_from=str(good), num_steps='2')
  ]
  train(jobs, 2, 1)
  jobs[1]['workdir'] = str(tmp_path / 'alone')
  train(jobs[1:], 1, 2)
  close(tmp_path / 'alone', tmp_path / 'next')


@pytest.mark.slow
def test_two_processes_evaluate_as_one(folder, tmp_path):
  found = job(folder, 'grpo', tmp_path, num_steps='1', **{'mesh.data': '1'})
  loop.train(config_lib.load(found['spec'], found['items']), tmp_path)
  said = {}
  for count in (1, 2):
    with Hosts(count, 2 // count) as hosts:
      flags = ['--model', str(tmp_path), '--config.mesh.data=-1']
      hosts.start(['-m', 'posttrain_jax.evaluate', *flags])
      assert hosts.wait() == [0] * count, hosts.logs()
      text = hosts.log(0)
      said[count] = json.loads(text[text.index('{') : text.rindex('}') + 1])
      assert count == 1 or '{' not in hosts.log(1)
  assert said[1].keys() == said[2].keys()
  for name, value in said[1].items():
    np.testing.assert_allclose(said[2][name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_bad_data_and_missing_processes_are_named(folder, tmp_path):
  bad = tmp_path / 'bad.jsonl'
  good = (folder / 'answers.jsonl').read_text().splitlines()
  long = json.dumps({'prompt': 'x' * 40, 'completion': 'y'})
  # More than are looked at before a run, in the order of the file.
  bad.write_text('\n'.join((good * 500)[:9000] + [long]) + '\n')
  with Hosts(2, POSTTRAIN_START_TIMEOUT='4') as hosts:
    hosts.start_one(0, command(folder, tmp_path / 'none'))
    assert hosts.wait() == [2], hosts.log(0)
    assert 'process 1 of 2 did not come to 127.0.0.1' in hosts.log(0)
