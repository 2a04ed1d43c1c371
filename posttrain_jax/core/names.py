"""The nearest valid name, for error messages; for worker processes, no jax."""

import difflib
from collections.abc import Iterable

__all__ = ['nearest']


def nearest(name: str, choices: Iterable[str]) -> str:
  """' Did you mean "x"? Valid: a, b, x' for an error message."""
  choices = sorted(str(choice) for choice in choices)
  close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.4)
  hint = f' Did you mean "{close[0]}"?' if close else ''
  return f'{hint} Valid: {", ".join(choices) or "(none)"}'
