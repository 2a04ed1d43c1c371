"""What the C library does with memory that is given back to it.

Nothing here needs more than Python: a command asks for it before anything that
starts threads is imported (posttrain_jax/__init__.py).
"""

import ctypes
import os
import platform

__all__ = ['LEAST_MEMORY', 'give_back', 'keep_freed_memory', 'resident']

# glibc's mallopt parameters (malloc.h)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
LEAST_MEMORY = 8 * 2**30


def keep_freed_memory() -> bool:
  """Lets the process keep the memory that XLA's CPU client frees.

  By default glibc gives large buffers back to the system after every step and
  faults them in again, page by page: a quarter of a training step. Kept, they
  make the process larger, up to twice. Does nothing, and returns False, where
  the C library is another one, the machine has less than 8 GiB, or the user has
  set MALLOC_ARENA_MAX.

  Where threads have taken memory before, each has a heap of its own, later
  threads share all of these in turn, and what is too large for a heap that is
  not the first one comes from the system after all: a step's buffers are then
  faulted in again in some steps, and lie beside those that were kept (14.4 GB
  in place of 9.9 for a model of 0.5B).
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


def give_back() -> bool:
  """Gives the system what is free in the heap right now, once; whether it did.

  For the end of a phase whose buffers the next one has no use for, as when a
  large model is loaded. Does nothing where the C library is not glibc.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  return ctypes.CDLL(None).malloc_trim(0) == 1


def resident() -> int:
  """Bytes of this process that are in memory; 0 where no Linux says it."""
  try:
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:
    return 0
