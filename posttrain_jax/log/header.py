"""`make_header`: all that is needed to know what a run was."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import posttrain_jax
from posttrain_jax.log.files import strict

_PACKAGES = {
  'jax': 'jax',
  'jaxlib': 'jaxlib',
  'flax': 'flax',
  'optax': 'optax',
  'orbax': 'orbax-checkpoint',
  'numpy': 'numpy',
}


def make_header(config_dict: dict) -> dict[str, Any]:
  """The first line of a metrics file.

  Args:
    config_dict: the whole config, nested; values that JSON cannot hold are
      written as text.

  Returns:
    config, versions, devices (platform, kind, count, processes), cpu_count,
    seed, git (commit and dirty, or None outside a checkout), command, date_utc.
  """
  device = jax.devices()[0]
  now = datetime.datetime.now(datetime.UTC)
  return strict(
    {
      'config': config_dict,
      'seed': config_dict.get('seed'),
      'versions': {
        'posttrain_jax': posttrain_jax.__version__,
        'python': platform.python_version(),
        **{name: _version(package) for name, package in _PACKAGES.items()},
      },
      'devices': {
        'platform': device.platform,
        'kind': device.device_kind,
        'count': jax.device_count(),
        'processes': jax.process_count(),
      },
      'cpu_count': os.cpu_count(),
      'git': git_state(Path(posttrain_jax.__file__)),
      'command': ' '.join([Path(sys.executable).name, *sys.argv]),
      'date_utc': now.isoformat(timespec='seconds'),
    }
  )


def git_state(source: Path) -> dict[str, Any] | None:
  """Commit of the checkout that tracks `source`, and whether it was changed.

  None where git does not track that file: a package installed into the
  environment of another project must not report that project's commit.
  """

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(source.parent), *arguments],
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', source.name)
    return {
      'commit': git('rev-parse', 'HEAD'),
      'dirty': bool(git('status', '--porcelain')),
    }
  except (OSError, subprocess.SubprocessError):
    return None


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
