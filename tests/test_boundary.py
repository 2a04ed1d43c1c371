"""How commands end: one sentence and a status, whatever happens in them."""

import argparse
import errno
import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import posttrain_jax
from posttrain_jax import export, sample
from posttrain_jax.core import boundary, resolve
from posttrain_jax.run import stored
from posttrain_jax.run.stop import Interrupted

ROOT = Path(posttrain_jax.__file__).parent
# Modules that a command starts as processes of its own.
WORKERS = {'pool', 'inside', 'probe', 'apart'}
# Every module that is a command.
COMMANDS = sorted(
  '.'.join(path.relative_to(ROOT.parent).with_suffix('').parts)
  for path in ROOT.rglob('*.py')
  if "if __name__ == '__main__':" in path.read_text()
  and path.stem not in WORKERS
)
GIVEN = ['--config', 'configs/sft.py:smoke', '--workdir', 'runs/x']


def main_of(name: str):
  if name.endswith('quickstart.__main__'):
    name = 'posttrain_jax.quickstart.command'
  return importlib.import_module(name).main


def status(main, argv) -> int:
  try:
    return main(argv)
  except SystemExit as ended:
    return ended.code


def test_there_are_commands():
  assert {'posttrain_jax.train', 'posttrain_jax.export'} <= set(COMMANDS)


# (what happens, the status, what is said)
ENDS = [
  (KeyboardInterrupt(), 130, 'stopped'),
  (OSError(errno.ENOSPC, 'No space left on device', '/x/y'), 2, 'No space'),
  (PermissionError(errno.EACCES, 'Permission denied', '/x/y'), 2, '/x/y'),
]


@pytest.mark.parametrize('name', COMMANDS)
@pytest.mark.parametrize(
  'error, code, said', ENDS, ids=['ctrl-c', 'full', 'no']
)
def test_a_command_ends_with_a_sentence(
  name, error, code, said, monkeypatch, capsys
):
  """Wherever it is: here before flags are read, which every command does."""

  def broken(*_, **__):
    raise error

  monkeypatch.setattr(argparse.ArgumentParser, '__init__', broken)
  monkeypatch.setattr(sys, 'argv', [name, *GIVEN])
  assert status(main_of(name), GIVEN) == code
  told = [x for x in capsys.readouterr().err.splitlines() if x]
  assert len(told) == 1 and said in told[0], told


# A library that takes long to load, and a Ctrl-C meanwhile, which is ignored
# where a shell began the tests in its background.
SLOW = """import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(9)
"""


def test_a_command_that_is_stopped_while_it_is_imported(tmp_path):
  for name in ('jax', 'numpy', 'safetensors'):
    (tmp_path / f'{name}.py').write_text(SLOW)
  path = os.pathsep.join([str(tmp_path), str(ROOT.parent)])
  named = {x: x.removesuffix('.__main__') for x in COMMANDS}
  # None may read its input, or go on by itself.
  runs = {
    name: subprocess.Popen(
      [sys.executable, '-m', module],
      env={**os.environ, 'PYTHONPATH': path},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for name, module in named.items()
  }
  for name, run in runs.items():
    _, told = run.communicate(timeout=60)
    assert (name, run.returncode, told) == (name, 130, '\nstopped by Ctrl-C\n')


def test_whoever_imports_the_package_keeps_their_traceback(tmp_path):
  (tmp_path / 'jax.py').write_text(SLOW)
  mine = tmp_path / 'mine.py'
  mine.write_text('import posttrain_jax.losses.policy_gradient')
  path = os.pathsep.join([str(tmp_path), str(ROOT.parent)])
  for command in (['-m', 'mine'], [str(mine)]):
    done = subprocess.run(
      [sys.executable, *command],
      env={**os.environ, 'PYTHONPATH': path},
      capture_output=True,
      text=True,
    )
    assert 'Traceback' in done.stderr and 'KeyboardInterrupt' in done.stderr
    assert done.returncode not in (0, 130)


def test_a_run_that_is_stopped_inside_a_command_ends_with_its_signal(capsys):
  def main():
    raise Interrupted(15, 3)

  assert boundary.command(main)() == 143
  assert 'SIGTERM at step 3; the same command' in capsys.readouterr().err


def test_a_message_for_sys_exit_has_status_2(capsys):
  def main():
    sys.exit('error: no')

  with pytest.raises(SystemExit, match='error: no') as ended:
    boundary.command(main)()
  assert ended.value.code == 2 and capsys.readouterr().err == 'error: no\n'


def test_faults_of_the_project_keep_their_traceback():
  def main():
    raise TypeError('a fault')

  with pytest.raises(TypeError):
    boundary.command(main)()


@pytest.mark.parametrize('there', [False, True])
def test_an_export_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, there):
  out = tmp_path / 'out'
  if there:
    out.mkdir()
    (out / 'notes.txt').write_text('mine')

  def broken(path, place, *_):
    (place / 'deep').mkdir(parents=True)
    (place / 'model.safetensors').write_bytes(b'half')
    raise OSError(errno.ENOSPC, 'No space left on device', str(place))

  monkeypatch.setattr(export, '_export', broken)
  for _ in range(2):  # the same command, again
    assert export.main(['--checkpoint', 'runs/x', '--out', str(out)]) == 2
  assert out.exists() == there
  assert not list(tmp_path.rglob('*.safetensors'))
  assert not there or (out / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize(
  'make, said',
  [
    (lambda x: x.write_text(''), 'is a file; name a folder'),
    (lambda x: (x.mkdir(), (x / 'a.safetensors').touch()), 'exists; save into'),
  ],
)
def test_export_looks_at_its_folder_first(tmp_path, make, said, capsys):
  make(tmp_path / 'out')
  words = ['--model', 'runs/none', '--out', str(tmp_path / 'out')]
  assert export.main(words) == 2
  assert said in capsys.readouterr().err


def test_answers_that_break_off_do_not_stand_in_the_way(tmp_path):
  place = tmp_path / 'answers.jsonl'
  with pytest.raises(KeyboardInterrupt), sample._made(place) as out:
    out.write('half\n')
    raise KeyboardInterrupt
  assert not place.exists()
  with sample._made(place) as out:
    out.write(json.dumps({'whole': True}))
  assert json.loads(place.read_text()) == {'whole': True}
  assert [x.name for x in tmp_path.iterdir()] == ['answers.jsonl']


def test_a_run_without_a_step_yet_says_so(tmp_path):
  stored.save_config(tmp_path, {'config': {}})
  with pytest.raises(ValueError, match=r'no step of this run is saved yet'):
    stored.run_folder(tmp_path)


def test_a_function_that_is_there_and_not_listed_is_named():
  room = types.ModuleType('mine')
  room.__all__, room.mine = ['other'], lambda: None
  with pytest.raises(ValueError, match='mine has "mine", which its __all__'):
    resolve.lookup(room, 'mine')
