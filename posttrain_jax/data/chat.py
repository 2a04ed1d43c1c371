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
from posttrain_jax.data.quoting import listed, quoted, shown
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = [
  'ROLES',
  'check_messages',
  'check_order',
  'check_text',
  'opening',
  'render',
  'stop_id',
  'template',
]

ROLES = ('system', 'user', 'assistant', 'tool')
# What other formats call these.
OTHER_ROLES = {
  'developer': 'system',
  'human': 'user',
  'gpt': 'assistant',
  'bot': 'assistant',
  'model': 'assistant',
  'function': 'tool',
  'observation': 'tool',
}
OTHER_KEYS = {'from': 'role', 'value': 'content', 'text': 'content'}
# Who may speak after whom; None: the first turn.
FOLLOWS = {
  None: ('system', 'user', 'assistant'),
  'system': ('user', 'assistant'),
  'user': ('assistant',),
  'assistant': ('user', 'tool'),
  'tool': ('assistant', 'tool'),
}
# Keys that change what a turn says, or whether it is trained; to ignore them
# would train on other text.
UNSUPPORTED = (
  'tool_calls',
  'tool_call_id',
  'function_call',
  'name',
  'thinking',
  'reasoning',
  'reasoning_content',
  'images',
  'audio',
  'weight',
  'train',
)
EMPTY = (None, '', [], {})


def check_text(value: Any, where: str) -> None:
  """Raises ValueError unless `value` is a string that UTF-8 can write."""
  if not isinstance(value, str):
    raise ValueError(f'{where}: expected a string, got {shown(value)}')
  try:
    value.encode('utf-8')
  except UnicodeEncodeError as error:
    code = ord(value[error.start])
    raise ValueError(
      f'{where}: character {error.start + 1} is half of one (a lone surrogate, '
      f'U+{code:04X})'
    ) from None


def _check_message(message: Any, here: str) -> None:
  if not isinstance(message, dict):
    raise ValueError(
      f'{here}: expected {{role, content}}, got {shown(message)}'
    )
  for key in ('role', 'content'):
    if key not in message:
      other = [k for k, v in OTHER_KEYS.items() if v == key and k in message]
      hint = f'; rename its "{other[0]}"' if other else ''
      raise ValueError(
        f'{here}: a message without "{key}"; it has {listed(message)}{hint}'
      )
  role, content = message['role'], message['content']
  if role not in ROLES:
    other = OTHER_ROLES.get(role) if isinstance(role, str) else None
    hint = (
      f' Did you mean "{other}"? Valid: {", ".join(ROLES)}'
      if other
      else nearest(str(role)[:40], ROLES)
    )
    raise ValueError(f'{here}: unknown role {quoted(role)}.{hint}')
  if not isinstance(content, str):
    parts = isinstance(content, list) and 'a list of content parts'
    raise ValueError(
      f'{here}: "content" must be a string, not {parts or shown(content)}'
    )
  check_text(content, f'{here}: "content"')
  for key in UNSUPPORTED:
    if message.get(key) not in EMPTY:
      raise ValueError(f'{here}: "{key}" is not supported')


def check_messages(messages: Any, where: str) -> None:
  """Raises ValueError at the first turn that cannot be rendered.

  That is one with no role or content, an unknown role, content that is no
  string, or a key that changes what the turn says. Other keys, as an id, are
  passed over.
  """
  if not isinstance(messages, Sequence) or isinstance(messages, str):
    raise ValueError(
      f'{where}: expected a list of messages, got {shown(messages)}'
    )
  for i, message in enumerate(messages):
    _check_message(message, f'{where}[{i}]')


def check_order(
  messages: Sequence[dict], where: str, before: str | None = None
) -> None:
  """Raises ValueError where a turn cannot come after the one before it.

  before  role of the turn before the first; None: there is none
  """
  for i, message in enumerate(messages):
    if message['role'] not in FOLLOWS[before]:
      place = f'after "{before}"' if before else 'at the start'
      raise ValueError(
        f'{where}[{i}]: role "{message["role"]}" {place}, where only '
        f'{" or ".join(FOLLOWS[before])} can stand'
      )
    before = message['role']


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


def template(tokenizer: Tokenizer) -> str:
  """What `render` writes, as a Hugging Face chat template.

  It gives the same ids wherever the tokenizer splits text at the line breaks
  around a turn's content, as byte-level BPE does.
  """
  opened, stop = "'<|' + m['role'] + '|>\\n'", 'eos_token'
  prompt = "'<|assistant|>\\n'"
  if _is_chatml(tokenizer):
    opened = "'<|im_start|>' + m['role'] + '\\n'"
    prompt = "'<|im_start|>assistant\\n'"
    stop = "'<|im_end|>'"
  bos = '{{ bos_token }}' if tokenizer.add_bos else ''
  return (
    f"{bos}{{% for m in messages %}}{{{{ {opened} + m['content'] + {stop} "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    f'{{{{ {prompt} }}}}{{% endif %}}'
  )
