"""Messages to tokens, turn by turn, so that every token knows whose it is.

A turn is `opening(role) + content + stop + newline`, each encoded by itself and
concatenated; the text is never rendered a second time and compared. Hence a
conversation's first k turns are a prefix of its tokens, and what is trained is
exactly what a model generates: the assistant's content and the stop token.

Tokenizers that have '<|im_start|>' and '<|im_end|>' get ChatML, whose stop is
'<|im_end|>'; all others get '<|role|>' lines in plain text, and stop at EOS.
"""

from collections.abc import Sequence
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['ROLES', 'check_messages', 'opening', 'render', 'stop_id']

ROLES = ('system', 'user', 'assistant', 'tool')
# Keys that change what a turn says; to ignore them would train on other text.
_UNSUPPORTED = ('tool_calls', 'thinking', 'reasoning_content', 'weight')


def check_messages(messages: Any, where: str) -> None:
  """Raises ValueError at the first turn that cannot be rendered."""
  if not isinstance(messages, Sequence) or isinstance(messages, str):
    raise ValueError(f'{where}: expected a list of messages, got {messages!r}')
  for i, message in enumerate(messages):
    here = f'{where}[{i}]'
    if not isinstance(message, dict):
      raise ValueError(f'{here}: expected {{role, content}}, got {message!r}')
    for key in ('role', 'content'):
      if key not in message:
        raise ValueError(
          f'{here}: a message without "{key}"; it has {sorted(message)}'
        )
    if message['role'] not in ROLES:
      raise ValueError(
        f'{here}: unknown role "{message["role"]}".'
        f'{nearest(message["role"], ROLES)}'
      )
    if not isinstance(message['content'], str):
      raise ValueError(
        f'{here}: "content" must be a string, not {message["content"]!r}'
      )
    for key in _UNSUPPORTED:
      if message.get(key) not in (None, [], ''):
        raise ValueError(f'{here}: "{key}" is not supported')


def _is_chatml(tokenizer: Tokenizer) -> bool:
  markers = ('<|im_start|>', '<|im_end|>')
  return all(tokenizer.special_id(name) is not None for name in markers)


def stop_id(tokenizer: Tokenizer) -> int:
  """The token that ends a turn, where generation has to stop."""
  if _is_chatml(tokenizer):
    return tokenizer.special_id('<|im_end|>')
  return tokenizer.eos_id


def opening(role: str, tokenizer: Tokenizer) -> list[int]:
  """What precedes a turn's content; 'assistant' is the generation prompt."""
  if _is_chatml(tokenizer):
    start = tokenizer.special_id('<|im_start|>')
    return [start, *tokenizer.encode(f'{role}\n')]
  return tokenizer.encode(f'<|{role}|>\n')


def render(
  messages: Sequence[dict], tokenizer: Tokenizer, *, opened: bool = False
) -> tuple[list[int], list[float]]:
  """(tokens, loss_mask) of checked messages; 1.0 on what the assistant says.

  opened: the first turn's `opening` already stands at the end of a prompt.
  """
  tokens, mask = [], []

  def add(ids: list[int], weight: float) -> None:
    tokens.extend(ids)
    mask.extend([weight] * len(ids))

  newline = tokenizer.encode('\n')
  for i, message in enumerate(messages):
    weight = float(message['role'] == 'assistant')
    if not (opened and i == 0):
      add(opening(message['role'], tokenizer), 0.0)
    add(tokenizer.encode(message['content']), weight)
    add([stop_id(tokenizer)], weight)
    add(newline, 0.0)
  return tokens, mask
