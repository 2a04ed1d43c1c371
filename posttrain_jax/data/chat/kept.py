"""Whether a chat template writes what was said as it was said.

Spaces around it are taken off by most, and what was thought is written in a
form of their own or left out; anything else that differs is another text than
the record's.
"""

from collections.abc import Mapping, Sequence

from posttrain_jax.data.chat.checks import texts_of
from posttrain_jax.data.chat.thoughts import outside

__all__ = ['changes', 'misquotes']


def _end(text: str, said: str, start: int) -> int:
  """Where a text that is as it was said ends, from `start` on; -1: nowhere."""
  at = text.find(said.strip(), start)
  if at >= 0:
    return at + len(said.strip())
  # The opening of a thought may be the template's own.
  for piece in outside(said, inside=True):
    at = text.find(piece.strip(), start)
    if at < 0:
      return -1
    start = at + len(piece.strip())
  return start


def _stand(texts: Sequence[str], place: str) -> bool:
  """Whether texts stand in a place, one behind the other."""
  end = 0
  for said in texts:
    end = _end(place, said, end)
    if end < 0:
      return False
  return True


def changes(turns: Sequence[Mapping], places: Sequence[str]) -> bool:
  """Whether one of the turns that are trained says something else there.

  What others say is not looked at: it may hold an answer's text, as a tool's
  that is quoted, and be written in a form of its own.

  turns   those that are trained, in their order
  places  what is trained of the text, in its order: of each turn its own, or,
          where these are more or fewer, of all together
  """
  said = [texts_of(turn) for turn in turns]
  if len(said) != len(places):
    said = [[text for texts in said for text in texts]]
    places = ['\n'.join(places)]
  return not all(map(_stand, said, places))


def misquotes(turns: Sequence[Mapping], text: str) -> bool:
  """Whether what a user or the system says stands otherwise in a text.

  What tools answer is data, which templates quote in forms of their own.
  """
  return any(
    said.strip() and _end(text, said, 0) < 0
    for turn in turns
    if turn['role'] not in ('assistant', 'tool')
    for said in texts_of(turn)
  )
