"""Process-wide settings of the commands; importing the library changes none."""

import contextlib
import os
from pathlib import Path

import jax

from posttrain_jax.core import hosts
from posttrain_jax.core.heap import keep_freed_memory
from posttrain_jax.run import join

__all__ = [
  'as_recorded',
  'devices_for',
  'divide_cpu',
  'keep_freed_memory',
  'prepare',
  'use_compilation_cache',
]

# That a CPU with fewer cores is divided into.
MOST_DEVICES = 8
FORCED = 'xla_force_host_platform_device_count'


def prepare(runs: int = 1) -> None:
  """What every command that trains or evaluates sets before its first array.

  runs  how many it will train side by side

  Raises:
    ValueError: of several processes this one cannot join the others
      (`join.join`), or `runs` are more than one.
  """
  use_compilation_cache()
  keep_freed_memory()
  join.join()
  if runs > 1:
    if jax.distributed.is_initialized() and hosts.several():
      raise ValueError(
        f'{runs} runs side by side are trained by one process, and there are '
        f'{jax.process_count()}: start one alone, or one sweep on each host'
      )
    divide_cpu(runs)


def _cores() -> int:
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def devices_for(runs: int, cores: int) -> int:
  """Devices that share `runs` equally: at least `cores`, but few; else as many
  as there can be up to MOST_DEVICES."""
  most = max(cores, MOST_DEVICES)
  sizes = [n for n in range(1, most + 1) if runs % n == 0]
  return next((n for n in sizes if n >= cores), sizes[-1])


def divide_cpu(runs: int) -> bool:
  """Makes the CPU as many devices as cores, or more where `runs` need it to be
  shared equally.

  Small runs train faster next to each other on devices of their own than with
  every operation of all of them split over the cores. Does nothing, and returns
  False, where the user has set the number of devices, or JAX is in use already;
  other backends keep their devices.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if jax.config.jax_num_cpu_devices > 0 or FORCED in flags:
    return False
  count = devices_for(runs, _cores())
  try:
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:  # its devices are there
    return False
  return True


def as_recorded(devices: dict) -> None:
  """Makes the CPU as many devices as a step had that is taken again.

  devices  of the record's header; the user's own choice stays
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if devices.get('platform') != 'cpu' or jax.distributed.is_initialized():
    return
  if jax.config.jax_num_cpu_devices > 0 or FORCED in flags:
    return
  with contextlib.suppress(RuntimeError):  # its devices are there
    jax.config.update('jax_num_cpu_devices', int(devices.get('count', 1)))


def use_compilation_cache() -> None:
  """Keeps compiled programs between processes, unless the user said where.

  The folder is $JAX_COMPILATION_CACHE_DIR, or ~/.cache/posttrain_jax. Programs
  that compile in less than a second are not worth the disk.
  """
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = Path.home() / '.cache' / 'posttrain_jax'
    jax.config.update('jax_compilation_cache_dir', str(folder))
