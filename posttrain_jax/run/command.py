"""The command line that the commands which train share."""

import argparse
from collections.abc import Sequence
from typing import Any

from posttrain_jax.core import flags as core_flags
from posttrain_jax.core import paths
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import foreign_keys

__all__ = ['check_drawn', 'parse']


def parse(
  argv: Sequence[str] | None, doc: str, prog: str = 'posttrain_jax.train'
) -> tuple[Any, argparse.Namespace]:
  """(config, flags) of a command line that trains.

  argv  None: those of the process
  doc   what --help prints above the flags

  Raises:
    ValueError: an unknown flag, key or name, with the nearest valid one.
  """
  items, rest = config_lib.split_flags(paths.words(argv))
  parser = argparse.ArgumentParser(
    prog=f'python -m {prog}',
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, help='configs/FILE.py[:ARGS]')
  parser.add_argument('--workdir', help='the folder of the run')
  parser.add_argument(
    '--dry_run', action='store_true', help='print config and sizes, and stop'
  )
  core_flags.check_once(parser, rest)
  known = ['--config', '--workdir', '--dry_run', core_flags.OF_CONFIG]
  known += ['--replay'] if prog == 'posttrain_jax.train' else []
  if not any(word.partition('=')[0] == '--config' for word in rest):
    core_flags.check_known(core_flags.unknown(parser, rest), known)
  flags, unknown = core_flags.parsed(parser, rest)
  if unknown:
    key = unknown[0].lstrip('-').partition('=')[0]
    keys = config_lib.keys(config_lib.load(flags.config))
    if told := foreign_keys.ours(key, keys):
      raise ValueError(f'unknown flag "{unknown[0]}".{told}')
    if key in keys:
      raise ValueError(
        f'unknown flag "{unknown[0]}": keys of a config are written '
        f'--config.{key}=VALUE'
      )
    core_flags.check_known(unknown, known)
  if not flags.workdir and not flags.dry_run:
    raise ValueError('--workdir is missing: the folder of the run')
  return config_lib.load(flags.config, items), flags


def check_drawn(flags: argparse.Namespace, **usual: float) -> None:
  """Raises ValueError for a flag of samples where the likeliest token is taken.

  usual  {flag: its default}
  """
  for name, default in usual.items():
    value = getattr(flags, name)
    if flags.temperature == 0 and value != default:
      raise ValueError(
        f'--{name}={value} at --temperature=0, where nothing is drawn'
      )
