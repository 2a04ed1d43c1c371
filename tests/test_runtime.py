"""Settings of the process: what the commands ask of the C library."""

import os
import platform
import subprocess
import sys

import pytest

from posttrain_jax.run import runtime

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
  monkeypatch.setattr(runtime.os, 'sysconf', lambda name: 4096)
  assert runtime.keep_freed_memory() is False


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
