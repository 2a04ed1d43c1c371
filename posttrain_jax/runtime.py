"""Process-wide settings of the commands; importing the library changes none."""

import ctypes
import os
import platform
from pathlib import Path

import jax

__all__ = ['keep_freed_memory', 'prepare', 'use_compilation_cache']

# glibc's mallopt parameters (malloc.h)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
LEAST_MEMORY = 8 * 2**30


def prepare() -> None:
  """What every command that trains or evaluates sets before its first array."""
  use_compilation_cache()
  keep_freed_memory()


def use_compilation_cache() -> None:
  """Keeps compiled programs between processes, unless the user said where.

  The folder is $JAX_COMPILATION_CACHE_DIR, or ~/.cache/posttrain_jax. Programs
  that compile in less than a second are not worth the disk.
  """
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = Path.home() / '.cache' / 'posttrain_jax'
    jax.config.update('jax_compilation_cache_dir', str(folder))


def keep_freed_memory() -> bool:
  """Lets the process keep the memory that XLA's CPU client frees.

  By default glibc gives large buffers back to the system after every step and
  faults them in again, page by page: a quarter of a training step. Kept, they
  make the process larger, up to twice. Does nothing, and returns False, where
  the C library is another one, the machine has less than 8 GiB, or the user has
  set MALLOC_ARENA_MAX.
  """
  if platform.libc_ver()[0] != 'glibc' or 'MALLOC_ARENA_MAX' in os.environ:
    return False
  if os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') < LEAST_MEMORY:
    return False
  mallopt = ctypes.CDLL(None).mallopt
  settings = (
    (_ARENA_MAX, 1),  # buffers are freed by other threads than took them
    (_MMAP_MAX, 0),
    (_TRIM_THRESHOLD, -1),  # never
    (_TOP_PAD, 256 * 2**20),
  )
  return all([mallopt(*setting) == 1 for setting in settings])
