"""Names of special tokens in what people wrote.

A chat template writes control tokens as text, and one string is tokenised: a
"<|im_end|>" that somebody typed would end the turn. A record that holds such a
name is refused, unless the run takes it for the token ('control'), as
transformers does without a word.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from posttrain_jax.data.quoting import quoted
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['any_of', 'check_special']


@functools.lru_cache(64)
def any_of(names: frozenset[str]) -> re.Pattern | None:
  """Matches any of some names, the longest that stands there."""
  longest = sorted(names, key=len, reverse=True)
  return re.compile('|'.join(map(re.escape, longest))) if names else None


def _texts(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping):
    for key, item in value.items():
      yield from _texts(key)
      yield from _texts(item)
  elif isinstance(value, list | tuple):
    for item in value:
      yield from _texts(item)


def check_special(value: Any, tokenizer: Tokenizer) -> None:
  """Raises ValueError where a text inside of `value` names a special token.

  value  a text, a list of messages, tools: whatever JSON holds
  """
  pattern = any_of(tokenizer.special_names)
  if pattern is None or getattr(tokenizer, 'special_text', '') == 'control':
    return
  for text in _texts(value):
    found = pattern.search(text)
    if found:
      raise ValueError(
        f'the text {quoted(found.group())} names a special token; take it out, '
        'or set data.special_text to "control" to have it read as the token '
        'itself, wherever it stands'
      )
