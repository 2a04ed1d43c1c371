"""A reward of one's own: `config.rewards` finds the function by its path."""

import re
import unicodedata
from collections.abc import Sequence


def _plain(text: str) -> str:
  """Lower case, without accents."""
  parts = unicodedata.normalize('NFKD', text.casefold())
  return ''.join(c for c in parts if not unicodedata.combining(c))


def says(
  prompts: Sequence, completions: Sequence, answer: Sequence[str], **columns
) -> list[float]:
  """1.0 where an answer has the words of its column `answer` in it."""
  del prompts, columns
  found = []
  for completion, wanted in zip(completions, answer):
    text = completion if isinstance(completion, str) else completion[-1][
      'content'
    ]  # fmt: skip
    pattern = rf'\b{re.escape(_plain(wanted))}\b'
    found.append(float(re.search(pattern, _plain(text)) is not None))
  return found
