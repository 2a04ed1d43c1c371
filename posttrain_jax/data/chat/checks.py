"""What a conversation may hold.

A folder's chat template may read more than ours does: tool calls and their
answers, reasoning, content in parts, the role "developer". Where it does not
mention a key it would drop what stands there without a word: such a record is
refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.quoting import listed, quoted, shown
from posttrain_jax.data.template import REASONING, Template

__all__ = [
  'EMPTY',
  'ROLES',
  'UNSUPPORTED',
  'check_messages',
  'check_order',
  'check_text',
  'counts',
  'texts_of',
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
# Keys that change what a turn says; to ignore them would train on other text.
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
)
# Those that a folder's chat template may read, and who may have them.
READ = {
  'tool_calls': ('assistant',),
  'tool_call_id': ('tool',),
  'name': ('system', 'developer', 'user', 'assistant', 'tool'),
  **{name: ('assistant',) for name in REASONING},
}
# Whether a turn is trained: OpenAI's name, and that of others.
TRAINED = ('weight', 'train')
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


def counts(message: Mapping) -> bool:
  """Whether a turn is trained."""
  said = all(message.get(key) in (None, True, 1) for key in TRAINED)
  return message['role'] == 'assistant' and said


def texts_of(message: Mapping) -> list[str]:
  """The texts of a checked message's content, one for each part."""
  content = message.get('content')
  if isinstance(content, str):
    return [content]
  return [part['text'] for part in content or ()]


def _check_trained(message: dict, here: str) -> None:
  for key in TRAINED:
    value = message.get(key)
    if value is None:
      continue
    if not isinstance(value, bool | int | float) or value not in (0, 1):
      raise ValueError(f'{here}: "{key}" must be 0 or 1, not {shown(value)}')
    if value and message['role'] != 'assistant':
      raise ValueError(
        f'{here}: "{key}" of a turn of role "{message["role"]}": only what '
        'the assistant says is trained'
      )


def _check_parts(parts: list, here: str, template: Template) -> None:
  for i, part in enumerate(parts):
    at = f'{here}: "content"[{i}]'
    kind = part.get('type') if isinstance(part, Mapping) else None
    if kind != 'text':
      raise ValueError(
        f'{at}: only parts of type "text" are supported, not '
        + (quoted(kind) if kind else shown(part))
      )
    check_text(part.get('text'), f'{at}: "text"')
  if not template.reads('text'):
    raise ValueError(
      f'{here}: "content" is a list of parts, which the chat template does not '
      'read; give it as a string'
    )


def _check_calls(calls: Any, here: str) -> None:
  for i, call in enumerate(calls if isinstance(calls, list) else [calls]):
    inner = call.get('function', call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get('name'), str):
      raise ValueError(
        f'{here}: "tool_calls"[{i}]: expected {{function: {{name, '
        f'arguments}}}}, got {shown(call)}'
      )


def _check_content(message: dict, here: str, template: Template | None) -> None:
  content = message.get('content')
  if template and isinstance(content, list | tuple):
    return _check_parts(list(content), here, template)
  told = template and any(
    message.get(key) not in EMPTY for key in ('tool_calls', *REASONING)
  )
  if told and content is None:
    return None
  if not isinstance(content, str):
    parts = isinstance(content, list) and 'a list of content parts'
    raise ValueError(
      f'{here}: "content" must be a string, not {parts or shown(content)}'
    )
  return check_text(content, f'{here}: "content"')


def _check_keys(message: dict, here: str, template: Template | None) -> None:
  for key in UNSUPPORTED:
    value = message.get(key)
    if value in EMPTY:
      continue
    if template is None or key not in READ:
      raise ValueError(f'{here}: "{key}" is not supported')
    if message['role'] not in READ[key]:
      raise ValueError(
        f'{here}: "{key}" belongs to a turn of role "{READ[key][0]}", not '
        f'"{message["role"]}"'
      )
    if key == 'tool_calls':
      _check_calls(value, here)
    else:
      check_text(value, f'{here}: "{key}"')
    aliases = REASONING if key in REASONING else (key,)
    # An id, and who of the tools answers, say nothing to many models.
    linked = message['role'] == 'tool'
    if not linked and not template.reads(*aliases):
      raise ValueError(
        f'{here}: "{key}" is not supported: the chat template does not read it'
      )


def _check_message(message: Any, here: str, template: Template | None) -> None:
  if not isinstance(message, dict):
    raise ValueError(
      f'{here}: expected {{role, content}}, got {shown(message)}'
    )
  calls = template and message.get('tool_calls') not in EMPTY
  for key in ('role',) if calls else ('role', 'content'):
    if key not in message:
      other = [k for k, v in OTHER_KEYS.items() if v == key and k in message]
      hint = f'; rename its "{other[0]}"' if other else ''
      raise ValueError(
        f'{here}: a message without "{key}"; it has {listed(message)}{hint}'
      )
  role = message['role']
  roles = (*ROLES, 'developer') if template else ROLES
  if role not in roles:
    other = OTHER_ROLES.get(role) if isinstance(role, str) else None
    hint = (
      f' Did you mean "{other}"? Valid: {", ".join(roles)}'
      if other
      else nearest(str(role)[:40], roles)
    )
    raise ValueError(f'{here}: unknown role {quoted(role)}.{hint}')
  _check_content(message, here, template)
  _check_keys(message, here, template)
  _check_trained(message, here)


def check_messages(
  messages: Any, where: str, template: Template | None = None
) -> None:
  """Raises ValueError at the first turn that cannot be rendered.

  That is one with no role or content, an unknown role, content that is no
  text, or a key that changes what the turn says. Other keys, as an id, are
  passed over.

  template  of the model's folder: what it reads may be there
  """
  if not isinstance(messages, Sequence) or isinstance(messages, str):
    raise ValueError(
      f'{where}: expected a list of messages, got {shown(messages)}'
    )
  for i, message in enumerate(messages):
    _check_message(message, f'{where}[{i}]', template)


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
