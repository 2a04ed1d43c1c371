"""Whether a chat template writes what an assistant said as it was said.

Spaces around it are taken off by most, and what was thought is written in a
form of their own or left out; anything else that differs is another text than
the record's.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from posttrain_jax.data.chat.checks import texts_of

__all__ = ['changes']

_NAMES = 'think|thinking|thought|reasoning|seed:think'
# What was thought; its opening may be the template's own.
_THOUGHT = re.compile(f'(?:<(?:{_NAMES})>|^).*?</(?:{_NAMES})>', re.DOTALL)
_OPEN = re.compile(f'</?(?:{_NAMES})>')


def _pieces(said: str) -> list[str]:
  """What of an answer has to stand in the text, apart from its thoughts."""
  parts = _THOUGHT.split(said)
  return [piece for part in parts for piece in _OPEN.split(part)]


def _end(text: str, said: str, start: int) -> int:
  """Where a text that is as it was said ends, from `start` on; -1: nowhere."""
  at = text.find(said.strip(), start)
  if at >= 0:
    return at + len(said.strip())
  for piece in _pieces(said):
    at = text.find(piece.strip(), start)
    if at < 0:
      return -1
    start = at + len(piece.strip())
  return start


def changes(
  messages: Sequence[Mapping],
  text: str,
  trained: Callable[[int], bool],
) -> bool:
  """Whether a turn that is trained says something else in `text`.

  trained  (number of a turn) -> whether it is trained
  """
  start = 0
  for i, message in enumerate(messages):
    if message['role'] in ('system', 'developer'):  # these may stand later on
      continue
    for said in texts_of(message):
      end = _end(text, said, start)
      if end < 0 and trained(i):
        return True
      start = max(start, end)
  return False
