"""The nearest valid name, for error messages; for worker processes, no jax."""

import difflib
from collections.abc import Iterable

__all__ = ['closest', 'nearest']


def _one_edit(a: str, b: str) -> bool:
  """Whether one letter more, less or another, or two neighbours that have
  changed places, make one text of the other."""
  while a and b and a[0] == b[0]:
    a, b = a[1:], b[1:]
  while a and b and a[-1] == b[-1]:
    a, b = a[:-1], b[:-1]
  return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


def closest(name: str, choices: Iterable[str]) -> str:
  """The choice that is meant by a name; '': none is near it."""
  name, choices = str(name), sorted(str(choice) for choice in choices)
  # Those that a slip of the finger makes, first.
  slips = [choice for choice in choices if name and _one_edit(name, choice)]
  close = difflib.get_close_matches(name, slips or choices, n=1, cutoff=0.4)
  return next(iter(close or slips), '')


def nearest(name: str, choices: Iterable[str]) -> str:
  """' Did you mean "x"? Valid: a, b, x', to be added behind a sentence that
  ends: a test holds every call to it."""
  choices = sorted(str(choice) for choice in choices)
  close = closest(name, choices)
  hint = f' Did you mean "{close}"?' if close else ''
  return f'{hint} Valid: {", ".join(choices) or "(none)"}'
