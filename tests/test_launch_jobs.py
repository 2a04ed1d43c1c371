"""launch/gke.sh, slurm.sh and sweep.sh, with fakes that write calls down."""

import json
import shlex
import subprocess

import pytest
import yaml
from launch_fakes import (
  GCLOUD,
  LAUNCH,
  ROOT,
  Fakes,
  checkout,
  commands,
  flag,
  flags,
)

RUN = ('configs/rl.py:smoke', 'gs://bucket/runs/grpo')
ODD = ('--config.rewards=[{"name": "math_verify"}]', "--config.x=it's @NAME@ &",
       '--config.y=', '--config.z=a\\b"c')  # fmt: skip
POD = ('--name', 'grpo', '--topology', 'v5e:4x8', '--image', 'gcr.io/p/image')

# Flags of `xpk workload create` 1.16 and of sbatch 24.
XPK_FLAGS = {
  '--cluster', '--workload', '--project', '--zone', '--tpu-type',
  '--num-slices', '--docker-image', '--max-restarts', '--restart-on-exit-codes',
  '--termination-grace-period-seconds', '--spot', '--env', '--command',
}  # fmt: skip
SBATCH_FLAGS = {
  '--job-name', '--nodes', '--ntasks-per-node', '--gpus-per-node', '--requeue',
  '--open-mode', '--signal', '--chdir', '--output', '--time', '--array',
  '--partition',
}  # fmt: skip


@pytest.fixture
def fakes(tmp_path) -> Fakes:
  made = Fakes(tmp_path)
  made.add('kubectl', 'cat >"$FAKES/manifest"\n')
  for name in ('xpk', 'sbatch', 'scontrol'):
    made.add(name)
  return made


def test_the_manifest_is_what_was_asked_for(fakes):
  done = fakes.run(
    'gke.sh', *POD, '--spot', '--slices', '2', '--namespace', 'team',
    '--queue', 'q', '--env', 'A=b "c"', '--env', 'E=', *RUN, *ODD,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (apply,) = fakes.calls('kubectl')
  assert apply == ['kubectl', 'apply', '--namespace=team', '-f', '-']
  manifest = yaml.safe_load((fakes.folder / 'manifest').read_text())
  assert manifest['metadata']['name'] == 'grpo'
  assert manifest['metadata']['labels'] == {'kueue.x-k8s.io/queue-name': 'q'}
  (job,) = manifest['spec']['replicatedJobs']
  assert job['replicas'] == 2
  spec = job['template']['spec']
  # 32 chips, of which a host has 4.
  assert spec['parallelism'] == spec['completions'] == 8
  pod = spec['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x8',
    'cloud.google.com/gke-spot': 'true',
  }
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert container['command'] == ['python', '-m', 'posttrain_jax.train']
  assert container['args'] == [
    '--config', RUN[0], '--workdir', RUN[1], *ODD,
  ]  # fmt: skip
  assert container['env'] == [
    {'name': 'A', 'value': 'b "c"'},
    {'name': 'E', 'value': ''},
  ]
  # Status 2 ends it; a preemption starts all hosts again.
  (rule,) = spec['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob' and rule['onExitCodes']['values'] == [2]
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 100


def test_dry_run_of_gke_prints_the_manifest_alone(fakes):
  shown = fakes.run('gke.sh', '--dry_run', *POD, *RUN, *ODD)
  fakes.run('gke.sh', *POD, *RUN, *ODD)
  assert len(fakes.calls()) == 1
  manifest = (fakes.folder / 'manifest').read_text()
  assert shown.stdout == manifest + '# the above | kubectl apply -f -\n'


def test_xpk_takes_the_same_run(fakes):
  words = (*POD, '--xpk', '--cluster', 'c', '--zone', 'z', '--spot',
           '--env', 'A=b c', *RUN, *ODD)  # fmt: skip
  shown = fakes.run('gke.sh', '--dry_run', *words)
  assert fakes.calls() == []
  done = fakes.run('gke.sh', *words)
  assert done.returncode == 0, done.stderr
  (call,) = fakes.calls('xpk', 'workload', 'create')
  assert commands(shown.stdout) == [call]
  assert flags(call) <= XPK_FLAGS
  assert {'--tpu-type=v5litepod-32', '--env=A=b c', '--zone=z'} <= set(call)
  assert shlex.split(flag(call, '--command')) == [
    'python', '-m', 'posttrain_jax.train', '--config', RUN[0],
    '--workdir', RUN[1], *ODD,
  ]  # fmt: skip


GPUS = ('--nodes', '2', '--gpus', '8', '--time', '08:00:00')


def venv(fakes: Fakes, body: str = '') -> str:
  """A folder like .venv that has everything installed."""
  folder = fakes.folder / 'venv'
  (folder / 'bin').mkdir(parents=True)
  fakes.add('python', f'[ "$1" = -c ] && exit 0\n{body or "exit 0"}')
  (fakes.bin / 'python').rename(folder / 'bin' / 'python')
  (folder / '.extra-cuda').touch()
  return str(folder)


@pytest.mark.parametrize('how, tasks', [((), 8), (('--per_node',), 1)])
def test_slurm_gets_a_process_for_each_gpu_or_node(fakes, how, tasks):
  place = venv(fakes)
  words = (*GPUS, *how, '--sbatch', '--partition=a100', 'configs/rl.py',
           'runs/x', *ODD)  # fmt: skip
  shown = fakes.run('slurm.sh', '--dry_run', *words, VENV=place)
  assert fakes.calls('sbatch') == []
  done = fakes.run('slurm.sh', *words, VENV=place)
  assert done.returncode == 0, done.stderr
  (call,) = fakes.calls('sbatch')
  assert commands(shown.stdout)[-1] == call
  at = call.index('launch/slurm.sbatch')
  assert flags(call[:at]) <= SBATCH_FLAGS
  assert {'--nodes=2', f'--ntasks-per-node={tasks}', '--gpus-per-node=8',
          '--requeue', '--signal=TERM@180', '--time=08:00:00',
          '--partition=a100', f'--chdir={ROOT}'} <= set(call)  # fmt: skip
  assert call[at + 1 :] == [
    '100', f'{place}/bin/python', '-m', 'posttrain_jax.train',
    '--config', 'configs/rl.py', '--workdir', 'runs/x', *ODD,
  ]  # fmt: skip


def batch(fakes: Fakes, status: int, **env: str) -> subprocess.CompletedProcess:
  """The script of a job on two nodes, whose processes end with a status."""
  # srun: the second of the processes.
  fakes.add('srun', 'while [ "${1#--}" != "$1" ]; do shift; done\n'
                    f'SLURM_PROCID=1 "$@"; exit {status}\n')  # fmt: skip
  fakes.add('program', 'env | grep ^JAX_\n')
  fakes.add('scontrol', '[ "$1" != show ] || printf "n1\nn2\n"\n')
  given = {'SLURM_JOB_ID': '4099', 'SLURM_JOB_NODELIST': 'n[1-2]',
           'SLURM_JOB_NUM_NODES': '2', **env}  # fmt: skip
  return subprocess.run(
    ['bash', str(LAUNCH / 'slurm.sbatch'), '3', 'program', '-m', 'm', *ODD],
    env=fakes.env(**given), capture_output=True, text=True,
  )  # fmt: skip


def test_a_job_that_was_told_to_stop_queues_again(fakes):
  done = batch(fakes, 143, SLURM_RESTART_COUNT='2')
  assert done.returncode == 0
  assert fakes.calls('scontrol') == [['scontrol', 'requeue', '4099']]
  (call,) = fakes.of('program')
  assert call == ['program', '-m', 'm', *ODD]


@pytest.mark.parametrize(
  'status, starts', [(0, '0'), (1, '0'), (2, '0'), (130, '0'), (143, '3')]
)
def test_a_job_that_ended_stays_ended(fakes, status, starts):
  done = batch(fakes, status, SLURM_RESTART_COUNT=starts)
  assert done.returncode == status
  assert fakes.calls('scontrol') == []


@pytest.mark.parametrize('tasks, whole', [('1', True), ('4', False)])
def test_a_process_of_a_whole_node_takes_all_its_gpus(fakes, tasks, whole):
  done = batch(fakes, 0, SLURM_NTASKS_PER_NODE=tasks, SLURM_GPUS_ON_NODE='4')
  said = set(done.stdout.split()) & {
    'JAX_COORDINATOR_ADDRESS=n1:61443', 'JAX_NUM_PROCESSES=2',
    'JAX_PROCESS_ID=1',
  }  # fmt: skip
  assert len(said) == (3 if whole else 0), done.stdout
  (call,) = fakes.of('program')
  assert call == ['program', '-m', 'm', *ODD]


def test_an_element_of_an_array_is_a_point(fakes):
  batch(fakes, 0, SLURM_ARRAY_TASK_ID='5')
  (call,) = fakes.of('program')
  assert call[-2:] == ['--only', '5']


GRID = ('configs/sft.py', '--sweep', 'config.optimizer.lr=1e-4,3e-4', '--seeds',
        '2')  # fmt: skip
# What posttrain_jax.sweep --dry_run prints of it.
NAMES = 'lr=1e-4-aa/seed0\nlr=1e-4-aa/seed1\nlr=3e-4-bb/seed0\nlr=3e-4-bb/seed1'


def gathered(done: subprocess.CompletedProcess) -> list[str]:
  line = done.stderr.splitlines()[-1]
  return shlex.split(line.partition('when all are through: ')[2])


def test_a_sweep_on_slurm_is_an_array(fakes):
  place = venv(fakes, f'printf {shlex.quote(NAMES)}\n')
  config, *rest = GRID
  done = fakes.run(
    'sweep.sh', 'slurm', '--at_once', '4', '--gpus', '1', config, 'runs/lr',
    *rest, VENV=place,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (call,) = fakes.calls('sbatch')
  assert flag(call, '--array') == '0-1%4'  # settings, not runs
  at = call.index('-m')
  assert call[at : at + 2] == ['-m', 'posttrain_jax.sweep']
  assert call[-len(rest) :] == rest
  assert gathered(done) == [
    f'{place}/bin/python', '-m', 'posttrain_jax.sweep', '--config', config,
    *rest, '--workdir', 'runs/lr', '--gather',
  ]  # fmt: skip


def test_a_sweep_on_tpus_is_a_slice_for_each_point(tmp_path):
  fakes = Fakes(tmp_path, checkout(tmp_path / 'checkout'))
  fakes.add('gcloud', GCLOUD)
  fakes.write('runs', '0\n1\n0\n')  # in turn: the second point fails
  config, *rest = GRID
  done = fakes.run(
    'sweep.sh', 'tpu', '--points', '3', '--at_once', '1', '--zone', 'z',
    '--topology', 'v5e:2x4', '--spot', config, 'gs://b/lr', *rest,
  )  # fmt: skip
  assert done.returncode == 1
  assert '1 of 3 points failed' in done.stderr
  names = [call[5] for call in fakes.calls('create')]
  assert names == ['posttrain-0', 'posttrain-1', 'posttrain-2']
  assert len(fakes.calls('delete')) == 3
  told = [c for c in fakes.calls('ssh') if '--worker=all' in c]
  for point, call in enumerate(told):
    words = shlex.split(flag(call, '--command').partition('&& env ')[2])
    assert 'PROGRAM=sweep' in words
    assert words[words.index('launch/worker.sh') + 1 :] == [
      config, 'gs://b/lr', *rest, '--only', str(point),
    ]  # fmt: skip


def test_dry_run_of_a_sweep_starts_nothing(fakes):
  fakes.add('gcloud', GCLOUD)
  config, *rest = GRID
  for where, words in (
    ('tpu', ('--zone', 'z', '--topology', 'v5e:2x4')),
    ('gke', ('--topology', 'v5e:2x4', '--image', 'i')),
  ):
    shown = fakes.run(
      'sweep.sh', where, '--dry_run', '--points', '2', *words, config,
      'gs://b/lr', *rest,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert 'posttrain-0' in shown.stdout and 'posttrain-1' in shown.stdout
  assert fakes.calls() == []


def test_points_cannot_be_counted_without_the_project(fakes, tmp_path):
  done = fakes.run(
    'sweep.sh', 'slurm', *GRID[:1], 'runs/lr', *GRID[1:],
    VENV=str(tmp_path / 'none'),
  )  # fmt: skip
  assert done.returncode == 2 and '--points N' in done.stderr


def test_json_of_the_manifest_is_json(fakes):
  shown = fakes.run('gke.sh', '--dry_run', *POD, *RUN, *ODD).stdout
  (line,) = [x for x in shown.splitlines() if x.strip().startswith('args:')]
  assert json.loads(line.partition('args:')[2])[4:] == list(ODD)
