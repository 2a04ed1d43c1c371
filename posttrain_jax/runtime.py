"""Process-wide settings of the commands; importing the library changes none."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
  """Keeps compiled programs between processes, unless the user said where.

  The folder is $JAX_COMPILATION_CACHE_DIR, or ~/.cache/posttrain_jax. Programs
  that compile in less than a second are not worth the disk.
  """
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = Path.home() / '.cache' / 'posttrain_jax'
    jax.config.update('jax_compilation_cache_dir', str(folder))
