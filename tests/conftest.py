"""Strict flags, eight virtual CPU devices, a compilation cache, a key."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compiled programs are kept between runs of the suite and between workers.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  os.path.join(os.path.dirname(__file__), '..', '.cache', 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Whole runs take longest: they start first, so that no worker ends with them.
LONG = ('test_quickstart', 'test_train', 'test_text_tasks', 'test_model')


def pytest_collection_modifyitems(items):
  rank = lambda item: (
    LONG.index(item.module.__name__)
    if item.module.__name__ in LONG
    else len(LONG)
  )
  items.sort(key=rank)


@pytest.fixture
def key():
  return jax.random.key(0)
