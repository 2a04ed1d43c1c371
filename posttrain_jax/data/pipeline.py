"""From a source to batches: shuffle, shard, tokenise, pack, batch, resume.

  source = open_source('train.jsonl')
  print(format_report(preflight(source, tokenizer, max_length=512)))
  batches = make_iterator(source, tokenizer, batch_size=32, max_length=512)
  batch = next(batches)
  state = batches.get_state()  # bytes; `set_state` continues exactly there

The order is a function of the seed alone: batch k holds the same records in the
same places, whatever the number of processes, each of which takes some places.
Where a record's place follows from its number (one to a row, none left out) a
process reads its own records only; with packing, or where records are left out,
it reads all of them, as only then it knows which come where.
"""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import formats
from posttrain_jax.data.bad_rows import BadData, BadRows
from posttrain_jax.data.batches import BatchIterator, Part, Share, batched
from posttrain_jax.data.mixing import Mixture, attempts
from posttrain_jax.data.preflight import (
  Checked,
  format_report,
  kinds_of,
  preflight,
  warnings,
)
from posttrain_jax.data.rows import Failed, Joined, Stored, row_of
from posttrain_jax.data.sources import (
  JsonlSource,
  ListSource,
  Record,
  Source,
  TfdsSource,
  open_source,
)
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = [
  'BadData',
  'BadRows',
  'BatchIterator',
  'JsonlSource',
  'ListSource',
  'TfdsSource',
  'format_report',
  'kinds_of',
  'make_iterator',
  'open_source',
  'preflight',
  'warnings',
]


def _part(
  kind: str, size: int, held: Callable[[int], np.ndarray] | None
) -> Part | None:
  """The records of a batch whose rows a process holds; None: it takes all.

  A pair is two rows. An unpaired answer also stands beside the prompt of
  another record, so that all of a batch have to be there.
  """
  if held is None or kind == 'unpaired':
    return None
  if kind == 'preference':
    return Part(np.unique(held(2 * size) // 2), size)
  return Part(np.asarray(held(size)), size)


def _check_choices(identity: dict[str, Any], kind: str) -> None:
  """Raises ValueError where sizes and choices do not go together."""
  rows = identity['batch_size']
  if identity['overlong'] not in formats.OVERLONG:
    raise ValueError(
      f'unknown overlong "{identity["overlong"]}".'
      f'{nearest(identity["overlong"], formats.OVERLONG)}'
    )
  if identity['max_length'] < 2:
    raise ValueError(
      f'max_length={identity["max_length"]} must be at least 2 tokens'
    )
  if rows < 1:
    raise ValueError(f'batch_size={rows} must be at least 1')
  if identity['packing'] and kind in ('unpaired', 'prompt'):
    raise ValueError(
      'packing=True is for kinds text, messages, completion and preference, '
      f'not "{kind}"'
    )


def _stream(source: Source, identity: dict[str, Any]) -> grain.MapDataset:
  """All records in the order of the run, `Failed` where one is unreadable."""
  shuffle, epochs = identity['shuffle'], identity['num_epochs']
  if isinstance(source, Joined) and source.weights:
    mixture = Mixture(
      source.parts, source.weights, seed=identity['seed'], shuffle=shuffle,
      num_epochs=epochs,
    )  # fmt: skip
    return grain.MapDataset.source(mixture)
  # `seed` mixes the seed into the shuffle; `shuffle(seed)` would give epoch 1
  # of seed 0 the order of epoch 0 of seed 1.
  stream = grain.MapDataset.source(attempts(source)).seed(identity['seed'])
  if shuffle:
    stream = stream.shuffle()
  return stream.repeat(epochs)


def _tokenizing(
  source: Source,
  tokenizer: Tokenizer,
  identity: dict[str, Any],
  given: str | None,
  bad: BadRows | None,
) -> Callable[[Record | Failed], dict[str, Any] | None]:
  """(record) -> its example; None where it is left out."""
  choices = {key: identity[key] for key in ('max_length', 'overlong')}
  kinds = identity['kind'].split('+')
  only = kinds[0] if len(kinds) == 1 else None
  rows = BadRows('error') if bad is None else bad
  # Rows that nothing is to be done with were looked at before.
  checked = None if bad is None else Checked(source, tokenizer, given, bad)
  left_out = 0  # in a row

  def example_of(record: Record) -> dict[str, Any] | None:
    read = None
    if checked is not None:
      kind, read = checked.read(record)
    else:
      kind = only or formats.kind_of(record.columns, record.where)
    if kind not in kinds:
      raise ValueError(
        f'{record.where}: kind "{kind}" by its columns, in a data set of '
        f'{", ".join(kinds)}'
      )
    return formats.tokenize(
      record.columns, tokenizer, kind=kind, where=record.where, read=read,
      **choices,
    )  # fmt: skip

  def tokenized(found: Record | Failed) -> dict[str, Any] | None:
    nonlocal left_out
    example = None
    if isinstance(found, Failed):
      rows.take(found.index, found.message, lambda: row_of(source, found))
    else:
      try:
        example = example_of(found)
      except ValueError as error:
        row = lambda: row_of(source, found)
        rows.take(found.index, str(error), row, found.where)
    left_out = left_out + 1 if example is None else 0
    if left_out > len(source):  # else an endless stream would hang here
      raise ValueError(
        f'all {len(source)} records are left out: longer than '
        f'max_length={identity["max_length"]} with '
        f'overlong="{identity["overlong"]}", or bad rows'
      )
    return None if example is None else {**example, 'index': found.index}

  return tokenized


def _kind(source: Source, kind: str | None, bad: BadRows | None) -> str:
  """The kind that is asked for, or those that the records have."""
  if kind is None:
    return '+'.join(sorted(set(kinds_of(source, bad))))
  if bad is None:
    formats.check_columns(source[0].columns, kind, source[0].where)
  return kind


def make_iterator(
  source: Source,
  tokenizer: Tokenizer,
  *,
  batch_size: int,
  max_length: int,
  kind: str | None = None,
  packing: bool = False,
  packing_window: int = 256,
  overlong: str = 'error',
  shuffle: bool = True,
  seed: int = 0,
  num_epochs: int | None = None,
  bad: BadRows | None = None,
  before: Callable[[], None] = lambda: None,
  on_change: str = 'error',
  num_threads: int = 4,
  held: Callable[[int], np.ndarray] | None = None,
) -> BatchIterator:
  """Batches of `batch_size` rows over all processes, `max_length` tokens each.

  kind            one of `formats.KINDS`; None: as `kinds_of` finds them
  packing         several examples in a row; `packing_window` are seen at once
  overlong        'error', 'truncate' or 'drop'
  num_epochs      None: endless. Else the last batch is filled with padding
  bad             what is done with bad rows; None: the first one is raised
  before          called before every batch, as to stop by raising
  on_change       'error' or 'warn': of a position whose files have changed
  held            (rows of a batch, two for a pair) -> numbers, ascending, of
                  those that this process wants; None: all

  A batch holds numpy arrays [B, T], the fields of `types.Batch`; besides:
    unpaired    label [B] float32
    preference  {'chosen': fields, 'rejected': fields}
    prompt      prompt, prompt_mask [B, T], prompt_id [B] uint32 (the record's
                index), columns: list of dicts, each record's other columns

  Raises:
    ValueError: choices that do not go together; later, from `next`, a bad
      record, with its place.
  """
  given, kind = kind, _kind(source, kind, bad)
  weights = source.weights if isinstance(source, Joined) else ()
  identity = dict(
    num_records=len(source), kind=kind, batch_size=batch_size,
    max_length=max_length, packing=packing, packing_window=packing_window,
    overlong=overlong, shuffle=shuffle, seed=seed, num_epochs=num_epochs,
    vocab_size=tokenizer.vocab_size, weights=list(weights),
  )  # fmt: skip
  leaves_out = bad is not None and bad.rule != 'error'
  _check_choices(identity, kind)
  stream = _stream(source, identity)
  whole = not packing and overlong != 'drop' and not leaves_out
  part, share = _part(kind, batch_size, held), None
  if part is not None and whole:
    share = Share(stream, part.records, batch_size)
  read = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=4 * num_threads
  )
  # An example that is left out is None, which the iterator passes over.
  ours = stream if share is None else grain.MapDataset.source(share)
  examples = ours.map(_tokenizing(source, tokenizer, identity, given, bad))
  examples = examples.to_iter_dataset(read)
  rows = batch_size if share is None else len(part.records)
  dataset, filler = batched(examples, identity, tokenizer.pad_id, rows)
  return BatchIterator(
    dataset,
    identity,
    num_examples=len(source),
    num_batches=(
      -(-len(stream) // batch_size) if whole and num_epochs else None
    ),
    filler=filler,
    content=source.content if isinstance(source, Stored) else dict,
    before=before,
    on_change=on_change,
    part=part,
    share=share,
  )
