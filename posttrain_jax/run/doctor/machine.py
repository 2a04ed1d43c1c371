"""Cores, memory, limits, clock."""

import os
import resource
import time
from pathlib import Path

from posttrain_jax.core.units import shown_bytes
from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning

__all__ = ['clock', 'cores', 'memory', 'open_files', 'shared_memory']

GIB = 2**30
# Checkpoints, data files and worker processes keep files open.
FILES = 4096


def cores() -> Finding:
  """Those that this process may use."""
  there = os.cpu_count() or 1
  mine = there
  if hasattr(os, 'sched_getaffinity'):
    mine = len(os.sched_getaffinity(0))
  said = f'{mine}' if mine == there else f'{mine} of {there}'
  if mine == 1:
    return warning(
      'cores', said, 'data workers and verifiers share it with the host loop'
    )
  return ok('cores', said)


def _meminfo(root: Path) -> dict[str, int]:
  """Bytes by the names of /proc/meminfo."""
  out = {}
  for line in (root / 'proc/meminfo').read_text().splitlines():
    name, _, rest = line.partition(':')
    parts = rest.split()
    if len(parts) == 2 and parts[1] == 'kB':
      out[name] = int(parts[0]) * 1024
  return out


def memory(root: Path = Path('/')) -> Finding:
  """Of the host, or of its container where that has less."""
  try:
    info = _meminfo(root)
  except OSError:  # no Linux
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return ok('memory', shown_bytes(total))
  total, free = info['MemTotal'], info.get('MemAvailable', info['MemFree'])
  said = f'{shown_bytes(free)} free of {shown_bytes(total)}'
  try:
    limit = int((root / 'sys/fs/cgroup/memory.max').read_text())
    used = int((root / 'sys/fs/cgroup/memory.current').read_text())
    if limit < total:
      free = min(free, limit - used)
      said = f'{shown_bytes(free)} free of {shown_bytes(limit)}'
      said += ', the limit of the container'
  except (OSError, ValueError):  # no container, or 'max'
    pass
  if free < GIB:
    return fault('memory', said, 'stop other processes, or take a larger host')
  if free < 4 * GIB:
    return warning('memory', said, 'enough for small models alone')
  return ok('memory', said)


def open_files() -> Finding:
  """The limit on open files."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  least = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
  said = f'at most {soft}'
  if soft != resource.RLIM_INFINITY and soft < FILES:
    todo = (
      f'ulimit -n {least}'
      if least > soft
      else 'raise the hard limit (limits.conf; docker run --ulimit)'
    )
    return warning('open files', said, todo)
  return ok('open files', said if soft > 0 else 'no limit')


def shared_memory(gpus: int, folder: Path = Path('/dev/shm')) -> list[Finding]:
  """/dev/shm, by which NCCL and worker processes pass arrays."""
  if gpus < 2 or not folder.is_dir():
    return []
  stat = os.statvfs(folder)
  total = stat.f_blocks * stat.f_frsize
  if total < GIB:
    return [
      warning(
        'shared memory',
        f'{folder} has {shown_bytes(total)} for {gpus} GPUs',
        'start the container with --shm-size 8g',
      )
    ]
  return [ok('shared memory', f'{folder} has {shown_bytes(total)}')]


def clock(now: float | None = None) -> Finding:
  """The time of this host; that of others is in the finding `hosts`."""
  now = time.time() if now is None else now
  built = Path(__file__).stat().st_mtime
  said = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(now))
  if now < built - 86400:
    return fault(
      'clock',
      f'{said}, before this file was written',
      'set it (timedatectl set-ntp true): certificates and leases depend on it',
    )
  return ok('clock', said)
