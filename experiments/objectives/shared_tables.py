"""What the tables of this folder share: provenance and Markdown.

To import it makes the repository and its tests importable.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ['ROOT', 'largest', 'number', 'provenance', 'table']

ROOT = Path(__file__).resolve().parents[2]

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# What the test suite has compiled is not compiled again.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
# A clone works without being installed.
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ['git', '-C', str(ROOT), *arguments], capture_output=True, text=True
  )
  return done.stdout.strip()


def provenance(command: str) -> dict[str, Any]:
  """What numbers were made with: command, commit, date, machine, versions."""
  import jax
  import jaxlib
  import numpy

  versions = {
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'numpy': numpy.__version__,
  }
  try:
    commit = _git('rev-parse', 'HEAD') or 'unknown'
    own = ('posttrain_jax', 'configs', 'tests')
    changed = _git('status', '--porcelain', '--', *own)
  except OSError:
    commit, changed = 'unknown', ''
  return {
    'command': command,
    'commit': commit + (' and uncommitted changes' if changed else ''),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'machine': f'{platform.machine()} CPU',
    'versions': versions,
  }


def number(x: float | None) -> str:
  """One digit, or a dash where there is none."""
  return '–' if x is None else '0' if x == 0 else f'{x:.0e}'


def largest(values: list[float | None]) -> float | None:
  """The largest number of those that are there."""
  return max((x for x in values if x is not None), default=None)


def table(columns: list[str], rows: list[list[str]]) -> str:
  """A table in Markdown; bars in its cells are escaped."""
  cells = [columns, ['---'] * len(columns), *rows]
  escape = lambda text: text.replace('|', '\\|')
  return '\n'.join(f'| {" | ".join(map(escape, row))} |' for row in cells)
