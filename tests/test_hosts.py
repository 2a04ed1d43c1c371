"""How processes find each other, whose rows are whose, how they agree."""

import threading
import types

import jax
import numpy as np
import pytest
from hosts import free_port
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from posttrain_jax.core import hosts
from posttrain_jax.data.bad_rows import BadData
from posttrain_jax.run import drivers, join, lease, roll_call, runtime

ALL = dict(zip(join.VARIABLES, ('10.0.0.1:1234', '4', '2')))


@pytest.fixture
def env(monkeypatch):
  for name in (*join.VARIABLES, *join.SLURM, *join.OPEN_MPI):
    monkeypatch.delenv(name, raising=False)

  def put(**values):
    for name, value in values.items():
      monkeypatch.setenv(name, value)

  return put


# Finding each other


def test_variables_say_who_is_who(env):
  assert join.given() is None
  env(**ALL)
  assert join.given() == ('10.0.0.1:1234', 4, 2)


@pytest.mark.parametrize('there', range(1, 7))
def test_half_set_variables_are_refused(env, there):
  some = {name: ALL[name] for i, name in enumerate(ALL) if there >> i & 1}
  env(**some)
  with pytest.raises(ValueError) as caught:
    join.given()
  before, _, after = str(caught.value).partition(' without ')
  assert all(name in before for name in some)
  assert all(name in after for name in ALL.keys() - some)


@pytest.mark.parametrize(
  'name, value, told',
  [
    ('JAX_COORDINATOR_ADDRESS', 'there', r'nearest valid: "there:8476"'),
    ('JAX_NUM_PROCESSES', '0', 'whole number from 1'),
    ('JAX_NUM_PROCESSES', 'four', 'whole number from 1'),
    ('JAX_PROCESS_ID', '-1', 'whole number from 0'),
    ('JAX_PROCESS_ID', '4', 'not one of the 4 .* nearest valid: 3'),
  ],
)
def test_wrong_variables_are_refused(env, name, value, told):
  env(**{**ALL, name: value})
  with pytest.raises(ValueError, match=told):
    join.given()


def test_clusters_are_known_by_what_jax_needs(env):
  assert join.in_cluster() == ''
  env(SLURM_JOB_ID='7', SLURM_NTASKS='2')
  assert join.in_cluster() == ''  # a batch script, outside a step
  env(SLURM_STEP_NODELIST='a[01-02]', SLURM_PROCID='1', SLURM_LOCALID='0')
  assert join.in_cluster() == 'SLURM'
  address, count, number, _ = join._detected('SLURM')
  assert (address.partition(':')[0], count, number) == ('a01', 2, 1)
  env(SLURM_NTASKS='1')
  assert join.in_cluster() == ''


def test_a_tpu_host_that_nobody_knows_is_alone(env, monkeypatch, capsys):
  def lost(*args):
    raise OSError('no metadata server')

  monkeypatch.setattr(join, '_on_tpu', lambda: True)
  monkeypatch.setattr(
    join.clusters.ClusterEnv, 'auto_detect_unset_distributed_params', lost
  )
  monkeypatch.setattr(jax.distributed, 'initialize', lost)
  join.join()
  assert 'only one (no metadata server)' in capsys.readouterr().err
  with pytest.raises(ValueError, match='SLURM: jax cannot find the other'):
    join._detected('SLURM')


def test_hosts_of_processes_are_named(env):
  assert join._nodes('a[01-03,7],b') == ['a01', 'a02', 'a03', 'a7', 'b']
  env(SLURM_STEP_NODELIST='n[1-2]')
  assert join._names(4) == ['n1', 'n1', 'n2', 'n2']
  assert join._names(3) == []


def test_one_process_joins_nobody(env, monkeypatch):
  called = []
  monkeypatch.setattr(jax.distributed, 'initialize', called.append)
  join.join()
  env(**{**ALL, 'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'})
  join.join()
  assert not called
  assert join.leave(2) == 2  # it does not end the process
  with pytest.raises(KeyError), join.leaving():
    raise KeyError


def test_all_call_before_jax_is_asked(env, monkeypatch):
  came, asked = [], {}
  monkeypatch.setattr(roll_call, 'call', lambda *a: came.append(a))
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *a, **k: asked.update(k, args=a)
  )
  env(**ALL, POSTTRAIN_START_TIMEOUT='9', POSTTRAIN_HEARTBEAT_TIMEOUT='8')
  join.join()
  assert came == [('10.0.0.1:1234', 4, 2, 9, [])]
  assert asked['args'] == ('10.0.0.1:1234', 4, 2, None)
  assert asked['initialization_timeout'] == 9
  assert asked['heartbeat_timeout_seconds'] == 8
  env(POSTTRAIN_START_TIMEOUT='soon')
  with pytest.raises(ValueError, match='POSTTRAIN_START_TIMEOUT="soon"'):
    join.join()


def calls(count, numbers, wait, names=(), counts=None):
  """What each of the processes that come is told: None, or the sentence."""
  address, said = f'127.0.0.1:{free_port()}', [None] * len(numbers)

  def one(place, number):
    try:
      size = (counts or {}).get(number, count)
      roll_call.call(address, size, number, wait, list(names))
    except roll_call.Absent as error:
      said[place] = str(error)

  threads = [threading.Thread(target=one, args=x) for x in enumerate(numbers)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return said


def test_a_roll_call_of_all_lets_all_go_on():
  assert calls(5, range(5), 20.0) == [None] * 5


def test_a_roll_call_names_who_is_missing_on_all():
  said = calls(4, [0, 2], 0.6, names=['a', 'b', 'c', 'd'])
  assert len(set(said)) == 1
  assert 'process 1 (b), process 3 (d) of 4 did not come' in said[0]
  said = calls(3, [1, 2], 0.6)
  for number, text in zip((1, 2), said):
    assert f'process 0 did not answer process {number} of 3' in text


def test_a_roll_call_finds_what_does_not_go_together():
  said = calls(2, [0, 1], 5.0, counts={1: 3})
  assert all('says that there are 3 processes, process 0 says 2' in x
             for x in said)  # fmt: skip


# Rows


class Device:
  def __init__(self, number, process):
    self.id, self.process_index = number, process


class Split:
  """A sharding of rows: {device: its slice}."""

  def __init__(self, parts):
    self.parts = parts

  def devices_indices_map(self, shape):
    return {d: (s,) for d, s in self.parts.items()}


def test_every_row_has_one_owner():
  # 8 rows over 4 devices of 2 processes; then 3 rows that all hold.
  parts = {Device(i, i // 2): slice(2 * i, 2 * i + 2) for i in range(4)}
  assert hosts._holders(8, Split(parts)) == [[0]] * 4 + [[1]] * 4
  whole = {Device(i, i // 2): slice(None) for i in range(4)}
  assert hosts._holders(3, Split(whole)) == [[0, 1]] * 3


def test_one_process_has_all_and_sees_no_difference():
  mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
  x = np.arange(24.0).reshape(8, 3)
  rows = np.arange(8)
  np.testing.assert_array_equal(hosts.held(8, mesh), rows)
  np.testing.assert_array_equal(hosts.own(8, mesh), rows)
  spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
  some = np.array([1, 2, 6])
  np.testing.assert_array_equal(hosts.own_of(spread, some), x[some])
  np.testing.assert_array_equal(hosts.whole({'x': spread})['x'], x)
  np.testing.assert_array_equal(hosts.merged(x, rows, 8), x)
  assert hosts.said('a') == ['a'] and hosts.together(lambda: 3) == 3
  with pytest.raises(KeyError):
    hosts.together(lambda: {}['x'])
  assert hosts.Agreement(2, mesh).tell([15, 0]) == [15, 0]


def test_errors_of_others_are_told(monkeypatch):
  monkeypatch.setattr(hosts, 'several', lambda: True)
  monkeypatch.setattr(hosts, 'said', lambda text: [text, 'no disk'])
  with pytest.raises(hosts.Elsewhere, match='x: process 1: no disk'):
    hosts.together(lambda: 3, 'x')
  with pytest.raises(KeyError):  # one's own comes first
    hosts.together(lambda: {}['x'])


def test_a_folder_that_is_not_shared_is_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(hosts, 'several', lambda: True)
  monkeypatch.setattr(
    hosts, 'said', lambda text: ['of process 0' if len(text) == 16 else text]
  )
  monkeypatch.setattr(lease, 'SEEN', 1)
  with pytest.raises(ValueError, match='not the folder that process 0 writes'):
    lease.Lease(tmp_path).__enter__()
  assert not (tmp_path / lease.FILE).exists()


def test_runs_side_by_side_need_one_process(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(hosts, 'several', lambda: True)
  monkeypatch.setattr(runtime, 'keep_freed_memory', lambda: None)
  with pytest.raises(ValueError, match='3 runs side by side'):
    runtime.prepare(runs=3)


# Batches that one process cannot make


STEP = lambda state, batch: (state, {})


class Batches:
  """Batches 0, 1, 2, ... up to one that cannot be read."""

  part = None

  def __init__(self, bad):
    self.bad, self.next = bad, 0

  def __next__(self):
    if self.next == self.bad:
      raise BadData(f'x.jsonl:{self.bad}: no JSON')
    self.next += 1
    return {'number': np.array(self.next - 1)}

  def get_state(self):
    return str(self.next).encode()

  def set_state(self, state):
    self.next = int(state)


@pytest.mark.parametrize('bad', [0, 1, 2, 3, 6])
@pytest.mark.parametrize('here', [True, False])
def test_bad_data_of_one_process_end_all_before_the_same_step(
  monkeypatch, bad, here
):
  """Two drivers in turn stand for two processes; one of them has the row."""
  monkeypatch.setattr(hosts, 'several', lambda: True)
  ours = drivers.OnData(STEP, Batches(bad if here else -1))
  other = drivers.OnData(STEP, Batches(-1 if here else bad))

  def said(text):  # what the other would say at this place
    other._fill()
    why = f'{len(other._ahead)} {other._failure}' if other.failing() else ''
    return [text, why]

  monkeypatch.setattr(hosts, 'said', said)
  monkeypatch.setattr(
    drivers.OnData, '_take', lambda self, *a: (a[2], {'x': np.zeros(1)})
  )
  taken, agreed = [], False
  with pytest.raises(BadData, match=f'x.jsonl:{bad}: no JSON .read by process'):
    for step in range(10):
      state, _, _ = ours.advance(None, step, 1)
      other._fill()
      other._ahead.popleft()
      taken.append(int(state['number']))
      before, agreed = agreed, ours.failing() or other.failing()
      if before:  # one step late, as `hosts.Agreement` tells it
        ours.tell_failing()
  assert taken == list(range(bad))
  assert ours.position() == {'iterator': str(bad)}


def test_data_that_end_with_the_run_are_no_failure():
  driver = drivers.OnData(STEP, Batches(3))
  driver._failure = StopIteration()
  assert not driver.failing()
  driver._failure = types.SimpleNamespace()
  assert driver.failing()
