"""The command line that the commands which train share."""

import argparse
from collections.abc import Sequence
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.core.domain import Number, Whole
from posttrain_jax.core.keys import MOST
from posttrain_jax.core.resolve import nearest
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import foreign_keys

__all__ = ['DOMAINS', 'check_drawn', 'check_once', 'first_given', 'parse',
           'read_flags']  # fmt: skip

# What numbers of flags may be, by their names.
DOMAINS = {
  'max_length': Whole(0),
  'max_new_tokens': Whole(1),
  'num_samples': Whole(0),
  'seed': Whole(0, MOST),
  'temperature': Number(0),
  'top_p': Number(0, 1, above=True),
}


def check_once(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
  """Raises ValueError where a flag with one value is given two: argparse takes
  the last one without a word."""
  given: dict[str, str] = {}
  for index, word in enumerate(words):
    name, equals, value = word.partition('=')
    action = parser._option_string_actions.get(name)
    if not isinstance(action, argparse._StoreAction) or action.nargs:
      continue
    if not equals:
      value = words[index + 1] if index + 1 < len(words) else ''
    if given.setdefault(action.dest, value) != value:
      raise ValueError(
        f'{name} is given twice, as {given[action.dest]} and {value}: leave '
        'one out'
      )


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
  check_once(parser, rest)
  flags, unknown = parser.parse_known_args(rest)
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
    known = ['--config', '--workdir', '--dry_run', '--config.KEY=VALUE']
    known += ['--replay'] if prog == 'posttrain_jax.train' else []
    raise ValueError(
      f'unknown flag "{unknown[0]}".{nearest(unknown[0], known)}'
    )
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


def first_given(flags: argparse.Namespace, names: Sequence[str]) -> str:
  """The first of flags without a default that is given; '': none is."""
  given = (name for name in names if getattr(flags, name) is not None)
  return next(given, '')


def read_flags(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
  """The flags of a command without a config.

  Raises:
    ValueError: an unknown flag, with the nearest one; a number out of its
      domain.
  """
  rest = paths.words(argv)
  check_once(parser, rest)
  flags, unknown = parser.parse_known_args(rest)
  if unknown:
    known = [name for x in parser._actions for name in x.option_strings]
    raise ValueError(
      f'unknown flag "{unknown[0]}".'
      + nearest(unknown[0].partition('=')[0], known)
    )
  for name, domain in DOMAINS.items():
    value = getattr(flags, name, None)
    if value is not None:
      domain.check(f'--{name}', value)
  return flags
