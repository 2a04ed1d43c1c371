"""One writer to a folder, whatever happens to the one before."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from posttrain_jax.run import config as config_lib
from posttrain_jax.run import lease, loop
from posttrain_jax.run.lease import FILE, Lease


def record(path):
  return json.loads((path / FILE).read_text())


def test_it_names_its_holder_and_ends(tmp_path):
  folder = tmp_path / 'new' / 'run'
  with Lease(folder) as held:
    found = record(folder)
    assert (found['pid'], found['host']) == (os.getpid(), socket.gethostname())
    held.check()
  assert list(folder.iterdir()) == []


@pytest.mark.parametrize('end', [ValueError, KeyboardInterrupt, SystemExit])
def test_it_ends_with_an_error_too(end, tmp_path):
  with pytest.raises(end), Lease(tmp_path):
    raise end
  assert not (tmp_path / FILE).exists()


def test_a_second_holder_is_told_of_the_first(tmp_path):
  with Lease(tmp_path):
    with pytest.raises(ValueError, match=f'process {os.getpid()} on '):
      Lease(tmp_path).__enter__()
    assert record(tmp_path)['pid'] == os.getpid()
  with Lease(tmp_path):  # it has ended
    pass


def test_a_second_run_of_a_workdir_is_refused(tmp_path):
  config = config_lib.load('configs/sft.py:smoke')
  with Lease(tmp_path), pytest.raises(ValueError, match='is written by'):
    loop.train(config, tmp_path)
  assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from posttrain_jax.run.lease import Lease
with Lease(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""


def other_process(folder):
  """A process that holds the folder."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(folder)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  return process


@pytest.mark.long
def test_a_killed_holder_leaves_no_lock(tmp_path, capsys):
  process = other_process(tmp_path)
  try:
    with pytest.raises(ValueError, match=f'process {process.pid} .* alive'):
      Lease(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)
    # Not waited for: what is left of it is a zombie, which holds nothing.
    deadline = time.monotonic() + 30
    while lease._started(process.pid) is not None:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    with Lease(tmp_path):
      assert record(tmp_path)['pid'] == os.getpid()
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'that process is gone' in said
    assert f'took over from process {process.pid}' in said
  finally:
    process.kill()
    process.wait()


def left_behind(folder, age, **changes):
  """A lease of a process that is no more."""
  found = {
    'host': 'elsewhere', 'pid': 1, 'started': '5', 'machine': 'elsewhere x',
    'token': 'theirs', 'time': time.time() - age, **changes,
  }  # fmt: skip
  (folder / FILE).write_text(json.dumps(found))


def test_a_heartbeat_elsewhere_is_believed_while_it_is_fresh(tmp_path):
  left_behind(tmp_path, 5.0)
  with pytest.raises(ValueError, match='process 1 on elsewhere.* 5 s old'):
    Lease(tmp_path).__enter__()
  assert record(tmp_path)['token'] == 'theirs'


def test_an_old_heartbeat_is_taken_over(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(lease, 'WATCH', 0.01)
  left_behind(tmp_path, lease.OLD + 1)
  with Lease(tmp_path):
    assert record(tmp_path)['pid'] == os.getpid()
  assert 'no sign of life for 31 s' in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_wrong_does_not_kill_a_lease(tmp_path, monkeypatch):
  """Its heartbeat looks old, but it comes."""
  left_behind(tmp_path, 1000.0)
  monkeypatch.setattr(lease.time, 'sleep', lambda _: left_behind(tmp_path, 999))
  with pytest.raises(ValueError, match='is written by process 1'):
    Lease(tmp_path).__enter__()


@pytest.mark.parametrize('content', ['', '{', '[]', '{}'])
def test_a_lease_that_cannot_be_read_gets_old_too(
  content, tmp_path, monkeypatch
):
  monkeypatch.setattr(lease, 'WATCH', 0.01)
  path = tmp_path / FILE
  path.write_text(content)
  with pytest.raises(ValueError, match='is written by a process'):
    Lease(tmp_path).__enter__()
  os.utime(path, (time.time() - 100,) * 2)
  with Lease(tmp_path):
    assert record(tmp_path)['pid'] == os.getpid()


def test_a_number_that_another_process_has_now_is_not_the_holder(tmp_path):
  here = lease._machine()
  left_behind(tmp_path, 0.0, machine=here, pid=os.getpid(), started='1')
  if not lease._started(os.getpid()):
    pytest.skip('this system does not say when a process began')
  with Lease(tmp_path):
    assert record(tmp_path)['token'] != 'theirs'


def test_who_was_taken_over_writes_nothing_more(tmp_path):
  with Lease(tmp_path) as held:
    left_behind(tmp_path, 0.0)
    held.beat()
    assert record(tmp_path)['token'] == 'theirs', 'a heartbeat takes nothing'
    with pytest.raises(lease.Lost, match='taken over by process 1'):
      held.check()
  assert record(tmp_path)['token'] == 'theirs', 'nor does the end'


def test_a_lease_that_someone_deleted_is_made_again(tmp_path):
  with Lease(tmp_path) as held:
    (tmp_path / FILE).unlink()
    held.check()
    assert record(tmp_path)['pid'] == os.getpid()
  assert not (tmp_path / FILE).exists()


def test_it_beats_while_it_is_held(tmp_path, monkeypatch):
  monkeypatch.setattr(lease, 'BEAT', 0.01)
  monkeypatch.setattr(lease, '_thread', None)  # the one there sleeps longer
  with Lease(tmp_path):
    first, deadline = record(tmp_path)['time'], time.monotonic() + 30
    while record(tmp_path)['time'] == first:
      assert time.monotonic() < deadline
      time.sleep(0.01)


def test_unusable_folders(tmp_path):
  (tmp_path / 'file').write_text('')
  for path, said in (
    ('/proc/nope', 'cannot be written'),
    (tmp_path / 'file', 'is a file'),
    (tmp_path / 'file' / 'below', 'cannot be written'),
  ):
    with pytest.raises(ValueError, match=said):
      Lease(path).__enter__()
