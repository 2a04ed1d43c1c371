"""What launch/ finds wrong before a machine is asked for."""

import pytest
from launch_fakes import GCLOUD, Fakes, checkout

CONFIG, WORKDIR = 'configs/rl.py:smoke', 'gs://bucket/run'
RUN = (CONFIG, WORKDIR)
# A whole command line of each script, and the program that it calls.
SCRIPTS = {
  'tpu.sh': ('--name', 'a', '--zone', 'z', '--topology', 'v5e:2x4'),
  'gke.sh': ('--name', 'a', '--topology', 'v5e:2x4', '--image', 'i'),
  'slurm.sh': ('--nodes', '2', '--gpus', '4'),
  'sweep.sh': ('tpu', '--points', '2', '--zone', 'z', '--topology', 'v5e:2x4'),
}
PROGRAMS = ('gcloud', 'kubectl', 'sbatch')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  made = checkout(tmp_path_factory.mktemp('checkout'))
  for name in ('runs/base/x', 'data/a.jsonl', 'new.jsonl', 'posttrain_jax/d'):
    (made / name).parent.mkdir(parents=True, exist_ok=True)
    (made / name).write_text('{}')
  (made.parent / 'out.jsonl').write_text('{}')
  (made / 'linked.jsonl').symlink_to(made.parent / 'out.jsonl')
  return made


@pytest.fixture
def fakes(tmp_path, root) -> Fakes:
  made = Fakes(tmp_path, root)
  made.add('gcloud', GCLOUD)
  made.add('kubectl', 'cat >/dev/null\n')
  made.add('sbatch')
  made.write('runs', '0\n' * 9)
  return made


def asked(fakes: Fakes) -> list[list[str]]:
  return [call for name in PROGRAMS for call in fakes.of(name)]


@pytest.mark.parametrize('script', SCRIPTS)
def test_the_run_is_tried_here_before_machines_are_asked_for(fakes, script):
  refuses = """echo note
[ -e "$FAKES/fine" ] && exit 0
echo "$XLA_FLAGS" >"$FAKES/flags"
echo "error: no file matches x" >&2
exit 2
"""
  place, words = fakes.venv(refuses), SCRIPTS[script]
  given = (*RUN, '--config.data.path=x')
  done = fakes.run(script, *words, *given, VENV=place, EXTRA='')
  assert done.returncode == 2 and asked(fakes) == []
  assert 'error: no file matches x\n' in done.stderr
  assert '--no_check' in done.stderr
  (call,) = fakes.calls('python', '--dry_run')
  program = 'sweep' if script == 'sweep.sh' else 'train'
  assert call[1:5] == ['-m', f'posttrain_jax.{program}', '--config', CONFIG]
  assert '--config.data.path=x' in call
  # As many devices as the machines have.
  assert (fakes.folder / 'flags').read_text().strip().endswith('_count=8')
  # It may be asked for all the same, or when it works: once for all points.
  fakes.run(
    script, *words[:1], *words[1:], '--no_check', *given, VENV=place, EXTRA=''
  )
  assert asked(fakes) and len(fakes.calls('python', '--dry_run')) == 1
  fakes.write('fine', '')
  done = fakes.run(script, *words, *given, VENV=place, EXTRA='')
  assert done.returncode == 0, done.stderr
  assert len(fakes.calls('python', '--dry_run')) == 2


def test_without_a_python_it_is_said_that_nothing_was_tried(fakes):
  done = fakes.run('tpu.sh', *SCRIPTS['tpu.sh'], *RUN)
  assert done.returncode == 0
  assert 'config and data are not checked first' in done.stderr


LOST = ['runs/base', 'runs/*/x', 'runs/base:train', '../out.jsonl',
        'linked.jsonl', '[{"path": "runs/base/x", "weight": 2}]']  # fmt: skip


@pytest.mark.parametrize('script', ['tpu.sh', 'gke.sh'])
@pytest.mark.parametrize('value', [*LOST, '/'])
def test_a_path_that_does_not_reach_the_machines(fakes, root, script, value):
  value = str(root / 'new.jsonl') if value == '/' else value
  words = (*SCRIPTS[script], *RUN, f'--config.some.key={value}')
  for more in ((), ('--dry_run',)):
    done = fakes.run(script, *more, *words)
    assert done.returncode == 2 and asked(fakes) == []
    assert 'does not reach the machines' in done.stderr
    assert '--config.some.key=' in done.stderr
  done = fakes.run(script, '--no_check', *words)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  'script, value, fine',
  [
    ('tpu.sh', 'data/a.jsonl', True),
    ('tpu.sh', 'data/*.jsonl', True),
    ('tpu.sh', 'new.jsonl', True),
    ('tpu.sh', 'gs://bucket/runs/base', True),
    ('tpu.sh', 'owner/name@main', True),
    ('tpu.sh', 'head.*', True),
    ('tpu.sh', '*', True),
    ('gke.sh', 'posttrain_jax/d', True),
    ('gke.sh', 'data/a.jsonl', False),
  ],
)
def test_what_reaches_the_machines(fakes, script, value, fine):
  done = fakes.run(script, *SCRIPTS[script], *RUN, f'--config.x={value}')
  assert (done.returncode == 0) == fine, done.stderr


@pytest.mark.parametrize('script', SCRIPTS)
def test_options_are_written_both_ways(fakes, script):
  """--a b and --a=b are the same, of every option of a command line."""
  first = SCRIPTS[script][:1] if script == 'sweep.sh' else ()
  words = SCRIPTS[script][len(first) :]
  pairs = [f'{a}={b}' for a, b in zip(words[::2], words[1::2])]
  place = fakes.venv()
  one, other = (
    fakes.run(script, *first, '--dry_run', *form, *RUN, VENV=place).stdout
    for form in (words, pairs)
  )
  assert one and one == other


@pytest.mark.parametrize('script', SCRIPTS)
@pytest.mark.parametrize(
  'wrong, said',
  [
    (('--dryrun',), 'Did you mean --dry_run?'),
    (('--dry-run',), 'Did you mean --dry_run?'),
    (('--dry_run=1',), '--dry_run takes no value'),
    (('--nocheck',), 'Did you mean --no_check?'),
    (('--sppot', 'x'), 'unknown option --sppot'),
  ],
)
def test_a_misspelt_option_is_named(fakes, script, wrong, said):
  first = SCRIPTS[script][:1] if script == 'sweep.sh' else ()
  words = SCRIPTS[script][len(first) :]
  done = fakes.run(script, *first, *wrong, *words, *RUN)
  assert done.returncode == 2 and asked(fakes) == []
  assert said in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
  'script, words, said',
  [
    ('tpu.sh', ('--slices', '0'), '--slices 0: at least 1'),
    ('tpu.sh', ('--spot', '--reserved'), 'leave one out'),
    ('gke.sh', ('--slices', '0'), '--slices 0: at least 1'),
    ('slurm.sh', ('--gpus', '0'), '--gpus 0: at least 1'),
    ('slurm.sh', ('--nodes', '0'), '--nodes 0: at least 1'),
    ('slurm.sh', ('--time', '8h'), 'DAYS-HH:MM:SS'),
    ('slurm.sh', ('--points', '0'), '--points 0: at least 1'),
    ('sweep.sh', ('--at_once', '0'), '--at_once 0: at least 1'),
    ('sweep.sh', ('--slices', '0'), '--slices 0: at least 1'),
  ],
)
def test_a_number_that_cannot_work(fakes, script, words, said):
  done = fakes.run(script, *SCRIPTS[script], *words, *RUN, VENV=fakes.venv())
  assert done.returncode == 2 and asked(fakes) == []
  assert said in done.stderr


@pytest.mark.parametrize('script', [*SCRIPTS, 'local.sh'])
@pytest.mark.parametrize('flag', ['--workdir', '--config=configs/rl.py'])
def test_config_and_workdir_have_no_flags(fakes, script, flag):
  words = SCRIPTS.get(script, ())
  done = fakes.run(script, *words, *RUN, flag, 'runs/x', VENV=fakes.venv())
  assert done.returncode == 2 and fakes.calls() == []
  assert 'stand without a flag' in done.stderr


def test_slices_as_the_plan_writes_them(fakes):
  words = ('--dry_run', '--name', 'a', '--zone', 'z', '--topology')
  one = fakes.run('tpu.sh', *words, '2*v5e:2x4', *RUN)
  other = fakes.run('tpu.sh', *words, 'v5e:2x4', '--slices', '2', *RUN)
  assert one.returncode == 0, one.stderr
  assert one.stdout == other.stdout and '--node-count=2' in one.stdout
  done = fakes.run('tpu.sh', *words, '2*v5e:2x4', '--slices', '3', *RUN)
  assert done.returncode == 2 and 'not the same' in done.stderr


@pytest.mark.parametrize(
  'env, said',
  [
    ({'DEVICES': '0'}, 'DEVICES 0: at least 1'),
    ({'DEVICES': 'two'}, 'DEVICES two is no whole number'),
    ({'PROGRAM': 'trian'}, 'PROGRAM=trian is none that trains'),
    ({'EXTRA': 'tpu,cud'}, 'no "cud" in pyproject.toml; there are'),
  ],
)
def test_a_variable_that_cannot_work(tmp_path, env, said):
  fakes = Fakes(tmp_path)
  done = fakes.run('local.sh', *RUN, **{'VENV': fakes.venv(), **env})
  assert done.returncode == 2 and fakes.calls('python', '--config') == []
  assert said in done.stderr
