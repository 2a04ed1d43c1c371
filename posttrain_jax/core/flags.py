"""Flags of the command line, read by every command in the same words."""

import argparse
import itertools
from collections.abc import Sequence
from typing import NoReturn

from posttrain_jax.core import paths
from posttrain_jax.core.domain import Number, Whole
from posttrain_jax.core.keys import MOST
from posttrain_jax.core.names import nearest

__all__ = ['DOMAINS', 'OF_CONFIG', 'check_known', 'check_once', 'first_given',
           'parsed', 'read', 'unknown']  # fmt: skip

OF_CONFIG = '--config.KEY=VALUE'  # as messages name the keys of a config
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


def check_known(words: Sequence[str], known: Sequence[str]) -> None:
  """Raises ValueError at the first of words that no parser has taken.

  known  the flags that there are
  """
  if words:
    name, long = words[0].partition('=')[0], [x for x in known if x[:2] == '--']
    raise ValueError(f'unknown flag "{words[0]}".{nearest(name, long)}')


def unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
  """Words that are written as flags and are none."""
  known = parser._option_string_actions
  flags = itertools.takewhile(lambda word: word != '--', words)
  return [
    word
    for word in flags
    if word.startswith('--')
    and (name := word.partition('=')[0]) not in known
    and ' ' not in name  # which argparse takes for a value
    and not (parser.allow_abbrev and any(x.startswith(name) for x in known))
  ]


def first_given(flags: argparse.Namespace, names: Sequence[str]) -> str:
  """The first of flags without a default that is given; '': none is."""
  given = (name for name in names if getattr(flags, name) is not None)
  return next(given, '')


def _refuse(message: str) -> NoReturn:
  """In place of argparse's own, which prints the usage and leaves."""
  raise ValueError(message)


def parsed(
  parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """`parse_known_args`; raises ValueError where a flag or a value is missing,
  or a value is none that there is."""
  before, parser.error = parser.error, _refuse  # type: ignore[method-assign]
  try:
    return parser.parse_known_args(words)
  finally:
    parser.error = before  # type: ignore[method-assign]


def read(
  parser: argparse.ArgumentParser,
  argv: Sequence[str] | None,
  also: Sequence[str] = (),
) -> argparse.Namespace:
  """The flags of a command, those of a config taken out.

  argv  None: those of the process
  also  what messages name besides, as '--config.KEY=VALUE'

  Raises:
    ValueError: an unknown flag, with the nearest one; one that is missing, or
      given two values; a number out of its domain.
  """
  rest = paths.words(argv)
  known = [x for a in parser._actions for x in a.option_strings] + [*also]
  # Before argparse, which names what is missing and not what stands for it.
  check_known(unknown(parser, rest), known)
  check_once(parser, rest)
  found, left = parsed(parser, rest)
  check_known(left, known)
  for name, domain in DOMAINS.items():
    value = getattr(found, name, None)
    if value is not None:
      domain.check(f'--{name}', value)
  return found
