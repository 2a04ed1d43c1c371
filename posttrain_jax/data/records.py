"""What a record has to be before it is tokenised: its kind, columns and types.

  kind         columns                      what is trained
  text         text                         every token, and the EOS
  messages     messages                     assistant turns, with stop tokens
  completion   prompt, completion           the completion and its EOS
  preference   prompt, chosen, rejected     both answers and their EOS
  unpaired     prompt, completion, label    the completion and its EOS
  prompt       prompt                       nothing: prompts to sample from

Where a `prompt` is a list of messages, so are its answers. `chosen` and
`rejected` may be whole conversations: the prompt is then the turns they share,
and a `prompt` beside them has to be the text of the last of these. A column
that is null counts as absent. Columns that change what others say, as `tools`,
are refused in every kind; all others travel along untouched.
"""

import difflib
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import chat
from posttrain_jax.data.quoting import listed, quoted, shown

__all__ = ['KINDS', 'UNSUPPORTED', 'check', 'check_columns', 'kind_of', 'read']

KINDS = {
  'messages': ('messages',),
  'preference': ('prompt', 'chosen', 'rejected'),
  'unpaired': ('prompt', 'completion', 'label'),
  'completion': ('prompt', 'completion'),
  'text': ('text',),
  'prompt': ('prompt',),
}
KNOWN = sorted({name for names in KINDS.values() for name in names})
ANSWERS = {
  'preference': ('chosen', 'rejected'),
  'unpaired': ('completion',),
  'completion': ('completion',),
}
# Columns that chat templates and multimodal models read: to drop them would
# train on another prompt than the record's author meant.
UNSUPPORTED = (
  'tools',
  'functions',
  'chat_template',
  'chat_template_kwargs',
  'image',
  'images',
  'video',
  'videos',
  'audio',
  'audios',
)
# What other formats call these columns.
OTHER_NAMES = {
  'conversations': 'messages',
  'conversation': 'messages',
  'instruction': 'prompt',
  'question': 'prompt',
  'response': 'completion',
  'output': 'completion',
  'answer': 'completion',
}


def _fits(kind: str, names: Iterable[str], conversations: bool) -> bool:
  """Whether the columns `names` make a record of `kind`."""
  needed = KINDS[kind]
  if kind == 'preference' and conversations:
    needed = ('chosen', 'rejected')
  return all(name in names for name in needed)


def _kind(names: frozenset[str], conversations: bool) -> str | None:
  return next((k for k in KINDS if _fits(k, names, conversations)), None)


@functools.lru_cache(4096)
def _meant(
  names: frozenset[str], conversations: bool
) -> tuple[str, str] | None:
  """(column, known name) of a misspelling that changes the record's kind."""
  kind = _kind(names, conversations)
  for column in sorted(names - set(KNOWN)):
    close = difflib.get_close_matches(column[:40], KNOWN, n=1, cutoff=0.8)
    close = close or [OTHER_NAMES.get(column)] * (kind is None)
    if close and close[0] and close[0] not in names:
      # A prompt alone may stand beside two misspelled answers.
      unsure = kind in (None, 'prompt')
      if unsure or _kind(names | {close[0]}, conversations) != kind:
        return column, close[0]
  return None


def _conversations(record: dict) -> bool:
  return all(isinstance(record.get(n), list) for n in ('chosen', 'rejected'))


def _present(record: dict) -> frozenset[str]:
  return frozenset(name for name, value in record.items() if value is not None)


def kind_of(record: dict, where: str = 'record') -> str:
  """The kind of a record by its columns; `messages` wins over other layouts.

  Raises:
    ValueError: no kind fits, or a column looks like a misspelling of one that
      would make the record another kind.
  """
  names, conversations = _present(record), _conversations(record)
  kind = _kind(names, conversations)
  meant = _meant(names, conversations)
  if meant:
    raise ValueError(
      f'{where}: unknown column {quoted(meant[0])}. Did you mean "{meant[1]}"?'
    )
  if kind is None:
    layouts = '; '.join(', '.join(names) for names in KINDS.values())
    raise ValueError(
      f'{where}: columns {listed(sorted(map(str, record))) or "(none)"} fit no '
      f'known layout. Valid: {layouts}'
    )
  return kind


def check_columns(record: dict, kind: str, where: str = 'record') -> None:
  """Raises ValueError unless the record has every column of `kind`."""
  if kind not in KINDS:
    raise ValueError(f'unknown kind {quoted(kind)}.{nearest(kind, KINDS)}')
  names = _present(record)
  if _fits(kind, names, _conversations(record)):
    return
  name = next(name for name in KINDS[kind] if name not in names)
  if name in record:
    raise ValueError(
      f'{where}: column "{name}" is null; kind "{kind}" needs it'
    )
  others = [str(key)[:40] for key in record]
  close = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
  hint = f' Did you mean column {quoted(close[0])}?' if close else ''
  raise ValueError(
    f'{where}: no column "{name}", which kind "{kind}" needs.{hint} '
    f'The record has: {listed(sorted(map(str, record))) or "(none)"}'
  )


def _check_answer(record: dict, column: str, where: str) -> None:
  """The answer is of its prompt's type, and comes after it."""
  prompt, answer = record['prompt'], record[column]
  at = f'{where}: column "{column}"'
  if isinstance(prompt, str):
    if not isinstance(answer, str):
      raise ValueError(
        f'{at}: expected a string, as "prompt" is one, got {shown(answer)}'
      )
    chat.check_text(answer, at)
    return
  if not isinstance(answer, list):
    raise ValueError(
      f'{at}: expected a list of messages, as "prompt" is one, got '
      f'{shown(answer)}'
    )
  chat.check_messages(answer, at)
  if not answer or answer[0]['role'] != 'assistant':
    raise ValueError(
      f'{at}[0]: the answer to a prompt must open with role "assistant"'
    )
  chat.check_order(answer, at, prompt[-1]['role'] if prompt else None)


def _check_prompt(prompt: Any, where: str) -> None:
  at = f'{where}: column "prompt"'
  if isinstance(prompt, str):
    chat.check_text(prompt, at)
  elif isinstance(prompt, list):
    chat.check_messages(prompt, at)
    chat.check_order(prompt, at)
    if prompt and prompt[-1]['role'] == 'assistant':
      raise ValueError(
        f'{at}[{len(prompt) - 1}]: a prompt must not end with role "assistant",'
        " which is the answer's"
      )
  else:
    raise ValueError(
      f'{at}: expected a string or a list of messages, got {shown(prompt)}'
    )


def _with_prompt(record: dict, where: str) -> dict:
  """A preference record of whole conversations, its shared turns as prompt."""
  sides = {}
  for side in ('chosen', 'rejected'):
    chat.check_messages(record[side], f'{where}: column "{side}"')
    chat.check_order(record[side], f'{where}: column "{side}"')
    sides[side] = record[side]
  chosen, rejected = sides['chosen'], sides['rejected']
  said = [[(m['role'], m['content']) for m in side] for side in sides.values()]
  shared = 0
  for first, second in zip(*said):
    if first != second:
      break
    shared += 1
  if said[0] == said[1]:
    # Equal answers: the last turn is what both say.
    shared = max(shared - 1, 0)
  if not shared:
    raise ValueError(
      f'{where}: columns "chosen" and "rejected" are conversations that share '
      'no turn; the turns they share are their prompt'
    )
  prompt = record.get('prompt')
  if isinstance(prompt, str) and prompt != chosen[shared - 1]['content']:
    raise ValueError(
      f'{where}: column "prompt": {shown(prompt)} is not the last turn that '
      'the conversations "chosen" and "rejected" share; leave it out, or give '
      'it as messages'
    )
  turns = {
    'prompt': chosen[:shared],
    'chosen': chosen[shared:],
    'rejected': rejected[shared:],
  }
  return {**record, **turns}


def read(record: dict, kind: str, where: str = 'record') -> dict:
  """The record with every column that `kind` uses, all of the right type.

  A preference record of whole conversations gets its prompt.

  Raises:
    ValueError: a missing or ill-typed column, turns in no possible order, or
      a column of UNSUPPORTED that says something.
  """
  check_columns(record, kind, where)
  for name in UNSUPPORTED:
    if record.get(name) not in chat.EMPTY:
      raise ValueError(f'{where}: column "{name}" is not supported')
  if kind == 'text':
    chat.check_text(record['text'], f'{where}: column "text"')
    return record
  if kind == 'messages':
    chat.check_messages(record['messages'], f'{where}: column "messages"')
    chat.check_order(record['messages'], f'{where}: column "messages"')
    return record
  whole = isinstance(record.get('prompt'), str | None)
  if kind == 'preference' and _conversations(record) and whole:
    record = _with_prompt(record, where)
  _check_prompt(record['prompt'], where)
  for column in ANSWERS.get(kind, ()):
    _check_answer(record, column, where)
  if kind == 'unpaired':
    label = record['label']
    number = isinstance(label, bool | int | float | np.generic)
    if not number or label not in (0, 1):
      raise ValueError(
        f'{where}: column "label": expected true or false, got {shown(label)}'
      )
  return record


def check(record: dict, kind: str, where: str = 'record') -> None:
  """Raises ValueError at a record that `read` refuses, or that is empty.

  Empty is a prompt without text or turns, an answer or text without text, and
  a conversation in which the assistant says nothing.
  """
  record = read(record, kind, where)

  def empty(column: str, told: str) -> ValueError:
    return ValueError(f'{where}: column "{column}": {told}')

  if kind == 'messages':
    turns = record['messages']
    if not any(turn['role'] == 'assistant' for turn in turns):
      raise empty('messages', 'no turn of role "assistant": nothing to train')
  for column in ANSWERS.get(kind, ()) + tuple(
    name for name in ('text', 'messages', 'prompt') if name in KINDS[kind]
  ):
    value = record[column]
    if isinstance(value, str) and not value:
      raise empty(column, 'an empty string')
    if isinstance(value, list):
      if not value:
        raise empty(column, 'an empty list')
      for i, turn in enumerate(value):
        if turn['role'] == 'assistant' and not turn['content']:
          raise ValueError(
            f'{where}: column "{column}"[{i}]: the assistant says nothing'
          )
