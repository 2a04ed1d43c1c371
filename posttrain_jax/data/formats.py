"""Records with TRL's column names become tokens and loss masks.

`records` says which columns a record has and what of them is trained. Columns
that no kind uses travel along untouched, as `columns`.

A loss mask is aligned to the token it speaks of: `loss_mask[t]` weights the
prediction of token t, so the first token of a sequence never counts.

A prompt and its answer are tokenised as one text, as TRL does. Where a token
reaches over the border of the two, the prompt that the model is asked with
later has other tokens at its end: such records are noted.
"""

from collections.abc import Callable
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import chat, records
from posttrain_jax.data.chat import Turns
from posttrain_jax.data.quoting import quoted
from posttrain_jax.data.records import KINDS, check_columns, kind_of
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['KINDS', 'OVERLONG', 'check_columns', 'kind_of', 'tokenize']

OVERLONG = ('error', 'truncate', 'drop')


class _Reader:
  """Reads one record's columns; errors name the place and the column."""

  def __init__(self, record: dict, tokenizer: Tokenizer, where: str):
    self.record, self.tokenizer, self.where = record, tokenizer, where
    self.bos = [tokenizer.bos_id] if tokenizer.add_bos else []
    self.tools = records.tools_of(record, where)
    self.variables = records.variables_of(record, where)

  def _told(self, column: str, make: Callable[[], Any]) -> Any:
    """An error of the tokenizer or the template, told with its place."""
    try:
      return make()
    except ValueError as error:
      raise ValueError(f'{self.where}: column "{column}": {error}') from None

  def _text(self, text: str, ended: bool = False) -> list[int]:
    """Its tokens; `ended` with the EOS, unless the text says it itself."""
    chat.check_special(text, self.tokenizer)
    eos = getattr(self.tokenizer, 'eos', None)
    if eos not in self.tokenizer.special_names:
      # Its name is no token where it stands in a text.
      end = [self.tokenizer.eos_id] if ended else []
      return self.bos + self.tokenizer.read(text)[0] + end
    if ended and not text.endswith(eos):
      text += eos
    return self.bos + self.tokenizer.read(text)[0]

  def _joined(self, before: list[int], prompt: str, answer: str) -> list[int]:
    if self.tokenizer.special_names:
      return self._text(prompt + answer, ended=True)
    # Characters stand for themselves, and errors count them in the column.
    return before + self.tokenizer.encode(answer) + [self.tokenizer.eos_id]

  def _turns(self, column: str, turns: list, prompt: int) -> Turns:
    return self._told(
      column,
      lambda: chat.render(
        turns,
        self.tokenizer,
        prompt=prompt,
        tools=self.tools,
        variables=self.variables,
      ),
    )

  def prompt(self) -> Turns:
    """The prompt as generation sees it: up to where the answer starts."""
    prompt = self.record['prompt']
    if isinstance(prompt, str):
      tokens = self._told('prompt', lambda: self._text(prompt))
      return Turns(tokens, [0.0] * len(tokens))
    return self._told(
      'prompt',
      lambda: chat.prompted(
        self.tokenizer, prompt, tools=self.tools, variables=self.variables
      ),
    )

  def answer(self, column: str) -> Turns:
    """Prompt and answer."""
    prompt, answer = self.record['prompt'], self.record[column]
    if not isinstance(prompt, str):
      return self._turns(column, [*prompt, *answer], len(prompt))
    before = self.prompt().tokens
    tokens = self._told(column, lambda: self._joined(before, prompt, answer))
    start = chat.common_start(before, tokens)
    mask = [0.0] * start + [1.0] * (len(tokens) - start)
    notes = (chat.MERGED,) if start < len(before) else ()
    return Turns(tokens, mask, start, notes)

  def pair(self) -> dict[str, Turns]:
    """Both answers, trained from the same token on."""
    sides = {side: self.answer(side) for side in ('chosen', 'rejected')}
    start = min(turns.start for turns in sides.values())
    out = {}
    for side, turns in sides.items():
      mask = list(turns.mask)
      mask[start : turns.start] = [1.0] * (turns.start - start)
      out[side] = turns._replace(mask=mask, start=start)
    return out

  def sequence(self, kind: str) -> Turns:
    """Every kind but preference."""
    if kind == 'text':
      text = self.record['text']
      tokens = self._told('text', lambda: self._text(text, True))
      first = len(self.bos)
      return Turns(tokens, [0.0] * first + [1.0] * (len(tokens) - first))
    if kind == 'messages':
      return self._turns('messages', self.record['messages'], 0)
    if kind == 'prompt':
      return self.prompt()
    return self.answer('completion')


def _fitted(
  turns: Turns, max_length: int | None, overlong: str, where: str
) -> dict[str, Any] | None:
  """The sequence within `max_length`; None where it is dropped."""
  tokens, mask = turns.tokens, turns.mask
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
    'notes': turns.notes,
  }


def tokenize(
  record: dict[str, Any],
  tokenizer: Tokenizer,
  *,
  kind: str | None = None,
  max_length: int | None = None,
  overlong: str = 'error',
  where: str = 'record',
  read: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
  """A record's tokens and loss mask.

  kind        one of KINDS; None: by the record's columns
  max_length  tokens; None: no limit
  overlong    'error', 'truncate' (the end is cut off) or 'drop'
  where       'file:line', for errors
  read        what `records.check` gave of it; None: it is read here

  Returns None where the record is dropped, else a dict:
    kind, columns                the other columns, untouched
    tokens, loss_mask            list[int], list[float], equally long
    full_length, truncated       tokens before truncation, whether it happened
    lost                         trained tokens that were cut off
    notes                        of the keys of `chat.TOLD`
    label                        bool, kind 'unpaired' only
  Kind 'preference' has 'chosen' and 'rejected' instead, each a dict of
  those six; one side too long drops both.

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
  if read is None:
    read = records.read(record, kind, where, tokenizer.template)
  record = read
  reader = _Reader(record, tokenizer, where)
  if kind == 'preference':
    for side, turns in reader.pair().items():
      out[side] = _fitted(turns, max_length, overlong, where)
    return None if None in (out['chosen'], out['rejected']) else out
  if kind == 'unpaired':
    out['label'] = bool(record['label'])
  fitted = _fitted(reader.sequence(kind), max_length, overlong, where)
  return None if fitted is None else {**out, **fitted}
