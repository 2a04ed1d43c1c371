"""Records with TRL's column names become tokens and loss masks.

`records` says which columns a record has and what of them is trained. Columns
that no kind uses travel along untouched, as `columns`.

A loss mask is aligned to the token it speaks of: `loss_mask[t]` weights the
prediction of token t, so the first token of a sequence never counts.
"""

from collections.abc import Callable
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import chat, records
from posttrain_jax.data.quoting import quoted
from posttrain_jax.data.records import KINDS, check_columns, kind_of
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['KINDS', 'OVERLONG', 'check_columns', 'kind_of', 'tokenize']

OVERLONG = ('error', 'truncate', 'drop')


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

  def text(self, column: str) -> list[int]:
    text = self.record[column]
    return self._encode(column, lambda: self.tokenizer.encode(text))

  def conversation(self, column: str, opened: bool = False):
    turns = self.record[column]
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
    return _joined(self.prompt(), *self.conversation(column, opened=True))

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
  lost = sum(weight > 0 for weight in mask[max_length:]) if truncated else 0
  tokens, mask = tokens[:max_length], mask[:max_length]
  return {
    'tokens': tokens,
    # Nothing predicts the first token.
    'loss_mask': [0.0, *mask[1:]] if mask else [],
    'full_length': full_length,
    'truncated': truncated,
    'lost': lost,
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
    lost                         trained tokens that were cut off
    label                        bool, kind 'unpaired' only
  Kind 'preference' has 'chosen' and 'rejected' instead, each a dict of
  those five; one side too long drops both.

  Raises:
    ValueError: a missing, misspelled or ill-typed column, text the tokenizer
      cannot encode, or a sequence over `max_length` with overlong='error'.
  """
  if overlong not in OVERLONG:
    raise ValueError(
      f'unknown overlong "{overlong}".{nearest(overlong, OVERLONG)}'
    )
  if max_length is not None and max_length < 1:
    raise ValueError(f'max_length={max_length} is below 1 token')
  kind = kind_of(record, where) if kind is None else kind
  if kind not in KINDS:
    raise ValueError(f'unknown kind {quoted(kind)}.{nearest(kind, KINDS)}')
  out: dict[str, Any] = {
    'kind': kind,
    'columns': {k: v for k, v in record.items() if k not in KINDS[kind]},
  }
  record = records.read(record, kind, where)
  reader = _Reader(record, tokenizer, where)
  if kind == 'preference':
    for side in ('chosen', 'rejected'):
      tokens, mask = reader.answer(side)
      out[side] = _fitted(tokens, mask, max_length, overlong, where)
    return None if None in (out['chosen'], out['rejected']) else out
  if kind == 'unpaired':
    out['label'] = bool(record['label'])
  tokens, mask = reader.sequence(kind)
  fitted = _fitted(tokens, mask, max_length, overlong, where)
  return None if fitted is None else {**out, **fitted}
