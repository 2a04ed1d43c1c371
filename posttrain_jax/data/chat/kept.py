"""Whether a chat template writes what was said as it was said.

Spaces around it are taken off by most, and what was thought is written in a
form of their own or left out; anything else that differs is another text than
the record's.
"""

import functools
import re
from collections.abc import Collection, Mapping, Sequence

from posttrain_jax.data.chat.checks import texts_of
from posttrain_jax.data.chat.special import any_of
from posttrain_jax.data.chat.thoughts import outside
from posttrain_jax.data.template import REASONING

__all__ = ['adds', 'changes', 'misquotes']


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


def adds(
  turns: Sequence[Mapping], places: Sequence[str], names: Collection[str]
) -> bool:
  """Whether words of the template's own are trained as a part of an answer.

  Thoughts are none, nor special tokens and names behind them, as of a role.
  Answers with more than one text are not looked at.

  names  of the special tokens
  """
  bare = functools.partial(_bare, names=frozenset(names))
  if len(turns) != len(places):  # some hold a token alone, as of the end
    places = [place for place in places if bare(place).strip()]
  if len(turns) != len(places):
    return False
  for turn, place in zip(turns, places, strict=True):
    texts = [text.strip() for text in texts_of(turn)]
    more = any(turn.get(key) for key in ('tool_calls', *REASONING))
    if more or len(texts) != 1 or not texts[0]:
      continue
    said = bare(''.join(outside(place)))
    if texts[0] not in said:
      continue
    left = said.replace(texts[0], '', 1)
    if any(map(str.isalnum, left)):
      return True
  return False


@functools.lru_cache(64)
def _headed(names: frozenset[str]) -> re.Pattern | None:
  """A special token and a word that stands behind it and before another or the
  end of its line: a role, a channel."""
  special = any_of(names)
  one = special and f'(?:{special.pattern})'
  return re.compile(rf'{one}\w+(?=\n|{one})') if one else None


def _bare(text: str, names: frozenset[str]) -> str:
  """A text without special tokens and what they head."""
  special, headed = any_of(names), _headed(names)
  if special is None or headed is None:
    return text
  return special.sub('', headed.sub('', text))


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
