"""Strict flags, eight virtual CPU devices, quick compilation, a key."""

import gc
import os
from importlib.metadata import version

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# No test asks the hub but the one that brings its own.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
# Compiled programs are kept between runs of the suite and between workers.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  os.path.join(os.path.dirname(__file__), '..', '.cache', 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
# Most programs here run once or twice: compiling them is most of the time. The
# graph is optimised as ever; only the code of each kernel is not, and XLA's
# older way of writing it takes half as long (a process dies of a flag that its
# XLA does not know, so of this one only where it was seen).
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_backend_optimization_level=0',
    *(
      ['--xla_cpu_use_fusion_emitters=false']
      if version('jaxlib').startswith('0.10.')
      else []
    ),
    *os.environ.get('XLA_FLAGS', '').split(),
  ]
)

import jax
import long_variants
import pytest

# Traced programs are millions of live objects, which collecting again and again
# takes a twentieth of the time.
gc.set_threshold(200_000, 20, 1000)
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Whole runs take longest: they start first, so that no worker ends with them.
LONG = (
  'test_quickstart',
  'test_train',
  'test_metamorphic',
  'test_metamorphic_numerics',
  'test_text_runs',
  'test_text_tasks',
  'test_model',
)
# Files that use the same programs.
TOGETHER = {'test_metamorphic_numerics': 'test_metamorphic'}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  for item in items:
    name = item.module.__name__
    item.add_marker(pytest.mark.xdist_group(TOGETHER.get(name, name)))
    group = long_variants.group(name, item.name)
    if group != 'quick':
      item.add_marker(getattr(pytest.mark, group))
    long = item.get_closest_marker('long') is not None
    if long and long_variants.halved(name, item.name):
      item.add_marker(pytest.mark.slow)
  rank = lambda item: (
    LONG.index(item.module.__name__)
    if item.module.__name__ in LONG
    else len(LONG)
  )
  items.sort(key=rank)


def pytest_runtest_teardown(item, nextitem):
  """Lets go of a group's programs, which nothing after it uses.

  Thousands of traced programs would slow down every garbage collection.
  """
  group = lambda item: TOGETHER.get(item.module.__name__, item.module.__name__)
  if nextitem is None or group(item) != group(nextitem):
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def key():
  return jax.random.key(0)
