"""launch/tpu.sh and launch/worker.sh, with a gcloud that writes calls down."""

import os
import signal
import subprocess
import tarfile
import time

import pytest
from launch_fakes import (
  GCLOUD,
  LAUNCH,
  Fakes,
  checkout,
  commands,
  flag,
  flags,
)

SLICE = ('--name', 'grpo', '--zone', 'us-east5-b', '--topology', 'v6e:4x4')
RUN = ('configs/rl.py:smoke', 'gs://bucket/runs/grpo')
# What a shell would take apart.
ODD = ('--config.rewards=[{"name": "math_verify"}]', "--config.x=it's $HOME *",
       '--config.y=', '--config.z=a\\b;c&d|e')  # fmt: skip

# Flags of gcloud 528, by subcommand; --zone and --project of all.
GCLOUD_FLAGS = {
  'create': {
    '--accelerator-type', '--runtime-version', '--node-id', '--node-count',
    '--node-prefix', '--spot', '--reserved', '--network', '--subnetwork',
    '--internal-ips', '--service-account',
  },
  'describe': {'--format'},
  'delete': {'--force', '--quiet'},
  'scp': {'--worker', '--node', '--batch-size', '--tunnel-through-iap'},
  'ssh': {'--worker', '--node', '--batch-size', '--tunnel-through-iap',
          '--ssh-flag', '--command'},
}  # fmt: skip


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return checkout(tmp_path_factory.mktemp('checkout'))


@pytest.fixture
def fakes(tmp_path, root) -> Fakes:
  made = Fakes(tmp_path, root)
  made.add('gcloud', GCLOUD)
  return made


def steps(fakes: Fakes) -> list[str]:
  """'create', 'scp', ... of all calls that change or reach something."""
  words = [call[4] for call in fakes.calls('gcloud')]
  return [word for word in words if word != 'describe']


def known(call: list[str]) -> bool:
  return flags(call) <= GCLOUD_FLAGS[call[4]] | {'--zone', '--project'}


def test_a_run_from_the_queue_to_the_end(fakes):
  fakes.write('runs', '0\n')
  done = fakes.run(
    'tpu.sh', *SLICE, '--spot', '--project', 'p', '--network', 'n',
    '--subnetwork', 's', '--service_account', 'a@p', *RUN, *ODD,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert steps(fakes) == ['create', 'scp', 'ssh', 'delete']
  assert all(known(call) for call in fakes.calls('gcloud'))
  (create,) = fakes.calls('create')
  assert create[:6] == ['gcloud', 'compute', 'tpus', 'queued-resources',
                        'create', 'grpo']  # fmt: skip
  assert {
    '--zone=us-east5-b', '--project=p', '--accelerator-type=v6e-16',
    '--runtime-version=v2-alpha-tpuv6e', '--node-id=grpo', '--spot',
    '--network=n', '--subnetwork=s', '--service-account=a@p',
  } <= set(create)  # fmt: skip
  for what in ('scp', 'ssh'):
    assert '--worker=all' in fakes.calls(what)[0]
  # The working tree, without what git ignores.
  with tarfile.open(fakes.folder / 'home' / 'posttrain.tgz') as bundle:
    names = bundle.getnames()
  assert {'launch/worker.sh', 'posttrain_jax/train.py', 'configs/mine.py'} <= (
    set(names)
  )
  assert not [x for x in names if x.startswith(('.venv', '.git/'))]


def test_a_slice_that_is_taken_away_is_asked_for_again(fakes):
  fakes.write('runs', '255 SUSPENDED\n137 SUSPENDING\n0\n')
  done = fakes.run('tpu.sh', *SLICE, '--spot', *RUN)
  assert done.returncode == 0, done.stderr
  assert steps(fakes) == ['create', 'scp', 'ssh', 'delete'] * 3
  told = [flag(call, '--command') for call in fakes.calls('ssh')]
  assert len(set(told)) == 1, 'the same command on the same workdir'
  assert 'taken away (2 of at most 100 times)' in done.stderr


def test_a_node_that_is_taken_away_while_the_queue_says_active(fakes):
  fakes.write('node', 'PREEMPTED\n')
  fakes.write('runs', '1 ACTIVE\n0\n')
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 0, done.stderr
  assert steps(fakes).count('create') == 2


def test_there_is_an_end_to_being_taken_away(fakes):
  fakes.write('runs', '255 SUSPENDED\n' * 5)
  done = fakes.run('tpu.sh', *SLICE, '--tries', '2', *RUN)
  assert done.returncode == 255
  assert steps(fakes).count('create') == 3


@pytest.mark.parametrize('status', [1, 2, 143])
@pytest.mark.parametrize('keep', [(), ('--keep',)])
def test_a_run_that_fails_is_not_started_again(fakes, status, keep):
  fakes.write('runs', f'{status}\n0\n')
  done = fakes.run('tpu.sh', *SLICE, *keep, *RUN)
  assert done.returncode == status
  assert steps(fakes).count('create') == 1
  # It costs nothing any more, unless it should be kept.
  assert steps(fakes).count('delete') == (0 if keep else 1)
  assert f'ended with status {status}' in done.stderr
  assert ('costs' in done.stderr) == bool(keep)


def test_a_connection_that_drops_is_made_again(fakes):
  fakes.write('runs', '255\n1 ACTIVE\n0\n')  # once the network, once gcloud
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 0, done.stderr
  assert steps(fakes).count('create') == 1
  assert done.stderr.count('looking for it again') == 2


def test_a_slice_in_which_another_run_goes_on_is_left_alone(fakes):
  fakes.write('state', 'ACTIVE\n')
  fakes.write('runs', '3 ACTIVE\n')  # as launch/worker.sh says it
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 2 and 'another run' in done.stderr
  assert steps(fakes) == ['scp', 'ssh']


def test_a_slice_that_is_there_is_used(fakes):
  fakes.write('state', 'ACTIVE\n')
  fakes.write('runs', '0\n')
  assert fakes.run('tpu.sh', *SLICE, *RUN).returncode == 0
  assert 'create' not in steps(fakes)


def test_a_request_that_fails_says_why(fakes):
  fakes.write('born', 'FAILED\n')
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 2
  assert 'the request for grpo failed' in done.stderr


def test_a_request_that_is_refused_ends_it_unless_it_had_a_slice(fakes):
  fakes.write('refused', 'Quota exceeded\n')
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 2 and 'Quota exceeded' in done.stderr
  assert steps(fakes) == ['create']
  # Of a slice that was taken away, the next is asked for until it comes.
  fakes.write('runs', '255 SUSPENDED\n0\n')
  fakes.write('state', 'ACTIVE\n')
  fakes.write('refused', 'no capacity\n')
  done = fakes.run('tpu.sh', *SLICE, *RUN)
  assert done.returncode == 0, done.stderr
  assert steps(fakes).count('create') == 3


def test_a_launcher_that_is_stopped_says_how_to_end_the_run(fakes):
  fakes.write('hangs', '')
  process = subprocess.Popen(
    ['bash', str(fakes.launch / 'tpu.sh'), *SLICE, '--project', 'p', *RUN],
    env=fakes.env(), text=True, stderr=subprocess.PIPE, start_new_session=True,
  )  # fmt: skip
  while not (fakes.folder / 'begun').exists():
    assert process.poll() is None
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGTERM)
  _, told = process.communicate(timeout=20)
  assert process.returncode == 130
  assert 'delete' not in steps(fakes)
  assert '--name grpo --zone us-east5-b --project p --delete' in told


def test_several_slices_are_reached_through_the_queue(fakes):
  fakes.write('runs', '0\n')
  fakes.run('tpu.sh', *SLICE, '--slices', '2', '--internal_ips', *RUN)
  (create,) = fakes.calls('create')
  assert {'--node-count=2', '--node-prefix=grpo', '--internal-ips'} <= set(
    create
  )
  for what in ('scp', 'ssh'):
    (call,) = fakes.calls(what)
    assert {
      'queued-resources', '--node=all', '--worker=all', '--batch-size=all',
      '--tunnel-through-iap',
    } <= set(call)  # fmt: skip
    assert known(call)


def test_dry_run_prints_what_would_be_run_and_runs_nothing(fakes):
  shown = fakes.run('tpu.sh', '--dry_run', *SLICE, '--spot', *RUN, *ODD)
  assert shown.returncode == 0, shown.stderr
  assert fakes.calls() == []
  fakes.write('runs', '0\n')
  fakes.run('tpu.sh', *SLICE, '--spot', *RUN, *ODD)
  real = [call for call in fakes.calls('gcloud') if 'describe' not in call]
  bundle = lambda word: word if word[-4:] != '.tgz' else word.split('/')[-1]
  real = [[bundle(word) for word in call] for call in real]
  assert commands(shown.stdout) == real


def test_delete_only_deletes(fakes):
  fakes.write('state', 'ACTIVE\n')
  done = fakes.run('tpu.sh', '--name', 'grpo', '--zone', 'z', '--delete')
  assert done.returncode == 0 and steps(fakes) == ['delete']


# The worker's side, with a Python that writes down what it is asked to run.


def venv(fakes: Fakes, body: str = '') -> str:
  """A folder like .venv with that Python, and the extra already there."""
  folder = fakes.folder / 'venv'
  (folder / 'bin').mkdir(parents=True)
  fakes.add('python', f'[ "$1" = -c ] && exit 0\n{body}')
  (fakes.bin / 'python').rename(folder / 'bin' / 'python')
  (folder / '.extra-tpu,gcs').touch()
  return str(folder)


def test_words_reach_the_run_as_they_are(fakes):
  """Through gcloud's --command, the worker's shell and launch/local.sh."""
  fakes.write('really', '')
  place = venv(fakes, 'echo "$GIVEN"; exit 5\n')
  words = (*SLICE, '--env', 'GIVEN=a "b" c', '--point', '3', '--no_check',
           *RUN, *ODD)  # fmt: skip
  done = fakes.run('tpu.sh', *words, VENV=place)
  (call,) = fakes.calls('python', '-m')
  assert call[1:] == [
    '-m', 'posttrain_jax.sweep', '--config', RUN[0], '--workdir', RUN[1], *ODD,
    '--only', '3',
  ]  # fmt: skip
  assert ': a "b" c\n' in done.stdout, 'its log, after the name of the host'
  # gcloud storage cp LOG gs://.../logs/HOST-TIME.log
  (copy,) = fakes.calls('storage', 'cp')
  assert copy[4].startswith(f'{RUN[1]}/logs/')


def test_a_worker_finds_its_run_again(fakes):
  waits = 'while [ ! -e "$FAKES/end" ]; do sleep .05; done'
  place = venv(fakes, f'echo one; {waits}; echo two; exit 7\n')
  home = fakes.folder / 'home'
  home.mkdir()
  subprocess.run(['cp', '-r', str(LAUNCH), str(home)], check=True)
  start = lambda *words: subprocess.Popen(
    ['bash', str(home / 'launch' / 'worker.sh'), *words],
    env=fakes.env(VENV=place, EXTRA='tpu,gcs'), text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  first = start(*RUN)
  assert first.stdout.readline().endswith(': one\n')
  first.kill()  # the connection is gone, the run is not
  other = start('configs/sft.py', RUN[1])
  assert other.wait(20) == 3
  assert 'another run is going on here' in other.stderr.read()
  second = start(*RUN)
  time.sleep(0.1)
  fakes.write('end', '')
  out, _ = second.communicate(timeout=20)
  assert second.returncode == 7 and out.endswith(': two\n')
  assert len(fakes.calls('python', '-m')) == 1
