"""Examples become batches; an iterator over these that knows its place."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from posttrain_jax.data import content, packing

__all__ = ['BatchIterator', 'Part', 'Share', 'batched']

# What the state of an older pipeline does not say, and meant.
MEANT = {'weights': []}


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
  """A window of examples becomes packed rows, one dict of [T] arrays each (of
  pairs, one for each side)."""

  def __init__(self, window: int, max_length: int, pad_id: int):
    self.max_fan_out = window
    self._length, self._pad_id = max_length, pad_id

  def flat_map(self, element: list[dict]) -> list[dict]:
    rows = packing.pack(element, self._length, self._pad_id)
    count = len(rows.get('chosen', rows)['tokens'])
    return [jax.tree.map(lambda x, i=i: x[i], rows) for i in range(count)]


def _stack(rows: list[dict], num_rows: int, pad_id: int) -> dict[str, Any]:
  """Packed rows as a batch; a last, short batch is filled with padding."""
  if 'chosen' in rows[0]:
    return {
      side: _stack([row[side] for row in rows], num_rows, pad_id)
      for side in ('chosen', 'rejected')
    }
  length = len(rows[0]['tokens'])
  batch = packing.build_rows([], length, pad_id, num_rows)
  for name in packing.FIELDS:
    batch[name][: len(rows)] = [row[name] for row in rows]
  return batch


class Part(NamedTuple):
  """Which records of a batch one process has.

  records  their numbers, ascending
  size     records of the batch, over all processes
  """

  records: np.ndarray
  size: int


class Share:
  """The examples of one process, of a stream that all read in batches.

  Batch k is examples k * size to (k + 1) * size - 1 of the stream, whatever the
  number of processes; this is a source of those of its places that `places`
  names.

  Args:
    stream: all examples; random access.
    places: of a batch, ascending.
    size: examples of a batch.
  """

  def __init__(self, stream: Any, places: np.ndarray, size: int):
    self._stream, self._places, self._size = stream, places, size
    full, rest = divmod(len(stream), size)
    self._length = full * len(places) + int(np.sum(places < rest))

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Any:
    batch, place = divmod(int(index), len(self._places))
    return self._stream[batch * self._size + int(self._places[place])]

  def index(self, batches: int) -> int:
    """Where this source stands after so many batches."""
    return min(batches * len(self._places), self._length)

  def stream_index(self, batches: int) -> int:
    """Where the stream does."""
    return min(batches * self._size, len(self._stream))


class BatchIterator(Iterator):
  """Batches of one process, with a position that can be saved.

  The position is that of the stream of all processes: each saves the same, and
  it can be gone on from with any number of processes.

  num_examples  examples of one epoch, over all processes
  num_batches   batches in all; None: endless, or not known beforehand
  part          of a batch that is given; None: all of it
  """

  def __init__(
    self,
    dataset: grain.IterDataset,
    identity: dict[str, Any],
    *,
    num_examples: int,
    num_batches: int | None,
    filler: Any,
    content: Callable[[], dict[str, str]] = dict,
    before: Callable[[], None] = lambda: None,
    on_change: str = 'error',
    part: Part | None = None,
    share: Share | None = None,
  ):
    """`content` as of a source; `before` is called before every batch;
    `on_change` of `content.check`. `share` is what `dataset` reads; without one
    it gives whole batches, of which `part` is taken."""
    self._dataset, self._identity, self._filler = dataset, identity, filler
    self._content, self._before = content, before
    self._on_change = on_change
    self.part, self._share = part, share
    self._said: list[list] | None = None
    self._iterator = iter(dataset)
    self._count = 0
    self.num_examples, self.num_batches = num_examples, num_batches

  def __next__(self) -> dict[str, Any]:
    self._before()
    try:
      batch = next(self._iterator)
    except StopIteration:
      # Another process may still have a row: all must run as many steps.
      if self.num_batches is None or self._count >= self.num_batches:
        raise
      batch = self._filler()
    self._count += 1
    if self.part is None or self._share is not None:
      return batch
    return _taken(batch, self.part.records)

  def _grain_state(self) -> Any:
    if self._share is None:
      return self._iterator.get_state()
    return {'next_index': self._share.stream_index(self._count)}

  def _digests(self) -> list[list]:
    """What the files said when they were opened, as `content.record`."""
    if self._said is None:
      self._said = content.record(self._content())
    return self._said

  def get_state(self) -> bytes:
    """The position, as JSON; the next batch after `set_state` is the next."""
    state = {
      'identity': self._identity,
      'content': self._digests(),
      'count': self._count,
      'grain': self._grain_state(),
    }
    return json.dumps(state, sort_keys=True).encode()

  def set_state(self, state: bytes | str) -> None:
    """Continues where `get_state` was called.

    Raises:
      ValueError: the state is of another pipeline, naming what differs: its
        position would skip or replay examples here; or a file says something
        else than then, so that the records of its places are others.
    """
    state = json.loads(state)
    saved = MEANT | state['identity']
    if saved.get('process_count', 1) != 1:
      raise ValueError(
        'the saved data position is of an older version, which kept that of '
        f'one of {saved["process_count"]} processes; it cannot be gone on from'
      )
    differs = {
      key: (saved.get(key), value)
      for key, value in self._identity.items()
      if saved.get(key) != value
    }
    counts = differs.pop('num_records', None)
    if differs:
      told = [
        f'{key}: {old!r} -> {new!r}' for key, (old, new) in differs.items()
      ]
      raise ValueError(
        'the saved data position is of another pipeline: ' + ', '.join(told)
      )
    then, now = state.get('content', []), self._digests()
    content.check(then, now, self._on_change, counts)
    # A fresh iterator: an exhausted one keeps a buffer over `set_state`.
    self._iterator = iter(self._dataset)
    self._count = state['count']
    position = state['grain']
    if self._share is not None:
      position = {'next_index': self._share.index(self._count)}
    try:
      self._iterator.set_state(position)
    except IndexError:
      raise ValueError(
        f'{self._count:,} batches have been read, more than there are of the '
        f'{self.num_examples:,} records now: nothing is left to go on with; '
        'use another --workdir'
      ) from None


def _taken(batch: Any, records: np.ndarray) -> Any:
  """Some records of a batch of `_collate`."""
  if isinstance(batch, dict):
    return {name: _taken(x, records) for name, x in batch.items()}
  if isinstance(batch, list):
    return [batch[i] for i in records]
  return batch[records]


def batched(
  dataset: grain.IterDataset, identity: dict[str, Any], pad_id: int, rows: int
) -> tuple[grain.IterDataset, Callable[[], dict[str, Any]]]:
  """(batches of a stream of examples, () -> a batch of padding).

  identity  what a pipeline is told by, with kind, packing and sizes
  rows      of a batch
  """
  kind, length = identity['kind'], identity['max_length']

  def collate(examples: list[dict]) -> dict[str, Any]:
    return _collate(examples, kind, rows, length, pad_id)

  if not identity['packing']:
    return dataset.batch(rows, batch_fn=collate), lambda: collate([])
  window = identity['packing_window']
  dataset = dataset.batch(window, batch_fn=list)
  dataset = grain.experimental.FlatMapIterDataset(
    dataset, _PackWindow(window, length, pad_id)
  )
  dataset = dataset.batch(
    rows, batch_fn=lambda packed: _stack(packed, rows, pad_id)
  )
  return dataset, lambda: collate([])
