"""What was thought, between tags, apart from what is said."""

import re

__all__ = ['NAMES', 'outside']

NAMES = ('think', 'thinking', 'thought', 'reasoning', 'seed:think')
_ANY = '|'.join(NAMES)
TAG = re.compile(rf'<(/?)(?:{_ANY})>|\[(/?)(?:{_ANY})\]', re.IGNORECASE)


def outside(text: str, inside: bool = False) -> list[str]:
  """The pieces of a text that stand in no thought, in their order.

  A thought that nothing ends is none: its tag alone is left out. The time is
  that of one pass, whatever the tags are.

  inside  whether the text may begin in a thought that was opened before it
  """
  pieces: list[str] = []
  opened, at = 0 if inside else -1, 0  # the piece that a thought begins with
  explicit = False
  for tag in TAG.finditer(text):
    pieces.append(text[at : tag.start()])
    at = tag.end()
    if not (tag[1] or tag[2]):
      if not explicit:
        opened, explicit = len(pieces), True
    elif opened >= 0:
      del pieces[opened:]
      opened, explicit = -1, False
  return [*pieces, text[at:]]
