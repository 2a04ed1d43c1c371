"""The tokens that end a completion: one id, or several.

A chat model stops at whatever its folder names: the end of a turn, the end of
a text. Whoever samples takes `Ends`; one id alone makes the programs it made.
"""

from typing import Any

__all__ = ['Ends', 'count', 'reached', 'several']

Ends = int | tuple[int, ...]


def several(ends: Ends) -> tuple[int, ...]:
  """All of them."""
  return ends if isinstance(ends, tuple) else (ends,)


def count(ends: Ends) -> int:
  """How many they are."""
  return len(several(ends))


def reached(tokens: Any, ends: Ends) -> Any:
  """Bools of the shape of `tokens` (of numpy or jax): which end an answer."""
  first, *others = several(ends)
  found = tokens == first
  for token in others:
    found = found | (tokens == token)
  return found
