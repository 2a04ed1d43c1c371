"""What a run does when disk, memory, machine or data give out."""

import contextlib
import errno
import json
import os
import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fault_tools import contents, rows_of, small_files, state_of

from posttrain_jax import log, train
from posttrain_jax.run import checkpoint, failed, loop, rescue, stored
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.lease import Lost
from posttrain_jax.run.saving import NoRoom, Saver
from posttrain_jax.run.stop import Interrupted

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


class Loop:
  """A loop that has done `step` steps, and breaks off."""

  def __init__(self, workdir, saver, error, state, step, harm=None):
    self.workdir, self.saver, self.stop = workdir, saver, SimpleNamespace()
    self.stop.number, self.calls = 0, []
    self.last, self._error, self._harm = (state, step), error, harm

  def __call__(self, state, step, fresh):
    raise self._error

  def finish(self):
    self.calls.append('finish')
    if self._harm == 'metrics':
      raise OSError(errno.EIO, 'broken')

  def save(self, state, step):
    self.calls.append('save')
    self.saver.save(step, state, {'at': step})


def broken(workdir, error, *, step=3, state=None, harm=None):
  """The steps that are stored after a loop broke off, and what it raised."""
  with (
    contextlib.suppress(OSError),
    Saver(workdir, keep=0) as saver,
  ):
    if not stored.steps(workdir):
      saver.save(1, state_of(1))
      saver.wait()
    state = state_of(step) if state is None else state
    made = Loop(workdir, saver, error, state, step, harm)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
      rescue.guarded(made, state, 0, True)
  return stored.steps(workdir), caught.value


KEPT = {
  'value': ValueError('a bad row'),
  'bug': KeyError('x'),
  'worker': RuntimeError('a worker did not start'),
  'memory': RuntimeError(
    'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'
  ),
  'host memory': MemoryError(),
  'io': OSError(errno.EIO, 'the disk is broken'),
  'full': OSError(errno.ENOSPC, 'No space left on device', '/other/disk'),
}


@pytest.mark.parametrize('name', KEPT)
def test_the_last_whole_step_is_saved_before_the_end(name, tmp_path, capsys):
  steps, error = broken(tmp_path, KEPT[name])
  assert steps == [3, 1]
  assert 'step 3 was saved before the end' in capsys.readouterr().err
  if 'memory' in name:
    assert isinstance(error, rescue.OutOfMemory)
    assert 'out of memory at step 4' in rescue.sentence(error)
  elif name == 'full':  # another disk than that of the run
    assert isinstance(error, NoRoom) and '/other/disk' in str(error)
    assert re.search(r' has \d.* left\. Make room', str(error)), error
  else:
    assert error is KEPT[name]
  params = checkpoint.read_params(tmp_path / checkpoint.FOLDER / '3')[2]
  np.testing.assert_array_equal(params['a'], np.full(4, 3.0))


def test_ctrl_c_twice_saves_the_last_whole_step(tmp_path):
  steps, error = broken(tmp_path, KeyboardInterrupt())
  assert steps == [3, 1] and isinstance(error, Interrupted)
  assert (error.number, str(error)) == (2, 'stopped by SIGINT at step 3')


SETTLED = {
  'nan': failed.NonFinite(4, {'loss': np.nan}, 1.0, 'stop'),
  'lost': Lost('taken over'),
  'stopped': Interrupted(signal.SIGTERM, 3),
  'no room': NoRoom('no room for the checkpoint'),
}


@pytest.mark.parametrize('name', SETTLED)
def test_after_some_ends_nothing_is_saved(name, tmp_path, capsys):
  steps, error = broken(tmp_path, SETTLED[name])
  assert steps == [1] and capsys.readouterr().err == ''
  assert error is SETTLED[name]


def gone(step):
  state = state_of(step)
  jax.tree.map(lambda x: x.delete(), state.params)
  return state


UNFIT = {
  'not finite': (lambda: state_of(3, np.nan), None, 'is not finite'),
  'of another step': (lambda: state_of(2), None, 'is not finite'),
  'taken over': (lambda: gone(3), None, 'had taken the state over'),
  'without its metrics': (lambda: state_of(3), 'metrics', 'was not saved: '),
}


@pytest.mark.parametrize('name', UNFIT)
def test_what_is_not_good_is_not_saved(name, tmp_path, capsys):
  made, harm, message = UNFIT[name]
  error = ValueError('first')
  steps, raised = broken(tmp_path, error, state=made(), harm=harm)
  assert steps == [1] and raised is error
  said = capsys.readouterr().err
  assert message in said and 'from the newest one: step 1' in said


def test_a_checkpoint_that_is_there_stays(tmp_path):
  broken(tmp_path, ValueError('x'))
  before = contents(tmp_path)
  steps, _ = broken(tmp_path, ValueError('x'), state=state_of(3, 7.0))
  assert steps == [3, 1] and contents(tmp_path) == before


# --- Whole runs

QUIET = [
  '--config.eval.num_problems=0', '--config.log.tensorboard=false',
]  # fmt: skip


def fails_at(monkeypatch, name, step, error):
  """The driver of that name breaks off as it begins a step."""
  real = getattr(loop.drivers, name).advance

  def advance(self, state, first_step, count):
    if first_step >= step:
      raise error
    return real(self, state, first_step, 1)

  monkeypatch.setattr(getattr(loop.drivers, name), 'advance', advance)


@pytest.mark.long
def test_runs_that_break_off_go_on_bit_for_bit(tmp_path, monkeypatch, capsys):
  words = ['--config', 'configs/sft.py:smoke', *QUIET,
           '--config.checkpoint.every=0']  # fmt: skip
  straight, workdir = tmp_path / 'straight', tmp_path / 'run'
  assert train.main([*words, '--workdir', str(straight)]) == 0
  words += ['--workdir', str(workdir)]
  for step, error, status in (
    (1, KeyError('a fault of ours'), None),
    (2, RuntimeError('RESOURCE_EXHAUSTED: Out of memory'), 2),
    (3, KeyboardInterrupt(), 130),
  ):
    with monkeypatch.context() as patch:
      fails_at(patch, 'InGraph', step, error)
      if status is None:
        with pytest.raises(KeyError):
          train.main(words)
      else:
        assert train.main(words) == status
    assert checkpoint.find(workdir)[1] == step
    said = capsys.readouterr()
    assert f'step {step} was saved before the end' in said.err
    if status == 2:
      assert said.err.splitlines()[-1].startswith('error: out of memory at')
  # A full disk ends it in a sentence; what was there is there.
  with monkeypatch.context() as patch:
    real = checkpoint.Checkpointer.save

    def save(self, step, *given, **named):
      with small_files(2**12):
        real(self, step, *given, **named)
        self._manager.wait_until_finished()

    patch.setattr(checkpoint.Checkpointer, 'save', save)
    before = contents(workdir / checkpoint.FOLDER)
    assert train.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith('error: no room for the checkpoint of step 4: ')
    assert contents(workdir / checkpoint.FOLDER) == before
  assert train.main(words) == 0
  assert rows_of(workdir) == rows_of(straight)
  jax.tree.map(
    np.testing.assert_array_equal,
    checkpoint.load_params(workdir),
    checkpoint.load_params(straight),
  )


@pytest.mark.parametrize('code', [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_workdir_that_takes_nothing_is_told_at_once(
  code, tmp_path, monkeypatch, capsys
):
  """Before anything is compiled."""
  real = os.open

  def refused(path, *given, **named):
    if str(path).startswith(str(tmp_path)):
      raise OSError(code, os.strerror(code), str(path))
    return real(path, *given, **named)

  monkeypatch.setattr(os, 'open', refused)
  compiled = []
  monkeypatch.setattr(loop, '_start', lambda *x: compiled.append(x))
  words = ['--config', 'configs/sft.py:smoke', '--workdir', str(tmp_path)]
  assert train.main(words) == 2 and not compiled
  assert capsys.readouterr().err == (
    f'error: {tmp_path} cannot be written: {os.strerror(code)}\n'
  )


HUNG = """
import time

def sleeps(completions, **columns):
  time.sleep(60)
"""


@pytest.mark.slow
def test_rewards_that_hang_cost_their_answers_alone(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / 'hung_rewards.py').write_text(HUNG)
  rows = [{'prompt': f'{i}+1=', 'answer': i} for i in range(8)]
  path = tmp_path / 'prompts.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  monkeypatch.chdir(tmp_path)
  c = config_lib.load('configs/rl.py:data=jsonl,smoke', [
    ('data.path', str(path)), ('tokenizer', 'byte'), ('num_steps', '1'),
    ('rewards', '[{"name": "hung_rewards:sleeps"}]'), ('group_size', '2'),
    ('prompts_per_step', '2'), ('reward_pool.timeout', '0.2'),
    ('eval.num_problems', '0'), ('log.tensorboard', 'false'),
    ('max_new_tokens', '8'),
  ])  # fmt: skip
  loop.train(c, tmp_path / 'run')
  (row,) = log.read(tmp_path / 'run')[1]
  assert row['rewards/sleeps/timeouts'] == row['rewards/unscored'] == 4
  assert 'no answer in 0.2 s' in capsys.readouterr().err
  assert threading.active_count() < 50
