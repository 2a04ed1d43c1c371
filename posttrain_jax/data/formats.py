"""Records with TRL's column names become tokens and loss masks.

  kind         columns                      what is trained
  text         text                         every token, and the EOS
  messages     messages                     assistant turns, with stop tokens
  completion   prompt, completion           the completion and its EOS
  preference   prompt, chosen, rejected     both answers and their EOS
  unpaired     prompt, completion, label    the completion and its EOS
  prompt       prompt                       nothing: prompts to sample from

Where a `prompt` is a list of messages, so are its answers. `chosen` and
`rejected` may be whole conversations without a `prompt`: it is then the turns
they share. All other columns travel along untouched, as `columns`.

A loss mask is aligned to the token it speaks of: `loss_mask[t]` weights the
prediction of token t, so the first token of a sequence never counts.
"""

import difflib
from collections.abc import Callable
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import chat
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['KINDS', 'OVERLONG', 'check_columns', 'kind_of', 'tokenize']

KINDS = {
  'messages': ('messages',),
  'preference': ('prompt', 'chosen', 'rejected'),
  'unpaired': ('prompt', 'completion', 'label'),
  'completion': ('prompt', 'completion'),
  'text': ('text',),
  'prompt': ('prompt',),
}
OVERLONG = ('error', 'truncate', 'drop')


def _required(kind: str, record: dict) -> tuple[str, ...]:
  """Columns of a kind; conversations can hold their preference prompt."""
  if kind == 'preference' and 'prompt' not in record:
    sides = [record.get(name) for name in ('chosen', 'rejected')]
    if all(isinstance(side, list) for side in sides):
      return ('chosen', 'rejected')
  return KINDS[kind]


def kind_of(record: dict, where: str = 'record') -> str:
  """The kind of a record by its columns; `messages` wins over other layouts.

  Raises:
    ValueError: no kind fits, or a prompt beside a column that looks like a
      misspelled answer.
  """
  for kind in KINDS:
    if all(name in record for name in _required(kind, record)):
      break
  else:
    kind = None
  if kind not in (None, 'prompt'):
    return kind
  known = sorted({name for names in KINDS.values() for name in names})
  for column in record:
    close = difflib.get_close_matches(column, known, n=1, cutoff=0.8)
    if column not in known and close and close[0] not in record:
      raise ValueError(
        f'{where}: unknown column "{column}". Did you mean "{close[0]}"?'
      )
  if kind is None:
    layouts = '; '.join(', '.join(names) for names in KINDS.values())
    raise ValueError(
      f'{where}: columns {sorted(record)} fit no known layout. Valid: {layouts}'
    )
  return kind


def check_columns(record: dict, kind: str, where: str = 'record') -> None:
  """Raises ValueError unless the record has every column of `kind`."""
  if kind not in KINDS:
    raise ValueError(f'unknown kind "{kind}".{nearest(kind, KINDS)}')
  for name in _required(kind, record):
    if name not in record:
      close = difflib.get_close_matches(name, record, n=1, cutoff=0.6)
      hint = f' Did you mean column "{close[0]}"?' if close else ''
      raise ValueError(
        f'{where}: no column "{name}", which kind "{kind}" needs.{hint} '
        f'The record has: {", ".join(sorted(map(str, record)))}'
      )


def _text(value: Any, where: str) -> str:
  if not isinstance(value, str):
    raise ValueError(f'{where}: expected a string, got {value!r}')
  return value


def _label(value: Any, where: str) -> bool:
  if value not in (True, False):
    raise ValueError(f'{where}: expected true or false, got {value!r}')
  return bool(value)


def _joined(prompt: list[int], answer: list[int], mask: list[float]):
  return prompt + answer, [0.0] * len(prompt) + mask


class _Reader:
  """Reads one record's columns; errors name the place and the column."""

  def __init__(self, record: dict, tokenizer: Tokenizer, where: str):
    self.record, self.tokenizer, self.where = record, tokenizer, where
    self.bos = [tokenizer.bos_id] if tokenizer.add_bos else []

  def _at(self, column: str) -> str:
    return f'{self.where}: column "{column}"'

  def _encode(self, column: str, encode: Callable[[], Any]) -> Any:
    """A tokenizer's own error, as of a character, told with its place."""
    try:
      return encode()
    except ValueError as error:
      raise ValueError(f'{self._at(column)}: {error}') from None

  def messages(self, column: str) -> list[dict]:
    messages = self.record[column]
    chat.check_messages(messages, self._at(column))
    return messages

  def text(self, column: str) -> list[int]:
    text = _text(self.record[column], self._at(column))
    return self._encode(column, lambda: self.tokenizer.encode(text))

  def conversation(self, column: str, turns=None, opened: bool = False):
    turns = self.messages(column) if turns is None else turns
    return self._encode(
      column, lambda: chat.render(turns, self.tokenizer, opened=opened)
    )

  def prompt(self) -> list[int]:
    """The prompt as generation sees it: up to where the answer starts."""
    if isinstance(self.record['prompt'], str):
      return self.bos + self.text('prompt')
    tokens, _ = self.conversation('prompt')
    return self.bos + tokens + chat.opening('assistant', self.tokenizer)

  def answer(self, column: str):
    """(tokens, mask) of prompt and answer."""
    if isinstance(self.record['prompt'], str):
      ids = self.text(column) + [self.tokenizer.eos_id]
      return _joined(self.prompt(), ids, [1.0] * len(ids))
    turns = self.messages(column)
    if not turns or turns[0]['role'] != 'assistant':
      raise ValueError(
        f'{self._at(column)}[0]: the answer to a prompt must open with role '
        '"assistant"'
      )
    return _joined(self.prompt(), *self.conversation(column, turns, True))

  def shared_prompt(self) -> '_Reader':
    """The same record, with the turns that both sides share as its prompt."""
    chosen, rejected = self.messages('chosen'), self.messages('rejected')
    shared = 0
    for first, second in zip(chosen, rejected):
      if first != second:
        break
      shared += 1
    columns = {
      'prompt': chosen[:shared],
      'chosen': chosen[shared:],
      'rejected': rejected[shared:],
    }
    return _Reader({**self.record, **columns}, self.tokenizer, self.where)

  def sequence(self, kind: str):
    """(tokens, mask) of every kind but preference."""
    if kind == 'text':
      ids = self.text('text') + [self.tokenizer.eos_id]
      return _joined(self.bos, ids, [1.0] * len(ids))
    if kind == 'messages':
      return _joined(self.bos, *self.conversation('messages'))
    if kind == 'prompt':
      return _joined(self.prompt(), [], [])
    return self.answer('completion')


def _fitted(
  tokens: list[int],
  mask: list[float],
  max_length: int | None,
  overlong: str,
  where: str,
) -> dict[str, Any] | None:
  """The sequence within `max_length`; None where it is dropped."""
  full_length = len(tokens)
  truncated = max_length is not None and full_length > max_length
  if truncated and overlong == 'error':
    raise ValueError(
      f'{where}: {full_length} tokens do not fit max_length={max_length}; '
      "raise it, or set overlong='truncate' or 'drop'"
    )
  if truncated and overlong == 'drop':
    return None
  tokens, mask = tokens[:max_length], mask[:max_length]
  return {
    'tokens': tokens,
    # Nothing predicts the first token.
    'loss_mask': [0.0, *mask[1:]] if mask else [],
    'full_length': full_length,
    'truncated': truncated,
  }


def tokenize(
  record: dict[str, Any],
  tokenizer: Tokenizer,
  *,
  kind: str | None = None,
  max_length: int | None = None,
  overlong: str = 'error',
  where: str = 'record',
) -> dict[str, Any] | None:
  """A record's tokens and loss mask.

  kind        one of KINDS; None: by the record's columns
  max_length  tokens; None: no limit
  overlong    'error', 'truncate' (the end is cut off) or 'drop'
  where       'file:line', for errors

  Returns None where the record is dropped, else a dict:
    kind, columns                the other columns, untouched
    tokens, loss_mask            list[int], list[float], equally long
    full_length, truncated       tokens before truncation, whether it happened
    label                        bool, kind 'unpaired' only
  Kind 'preference' has 'chosen' and 'rejected' instead, each a dict of
  tokens, loss_mask, full_length and truncated; one side too long drops both.

  Raises:
    ValueError: a missing, misspelled or ill-typed column, text the tokenizer
      cannot encode, or a sequence over `max_length` with overlong='error'.
  """
  if overlong not in OVERLONG:
    raise ValueError(
      f'unknown overlong "{overlong}".{nearest(overlong, OVERLONG)}'
    )
  kind = kind_of(record, where) if kind is None else kind
  check_columns(record, kind, where)
  if kind == 'messages' and record.get('tools'):
    raise ValueError(f'{where}: column "tools" is not supported')
  used = _required(kind, record)
  out: dict[str, Any] = {
    'kind': kind,
    'columns': {k: v for k, v in record.items() if k not in used},
  }
  reader = _Reader(record, tokenizer, where)
  if kind == 'preference':
    reader = reader if 'prompt' in used else reader.shared_prompt()
    for side in ('chosen', 'rejected'):
      tokens, mask = reader.answer(side)
      out[side] = _fitted(tokens, mask, max_length, overlong, where)
    return None if None in (out['chosen'], out['rejected']) else out
  if kind == 'unpaired':
    out['label'] = _label(record['label'], f'{where}: column "label"')
  tokens, mask = reader.sequence(kind)
  fitted = _fitted(tokens, mask, max_length, overlong, where)
  return None if fitted is None else {**out, **fitted}
