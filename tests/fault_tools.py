"""States, folders and limits for tests of faults."""

import contextlib
import resource

import jax.numpy as jnp
import numpy as np

from posttrain_jax import log
from posttrain_jax.core.types import TrainState
from posttrain_jax.run import failed


def state_of(step, value=None, size=4):
  """A state whose parameters are its step, or `value`."""
  value = float(step) if value is None else value
  params = {'a': jnp.full((size,), value, jnp.float32)}
  return TrainState(jnp.int32(step), params, (jnp.zeros(size),))


def noise(step):
  """A state that no compression makes smaller."""
  numbers = np.random.default_rng(step).normal(size=2**16)
  return state_of(step).replace(params={'a': jnp.asarray(numbers, jnp.float32)})


def contents(folder):
  """{file: (what it says, when it was written)}."""
  return {
    str(f): (f.read_bytes(), f.stat().st_mtime_ns)
    for f in folder.rglob('*') if f.is_file()
  }  # fmt: skip


@contextlib.contextmanager
def small_files(limit):
  """No file may grow beyond `limit` bytes, as on a disk that is full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows_of(workdir):
  """Rows of metrics without times."""
  timed = ('time', *failed.TIMED)
  return [
    {k: v for k, v in row.items() if not k.startswith(timed)}
    for row in log.read(workdir)[1]
  ]
