"""Settings of the process: what the commands ask of the C library."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from posttrain_jax.core import heap, target
from posttrain_jax.run import recorder, runtime

# Large buffers taken and given back, and how often the system had to help.
PROBE = """
import resource, sys
from posttrain_jax.run import runtime
if sys.argv[1] == 'keep':
  assert runtime.keep_freed_memory()
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)  # 128 MiB
before = faults()
for _ in range(4):
  np.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='not glibc')
def test_kept_memory_is_not_faulted_in_again():
  def faults(how: str) -> int:
    out = subprocess.run(
      [sys.executable, '-c', PROBE, how],
      capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(out.stdout)

  given_back, kept = faults('default'), faults('keep')
  assert given_back > 4 * 2**27 // 2**21, 'at least one fault a huge page'
  assert kept < given_back / 20


def test_the_users_own_setting_stays(monkeypatch):
  monkeypatch.setenv('MALLOC_ARENA_MAX', '2')
  assert runtime.keep_freed_memory() is False


def test_small_machines_are_left_alone(monkeypatch):
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  monkeypatch.setattr(heap.os, 'sysconf', lambda name: 4096)
  assert runtime.keep_freed_memory() is False


# The heaps of a command's process when it ends, and of one that imports it.
HEAPS = """
import atexit, ctypes, os, threading
def write():
  hold = threading.Barrier(4)
  def take():
    block = bytearray(2**20)
    hold.wait()
  threads = [threading.Thread(target=take) for _ in range(4)]
  [x.start() for x in threads], [x.join() for x in threads]
  lib = ctypes.CDLL(None)
  lib.fopen.restype = ctypes.c_void_p
  file = ctypes.c_void_p(lib.fopen(os.environ['HEAPS'].encode(), b'w'))
  lib.malloc_info(0, file)
  lib.fclose(file)
atexit.register(write)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='not glibc')
def test_the_threads_of_a_command_share_one_heap(tmp_path, monkeypatch):
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  (tmp_path / 'sitecustomize.py').write_text(HEAPS)

  def heaps(*command: str) -> int:
    path = tmp_path / 'heaps.xml'
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    env = os.environ | {'PYTHONPATH': paths, 'HEAPS': str(path)}
    subprocess.run([sys.executable, *command], env=env, check=True)
    return path.read_text().count('<heap nr=')

  assert heaps('-c', 'import posttrain_jax') > 1, 'nobody asked for it'
  assert heaps('-m', 'posttrain_jax.types') == 1


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='not glibc')
def test_what_is_free_is_given_back():
  code = """
from posttrain_jax.core import heap
assert heap.keep_freed_memory()
import numpy as np
np.ones(2**24)  # 128 MiB
kept = heap.resident()
heap.give_back()
print(kept - heap.resident())
"""
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert int(out.stdout) > 2**26


def test_steps_of_a_large_state_wait_for_each_other():
  state = {'params': jax.ShapeDtypeStruct((2**13, 2**13), jnp.float32)}
  assert recorder.one_at_a_time(state)
  state = {'params': jax.ShapeDtypeStruct((2**12, 2**12 - 1), jnp.float32)}
  assert not recorder.one_at_a_time(state)
  with target.aimed(target.Target('tpu', 8)):
    assert not recorder.one_at_a_time(
      {'params': jax.ShapeDtypeStruct((2**14, 2**14), jnp.float32)}
    )


CORES = len(os.sched_getaffinity(0))
DEVICES = """
import sys
from posttrain_jax.run import runtime
import jax
if sys.argv[1] == 'used':
  jax.devices()
print(runtime.divide_cpu(int(sys.argv[2])), jax.device_count())
"""


@pytest.mark.parametrize(
  'how, runs, said',
  [
    ('first', 5, f'True {runtime.devices_for(5, CORES)}'),
    ('used', 5, 'False 1'),
    ('told', 5, 'False 3'),
  ],
)
def test_the_cpu_is_divided_among_runs(how, runs, said):
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  if how == 'told':
    env['XLA_FLAGS'] = '--xla_force_host_platform_device_count=3'
  out = subprocess.run(
    [sys.executable, '-c', DEVICES, how, str(runs)],
    capture_output=True, text=True, check=True, env=env,
  )  # fmt: skip
  assert out.stdout.strip() == said


@pytest.mark.parametrize(
  'runs, cores, devices',
  [(8, 2, 2), (5, 2, 5), (12, 8, 6), (8, 16, 8), (11, 2, 1), (16, 16, 16)],
)
def test_devices_share_runs_equally(runs, cores, devices):
  assert runtime.devices_for(runs, cores) == devices
