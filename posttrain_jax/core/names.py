"""The nearest valid name, for error messages; for worker processes, no jax."""

import difflib
import heapq
import os
from collections.abc import Iterable

__all__ = ['LIKE', 'closest', 'nearest']

LIKE = 0.4  # how like a name has to be (`difflib`'s ratio)
MANY = 200  # names that are compared letter by letter


def _one_edit(a: str, b: str) -> bool:
  """Whether one letter more, less or another, or two neighbours that have
  changed places, make one text of the other."""
  while a and b and a[0] == b[0]:
    a, b = a[1:], b[1:]
  while a and b and a[-1] == b[-1]:
    a, b = a[:-1], b[:-1]
  return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


def _likely(name: str, choices: list[str]) -> list[str]:
  """Of many choices those that begin and end most as a name does: to compare it
  with the 30,000 files of a folder takes seconds."""
  if len(choices) <= MANY:
    return choices

  def same(choice: str) -> int:
    begun = len(os.path.commonprefix([name, choice]))
    ends = [text[begun:][::-1] for text in (name, choice)]
    return begun + len(os.path.commonprefix(ends))

  return heapq.nlargest(MANY, choices, key=same)


def closest(name: str, choices: Iterable[str], least: float = LIKE) -> str:
  """The choice that is meant by a name; '': none is near it.

  least  how like it has to be; above LIKE also where it is only one letter off
  """
  name, choices = str(name), sorted(str(choice) for choice in choices)
  if name.startswith('--') and all(x.startswith('--') for x in choices):
    # What all flags begin with makes none of them like another.
    found = closest(name[2:], [x[2:] for x in choices], least)
    return found and f'--{found}'
  choices = _likely(name, choices)
  # Those that a slip of the finger makes, first.
  slips = [choice for choice in choices if name and _one_edit(name, choice)]
  close = difflib.get_close_matches(name, slips or choices, n=1, cutoff=least)
  return next(iter(close or (slips if least <= LIKE else ())), '')


def nearest(name: str, choices: Iterable[str]) -> str:
  """' Did you mean "x"? Valid: a, b, x', to be added behind a sentence that
  ends: a test holds every call to it."""
  choices = sorted(str(choice) for choice in choices)
  close = closest(name, choices)
  hint = f' Did you mean "{close}"?' if close else ''
  return f'{hint} Valid: {", ".join(choices) or "(none)"}'
