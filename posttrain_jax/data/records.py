"""What a record has to be before it is tokenised: its kind, columns and types.

  kind         columns                      what is trained
  text         text                         every token, and the EOS
  messages     messages                     assistant turns, with stop tokens
  completion   prompt, completion           the completion and its EOS
  preference   prompt, chosen, rejected     both answers and their EOS
  unpaired     prompt, completion, label    the completion and its EOS
  prompt       prompt                       nothing: prompts to sample from

Where a `prompt` is a list of messages, so are its answers; a prompt that is a
text is the user's turn before answers that are messages. `chosen` and
`rejected` may be whole conversations, or texts without a prompt: the prompt is
then what they share, and a `prompt` beside conversations has to be the text of
one of these turns. A column that is null counts as absent. Columns that change
what others say, as `tools`, are read where the model's chat template does, and
refused elsewhere; all others travel along untouched.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain_jax.data import beside, chat
from posttrain_jax.data.beside import UNSUPPORTED, tools_of, variables_of
from posttrain_jax.data.kinds import (
  ANSWERS,
  KINDS,
  check_columns,
  implicit,
  kind_of,
)
from posttrain_jax.data.quoting import shown
from posttrain_jax.data.template import Template

__all__ = ['KINDS', 'UNSUPPORTED', 'check', 'check_columns', 'halves',
           'kind_of', 'read', 'tools_of', 'unpair', 'variables_of']  # fmt: skip

# What makes two turns of conversations the same.
SAID = ('role', 'content', *chat.UNSUPPORTED)


def _check_turns(
  turns: Any, at: str, template: Template | None, before: str | None = None
) -> None:
  chat.check_messages(turns, at, template)
  if template is None:  # else it says itself who may speak after whom
    chat.check_order(turns, at, before)


def _check_answer(
  record: dict, column: str, where: str, template: Template | None
) -> None:
  """The answer is of its prompt's type, and comes after it."""
  prompt, answer = record['prompt'], record[column]
  at = f'{where}: column "{column}"'
  if isinstance(prompt, str) and isinstance(answer, str):
    chat.check_text(answer, at)
    return
  if not isinstance(answer, list):
    told = 'a string or ' if isinstance(prompt, str) else ''
    also = '' if told else ', as "prompt" is one'
    raise ValueError(
      f'{at}: expected {told}a list of messages{also}, got {shown(answer)}'
    )
  chat.check_messages(answer, at, template)
  if not answer or answer[0]['role'] != 'assistant':
    raise ValueError(
      f'{at}[0]: the answer to a prompt must open with role "assistant"'
    )
  if isinstance(prompt, str):  # another of the record's answers is a text
    raise ValueError(f'{at}: expected a string, got {shown(answer)}')
  _check_turns(answer, at, template, prompt[-1]['role'] if prompt else None)


def _check_prompt(prompt: Any, where: str, template: Template | None) -> None:
  at = f'{where}: column "prompt"'
  if isinstance(prompt, str):
    chat.check_text(prompt, at)
  elif isinstance(prompt, list):
    _check_turns(prompt, at, template)
    if prompt and prompt[-1]['role'] == 'assistant':
      raise ValueError(
        f'{at}[{len(prompt) - 1}]: a prompt must not end with role "assistant",'
        " which is the answer's"
      )
  else:
    raise ValueError(
      f'{at}: expected a string or a list of messages, got {shown(prompt)}'
    )


def _said(message: Mapping) -> dict:
  return {k: v for k in SAID if (v := message.get(k)) is not None}


def _with_prompt(record: dict, where: str, template: Template | None) -> dict:
  """A preference record of whole conversations, its shared turns as prompt."""
  chosen, rejected = record['chosen'], record['rejected']
  for side in ('chosen', 'rejected'):
    _check_turns(record[side], f'{where}: column "{side}"', template)
  shared = 0
  for first, second in zip(chosen, rejected):
    if _said(first) != _said(second):
      break
    shared += 1
  if shared == len(chosen) == len(rejected):
    # Equal answers: the last turn is what both say.
    shared = max(shared - 1, 0)
  prompt = record.get('prompt')
  if not shared:
    raise ValueError(
      f'{where}: columns "chosen" and "rejected" are conversations that share '
      'no turn; the turns they share are their prompt'
    )
  asked = [turn.get('content') for turn in chosen[:shared]]
  if isinstance(prompt, str) and prompt not in asked:
    raise ValueError(
      f'{where}: column "prompt": {shown(prompt)} is not the last turn that '
      'the conversations "chosen" and "rejected" share, nor one before it; '
      'leave it out, or give it as messages'
    )
  turns = {
    'prompt': chosen[:shared],
    'chosen': chosen[shared:],
    'rejected': rejected[shared:],
  }
  return {**record, **turns}


def _with_text(record: dict, where: str) -> dict:
  """A preference record of two texts, what they share as their prompt.

  A space before the first difference belongs to the answers, as in TRL.
  """
  chosen, rejected = record['chosen'], record['rejected']
  size = min(len(chosen), len(rejected))
  differs = (i for i in range(size) if chosen[i] != rejected[i])
  shared = next(differs, max(size - 1, 0))
  if shared and chosen[shared] != rejected[shared]:
    shared -= chosen[shared - 1] == ' '
  if not shared:
    raise ValueError(
      f'{where}: no column "prompt", and columns "chosen" and "rejected" are '
      'texts that share no beginning; what they share is their prompt'
    )
  turns = {
    'prompt': chosen[:shared],
    'chosen': chosen[shared:],
    'rejected': rejected[shared:],
  }
  return {**record, **turns}


def _as_turns(record: dict, kind: str) -> dict:
  """A prompt that is a text, before answers that are turns: the user's."""
  answers = [record[name] for name in ANSWERS.get(kind, ())]
  opens = all(
    isinstance(answer, list)
    and answer
    and isinstance(answer[0], dict)
    and answer[0].get('role') == 'assistant'
    for answer in answers
  )
  if answers and opens and isinstance(record.get('prompt'), str):
    turn = {'role': 'user', 'content': record['prompt']}
    return {**record, 'prompt': [turn]}
  return record


def read(
  record: dict,
  kind: str,
  where: str = 'record',
  template: Template | None = None,
) -> dict:
  """The record with every column that `kind` uses, all of the right type.

  A preference record of whole conversations gets its prompt.

  template  of the model's folder: what it reads may be there

  Raises:
    ValueError: a missing or ill-typed column, turns in no possible order, or
      a column of UNSUPPORTED that says something and that nothing reads.
  """
  check_columns(record, kind, where)
  beside.check(record, KINDS[kind], where, template)
  if kind == 'text':
    chat.check_text(record['text'], f'{where}: column "text"')
    return record
  if kind == 'messages':
    at = f'{where}: column "messages"'
    _check_turns(record['messages'], at, template)
    return record
  record = _as_turns(record, kind)
  whole = isinstance(record.get('prompt'), str | None)
  shared = implicit(record)
  if kind == 'preference' and shared == 'turns' and whole:
    record = _with_prompt(record, where, template)
  if kind == 'preference' and shared == 'texts':
    for side in ANSWERS[kind]:
      chat.check_text(record[side], f'{where}: column "{side}"')
    if record.get('prompt') is None:
      record = _with_text(record, where)
  _check_prompt(record['prompt'], where, template)
  for column in ANSWERS.get(kind, ()):
    _check_answer(record, column, where, template)
  if kind == 'unpaired':
    label = record['label']
    number = isinstance(label, bool | int | float | np.generic)
    if not number or label not in (0, 1):
      raise ValueError(
        f'{where}: column "label": expected true or false, got {shown(label)}'
      )
  return record


def unpair(
  record: dict, where: str = 'record', template: Template | None = None
) -> list[dict]:
  """A preference record as two of kind 'unpaired': the good answer first.

  Other columns go with both.

  Raises:
    ValueError: as `read`.
  """
  return halves(read(record, 'preference', where, template))


def halves(record: dict) -> list[dict]:
  """`unpair` of a record that `read` or `check` gave."""
  others = {k: v for k, v in record.items() if k not in ANSWERS['preference']}
  return [
    {**others, 'completion': record[side], 'label': side == 'chosen'}
    for side in ANSWERS['preference']
  ]


def _says(turn: Mapping) -> bool:
  return any(
    turn.get(key) not in chat.EMPTY
    for key in ('content', 'tool_calls', 'thinking', 'reasoning_content')
  )


def check(
  record: dict,
  kind: str,
  where: str = 'record',
  template: Template | None = None,
) -> dict:
  """What `read` gives of a record; raises ValueError at one that it refuses, or
  that is empty.

  Empty is a prompt without text or turns, an answer or text without text, and
  a conversation in which the assistant says nothing.
  """
  record = read(record, kind, where, template)

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
        if turn['role'] == 'assistant' and not _says(turn):
          raise ValueError(
            f'{where}: column "{column}"[{i}]: the assistant says nothing'
          )
  return record
