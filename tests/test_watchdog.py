"""Who holds a run up, and notices that its machine goes."""

import http.server
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from posttrain_jax.run import notices, watchdog
from posttrain_jax.run.stop import Stop
from posttrain_jax.run.watchdog import Place, Watchdog, held_up

ROOT = Path(__file__).parent.parent


def place(step, phase='step', age=9.0, own=0.0, pace=1.0, beat=1):
  return Place(step, phase, age, beat, f'host{step}', own, pace)


def until(done, seconds=20):
  end = time.monotonic() + seconds
  while not done():
    assert time.monotonic() < end
    time.sleep(0.01)


def a_place_to_hang(dog, released):
  dog.at(7, 'step')
  released.wait()


def test_a_loop_that_hangs_is_told_with_its_stacks(tmp_path):
  said, released = [], threading.Event()
  with Watchdog(0.1, tmp_path, tell=said.append) as dog:
    loop = threading.Thread(target=a_place_to_hang, args=(dog, released))
    loop.start()
    until(lambda: said)
    stacks = tmp_path / watchdog.FOLDER / 'process-0.txt'
    assert re.match(
      r'nothing has moved for 0 s: it is after step 7, giving its devices work '
      rf'\(data, rewards, compiling\); stacks in {stacks}$', said[0]
    )  # fmt: skip
    assert 'in a_place_to_hang' in stacks.read_text()
    until(lambda: len(said) > 1)  # and again, at twice the time
    assert 'stacks' not in said[1]
    released.set()
    loop.join()
    dog.at(8, 'devices')
    until(lambda: said[-1] == 'it goes on, after step 8')


def test_zero_seconds_is_no_watchdog(tmp_path):
  before = threading.active_count()
  with Watchdog(0.0, tmp_path, tell=pytest.fail) as dog:
    assert threading.active_count() == before
    dog.at(1, 'step')
    for step in range(20):
      dog.stepped(step, 1)
  assert list(tmp_path.iterdir()) == []


def test_steps_that_take_long_are_told_now_and_then(tmp_path, monkeypatch):
  now, said = [0.0], []
  monkeypatch.setattr(watchdog.time, 'monotonic', lambda: now[0])
  dog = Watchdog(60.0, tmp_path, tell=said.append)

  def step(number, seconds):
    dog.at(number - 1, 'step')
    now[0] += seconds
    dog.stepped(number, 1)

  for number in range(1, 21):
    step(number, 2.0)
  step(21, 9.0)  # not five times as long
  assert said == []
  step(22, 30.0)
  assert said == [
    'step 22 took 30.0 s, 15 times the median of the last 21 (2.00 s)'
  ]
  step(23, 30.0)  # a line a minute
  assert len(said) == 1
  now[0] += 60.0
  step(24, 30.0)
  assert len(said) == 2


WAITS = [
  ({0: place(3)}, {}, 'it is after step 3, giving its devices work (data, '
   'rewards, compiling)'),
  ({0: place(4, 'devices'), 1: place(3), 2: place(4, 'devices')}, {},
   'waiting for process 1 (host3): after step 3, giving its devices work'),
  ({0: place(4, 'save'), 1: place(4, 'evaluation'), 2: place(4, 'evaluation')},
   {}, 'waiting for process 1 (host4), process 2 (host4): after step 4, '
   'evaluating'),
  ({0: place(4, 'devices'), 1: place(4, 'devices')}, {},
   'all processes are after step 4, waiting for its devices'),
  ({0: place(4, 'devices'), 1: place(3)}, {1: 61.0},
   'process 1 (host3) has given no sign of life for 61 s, last after step 3'),
  ({0: place(0, 'start')}, {1: 61.0},
   'process 1 has given no sign of life for 61 s'),
]  # fmt: skip


@pytest.mark.parametrize('places, silent, message', WAITS)
def test_whom_a_run_waits_for(places, silent, message):
  assert held_up(places, silent).startswith(message)


class Store(dict):
  """That of `jax.distributed`, without it."""

  def put(self, process, found):
    self[process] = found

  def all(self):
    return dict(self)


@pytest.fixture
def three(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  now = [100.0]
  monkeypatch.setattr(watchdog.time, 'monotonic', lambda: now[0])
  return now


def test_process_0_names_the_one_that_is_behind(three, tmp_path):
  said, store = [], Store()
  dog = Watchdog(60.0, tmp_path, store, said.append)
  dog.at(5, 'devices')

  def others(first, second):
    store[1] = place(5, 'devices', beat=first)
    store[2] = place(4, beat=second)

  others(1, 1)
  dog.look()
  assert said == [] and store[0].told().startswith('after step 5')
  three[0] += 61
  others(2, 2)
  dog.look()
  assert 'waiting for process 2 (host4): after step 4' in said.pop()
  # It says nothing any more: neither does its watchdog.
  three[0] += 61
  others(3, 2)
  dog.look()
  assert 'process 2 (host4) has given no sign of life for 61 s' in said.pop()
  dog.look()
  assert said == [], 'it is not said at every look'


def test_process_0_names_the_one_that_lags(three, tmp_path):
  said, store = [], Store()
  dog = Watchdog(60.0, tmp_path, store, said.append)
  for step in range(20):
    dog.at(step, 'step')
    three[0] += 0.1
    dog.at(step + 1, 'devices')
    three[0] += 1.9
    dog.stepped(step + 1, 1)
  store[1] = place(20, own=0.12, pace=2.0)
  store[2] = place(20, own=0.4, pace=2.0)  # a fifth of a step is nothing
  dog.look()
  assert said == []
  store[2] = place(20, own=1.4, pace=2.0, beat=2)
  dog.look()
  assert said == [
    'process 2 (host20) needs 1.40 s a step before its devices have work, the '
    'others 0.11 s'
  ]


HANGS = """
import os, sys, time
import jax
jax.config.update('jax_platforms', 'cpu')
address, process, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
from pathlib import Path
from posttrain_jax.run.watchdog import Store, Watchdog
with Watchdog(0.5, Path(folder), Store.made()) as dog:
  dog.at(2, 'devices')
  if process == '1':
    dog.at(1, 'step')
  time.sleep(4)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
  """The real store: process 0 names process 1."""
  import socket

  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  started = [
    subprocess.Popen(
      [sys.executable, '-c', HANGS, address, str(n), str(tmp_path)],
      stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )
    for n in range(2)
  ]  # fmt: skip
  said = [process.communicate(timeout=120)[1] for process in started]
  assert re.search(
    r'watchdog: nothing has moved for \d s: waiting for process 1 \(.*\): '
    'after step 1, giving its devices work', said[0]
  ), said  # fmt: skip
  assert 'process 1 is after step 1' in said[1]
  names = sorted(x.name for x in (tmp_path / watchdog.FOLDER).iterdir())
  assert names == ['process-0.txt', 'process-1.txt']


# --- Notices


class Metadata(http.server.BaseHTTPRequestHandler):
  found = {}

  def log_message(self, *args):
    pass

  def do_GET(self):
    assert self.headers['Metadata-Flavor'] == 'Google'
    text = self.found[self.path.rpartition('/')[2]].encode()
    self.send_response(200)
    self.send_header('Content-Length', str(len(text)))
    self.end_headers()
    self.wfile.write(text)


@pytest.fixture
def metadata(monkeypatch):
  monkeypatch.setattr(notices, 'EVERY', 0.02)
  found = {'preempted': 'FALSE', 'maintenance-event': 'NONE'}
  monkeypatch.setattr(Metadata, 'found', found)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata)
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  monkeypatch.setenv(notices.HOST, f'127.0.0.1:{server.server_port}')
  yield found
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize('change, told', [
  ({'preempted': 'TRUE'}, 'it is preempted'),
  ({'maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE'}, 'maintenance (TER'),
])  # fmt: skip
def test_notices_of_google_cloud_ask_a_run_to_stop(
  change, told, metadata, capsys
):
  with Stop() as stop, notices.Notices('gce', stop):
    metadata['maintenance-event'] = 'MIGRATE_ON_HOST_MAINTENANCE'
    time.sleep(0.2)
    assert stop.number == 0
    metadata.update(change)
    until(lambda: stop.number)
  assert stop.number == signal.SIGTERM
  assert told in capsys.readouterr().out


def test_elsewhere_there_are_none(monkeypatch, capsys):
  monkeypatch.setenv(notices.HOST, '127.0.0.1:9')
  with Stop() as stop, notices.Notices('gce', stop) as asked:
    until(lambda: not asked._thread.is_alive())
  assert stop.number == 0
  assert 'no metadata server of Google Cloud answers' in capsys.readouterr().err
  before = threading.active_count()
  with notices.Notices('', stop):
    assert threading.active_count() == before
