"""Settings of the process: what the commands ask of the C library."""

import platform
import subprocess
import sys

import pytest

from posttrain_jax import runtime

# Large buffers taken and given back, and how often the system had to help.
PROBE = """
import resource, sys
from posttrain_jax import runtime
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
