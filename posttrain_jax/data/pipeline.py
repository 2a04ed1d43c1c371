"""From a source to batches: shuffle, shard, tokenise, pack, batch, resume.

  source = JsonlSource('train.jsonl')
  print(format_report(preflight(source, tokenizer, max_length=512)))
  batches = make_iterator(source, tokenizer, batch_size=32, max_length=512)
  batch = next(batches)
  state = batches.get_state()  # bytes; `set_state` continues exactly there

The order is a function of the seed alone. Process i of n takes every n-th
example of one global stream, so that a global batch of unpacked rows holds the
same examples whatever the number of processes.
"""

import json
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import formats, packing
from posttrain_jax.data.preflight import (
  format_report,
  preflight,
  warnings,
)
from posttrain_jax.data.sources import (
  JsonlSource,
  ListSource,
  Record,
  Source,
  TfdsSource,
)
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = [
  'BatchIterator',
  'JsonlSource',
  'ListSource',
  'TfdsSource',
  'format_report',
  'make_iterator',
  'preflight',
  'warnings',
]


def _collate(
  examples: list[dict], kind: str, rows: int, max_length: int, pad_id: int
) -> dict[str, Any]:
  """A batch of `rows` rows, one example each; missing ones are padding."""

  def padded(parts: list[dict]) -> packing.Rows:
    return packing.pad(parts, max_length, pad_id, rows)

  if kind == 'preference':
    return {
      side: padded([example[side] for example in examples])
      for side in ('chosen', 'rejected')
    }
  batch = padded(examples)
  if kind == 'unpaired':
    batch['label'] = np.zeros((rows,), np.float32)
    batch['label'][: len(examples)] = [e['label'] for e in examples]
  if kind == 'prompt':
    prompt_id = np.zeros((rows,), np.uint32)
    prompt_id[: len(examples)] = [e['index'] for e in examples]
    filler = [{}] * (rows - len(examples))
    return {
      'prompt': batch['tokens'],
      'prompt_mask': (batch['segment_ids'] > 0).astype(np.float32),
      'prompt_id': prompt_id,
      'columns': [e['columns'] for e in examples] + filler,
    }
  return batch


class _PackWindow(grain.experimental.FlatMapTransform):
  """A window of examples becomes packed rows, one dict of [T] arrays each."""

  def __init__(self, window: int, max_length: int, pad_id: int):
    self.max_fan_out = window
    self._length, self._pad_id = max_length, pad_id

  def flat_map(self, element: list[dict]) -> list[dict]:
    rows = packing.pack(element, self._length, self._pad_id)
    return [
      {name: rows[name][i] for name in packing.FIELDS}
      for i in range(len(rows['tokens']))
    ]


def _stack(rows: list[dict], num_rows: int, pad_id: int) -> packing.Rows:
  """Packed rows as a batch; a last, short batch is filled with padding."""
  length = len(rows[0]['tokens'])
  batch = packing.build_rows([], length, pad_id, num_rows)
  for name in packing.FIELDS:
    batch[name][: len(rows)] = [row[name] for row in rows]
  return batch


class BatchIterator(Iterator):
  """Batches of one process, with a position that can be saved.

  num_examples  examples of one epoch, over all processes
  num_batches   batches in all; None: endless, or not known beforehand
  """

  def __init__(
    self,
    dataset: grain.IterDataset,
    identity: dict[str, Any],
    *,
    num_examples: int,
    num_batches: int | None,
    filler: Any,
  ):
    self._dataset, self._identity, self._filler = dataset, identity, filler
    self._iterator = iter(dataset)
    self._count = 0
    self.num_examples, self.num_batches = num_examples, num_batches

  def __next__(self) -> dict[str, Any]:
    try:
      batch = next(self._iterator)
    except StopIteration:
      # Another process may still have a row: all must run as many steps.
      if self.num_batches is None or self._count >= self.num_batches:
        raise
      batch = self._filler()
    self._count += 1
    return batch

  def get_state(self) -> bytes:
    """The position, as JSON; the next batch after `set_state` is the next."""
    state = {
      'identity': self._identity,
      'count': self._count,
      'grain': self._iterator.get_state(),
    }
    return json.dumps(state, sort_keys=True).encode()

  def set_state(self, state: bytes | str) -> None:
    """Continues where `get_state` was called.

    Raises:
      ValueError: the state is of another pipeline, naming what differs: its
        position would skip or replay examples here.
    """
    state = json.loads(state)
    differs = [
      f'{key}: {state["identity"].get(key)!r} -> {value!r}'
      for key, value in self._identity.items()
      if state['identity'].get(key) != value
    ]
    if differs:
      raise ValueError(
        'the saved data position is of another pipeline: ' + ', '.join(differs)
      )
    # A fresh iterator: an exhausted one keeps a buffer over `set_state`.
    self._iterator = iter(self._dataset)
    self._iterator.set_state(state['grain'])
    self._count = state['count']


def _check_choices(identity: dict[str, Any], kind: str) -> None:
  """Raises ValueError where sizes and choices do not go together."""
  rows, count = identity['batch_size'], identity['process_count']
  index = identity['process_index']
  if index is None or not 0 <= index < count:
    raise ValueError(f'process_index={index} is not in 0..{count - 1}')
  if identity['overlong'] not in formats.OVERLONG:
    raise ValueError(
      f'unknown overlong "{identity["overlong"]}".'
      f'{nearest(identity["overlong"], formats.OVERLONG)}'
    )
  if identity['max_length'] < 2:
    raise ValueError(
      f'max_length={identity["max_length"]} must be at least 2 tokens'
    )
  if rows < 1 or rows % count:
    raise ValueError(
      f'batch_size={rows} is not a positive multiple of the {count} processes'
    )
  if identity['packing'] and kind in ('preference', 'unpaired', 'prompt'):
    raise ValueError(
      f'packing=True is for kinds text, messages and completion, not "{kind}"'
    )
  endless = identity['num_epochs'] is None
  uneven = identity['packing'] or identity['overlong'] == 'drop'
  if count > 1 and uneven and not endless:
    raise ValueError(
      'packing or overlong="drop" gives each process another number of '
      'batches: with several processes leave num_epochs=None'
    )


def _examples(
  source: Source,
  tokenizer: Tokenizer,
  identity: dict[str, Any],
  num_threads: int,
) -> tuple[grain.IterDataset, int]:
  """(this process's tokenised examples, how many there are on all)."""
  keys = ('kind', 'max_length', 'overlong')
  choices = {key: identity[key] for key in keys}
  dropped = 0  # in a row

  def tokenized(record: Record) -> dict[str, Any] | None:
    example = formats.tokenize(
      record.columns, tokenizer, where=record.where, **choices
    )
    nonlocal dropped
    dropped = dropped + 1 if example is None else 0
    if dropped > len(source):  # else an endless stream would hang here
      raise ValueError(
        f'all {len(source)} records are longer than '
        f'max_length={identity["max_length"]} and overlong="drop"'
      )
    return None if example is None else {**example, 'index': record.index}

  # `seed` mixes the seed into the shuffle; `shuffle(seed)` would give epoch 1
  # of seed 0 the order of epoch 0 of seed 1.
  stream = grain.MapDataset.source(source).seed(identity['seed'])
  if identity['shuffle']:
    stream = stream.shuffle()
  stream = stream.repeat(identity['num_epochs'])
  share = stream[identity['process_index'] :: identity['process_count']]
  read = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=4 * num_threads
  )
  # A dropped example is None, which the iterator passes over.
  return share.map(tokenized).to_iter_dataset(read), len(stream)


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
  process_index: int | None = None,
  process_count: int | None = None,
  num_threads: int = 4,
) -> BatchIterator:
  """Batches of `batch_size` rows over all processes, `max_length` tokens each.

  kind            one of `formats.KINDS`; None: as the first record
  packing         several examples in a row; `packing_window` are seen at once
  overlong        'error', 'truncate' or 'drop'
  num_epochs      None: endless. Else the last batch is filled with padding
  process_*       both, or None: as jax says; a process gets its share of rows

  A batch holds numpy arrays [B, T], the fields of `types.Batch`; besides:
    unpaired    label [B] float32
    preference  {'chosen': fields, 'rejected': fields}
    prompt      prompt, prompt_mask [B, T], prompt_id [B] uint32 (the record's
                index), columns: list of dicts, each record's other columns

  Raises:
    ValueError: choices that do not go together; later, from `next`, a bad
      record, with its place.
  """
  kind = kind or formats.kind_of(source[0].columns, source[0].where)
  formats.check_columns(source[0].columns, kind, source[0].where)
  if process_count is None:
    process_index, process_count = jax.process_index(), jax.process_count()
  identity = dict(
    num_records=len(source),
    kind=kind,
    batch_size=batch_size,
    max_length=max_length,
    packing=packing,
    packing_window=packing_window,
    overlong=overlong,
    shuffle=shuffle,
    seed=seed,
    num_epochs=num_epochs,
    process_index=process_index,
    process_count=process_count,
    vocab_size=tokenizer.vocab_size,
  )
  _check_choices(identity, kind)
  rows, pad_id = batch_size // process_count, tokenizer.pad_id
  dataset, total = _examples(source, tokenizer, identity, num_threads)

  def collate(examples: list[dict]) -> dict[str, Any]:
    return _collate(examples, kind, rows, max_length, pad_id)

  num_batches = None
  if packing:
    window = _PackWindow(packing_window, max_length, pad_id)
    dataset = dataset.batch(packing_window, batch_fn=list)
    dataset = grain.experimental.FlatMapIterDataset(dataset, window)
    dataset = dataset.batch(
      rows, batch_fn=lambda packed: _stack(packed, rows, pad_id)
    )
  else:
    dataset = dataset.batch(rows, batch_fn=collate)
    if num_epochs is not None and overlong != 'drop':
      num_batches = -(-total // batch_size)
  return BatchIterator(
    dataset,
    identity,
    num_examples=len(source),
    num_batches=num_batches,
    filler=lambda: collate([]),
  )
