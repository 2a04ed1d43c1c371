"""Tokenised examples become rows: one each, or several packed into a row.

Rows are a dict of exactly the fields of `types.Batch`:

  tokens       [B, T] int32
  mask         [B, T] float32, weight of the prediction of the token it is at
  segment_ids  [B, T] int32, 1, 2, .. within a row, 0 on padding
  positions    [B, T] int32, from 0 in every segment

The first token of a segment never counts: its prediction would have to come
from another example.
"""

import bisect
from collections.abc import Sequence

import numpy as np

__all__ = ['FIELDS', 'best_fit_decreasing', 'build_rows', 'pack', 'pad']

FIELDS = ('tokens', 'mask', 'segment_ids', 'positions')

Rows = dict[str, np.ndarray]


def best_fit_decreasing(
  lengths: Sequence[int], capacity: int
) -> list[list[int]]:
  """Groups of indices whose lengths sum to at most `capacity`.

  Longest first, each into the fullest group that still has room.

  Raises:
    ValueError: a length over `capacity`.
  """
  groups: list[list[int]] = []
  rooms: list[tuple[int, int]] = []  # (free tokens, group), sorted
  for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    length = lengths[index]
    if length > capacity:
      raise ValueError(
        f'example {index} has {length} tokens, more than a row of {capacity}'
      )
    at = bisect.bisect_left(rooms, (length, 0))
    if at == len(rooms):
      room, group = capacity, len(groups)
      groups.append([])
    else:
      room, group = rooms.pop(at)
    groups[group].append(index)
    bisect.insort(rooms, (room - length, group))
  # In the order of the data: else long examples would come first in a window,
  # and the batches would no longer be alike.
  return sorted((sorted(group) for group in groups), key=lambda g: g[0])


def build_rows(
  groups: Sequence[Sequence[dict]],
  length: int,
  pad_id: int,
  num_rows: int | None = None,
) -> Rows:
  """One row of `length` per group of examples, in order.

  An example is a dict with 'tokens' and 'loss_mask', lists of equal length.
  Rows beyond the groups, up to `num_rows`, are all padding.

  Raises:
    ValueError: a group that does not fit, or more groups than `num_rows`.
  """
  num_rows = len(groups) if num_rows is None else num_rows
  if len(groups) > num_rows:
    raise ValueError(f'{len(groups)} groups do not fit {num_rows} rows')
  shape = (num_rows, length)
  rows = {
    'tokens': np.full(shape, pad_id, np.int32),
    'mask': np.zeros(shape, np.float32),
    'segment_ids': np.zeros(shape, np.int32),
    'positions': np.zeros(shape, np.int32),
  }
  for row, group in enumerate(groups):
    start = 0
    for segment, example in enumerate(group, start=1):
      size = len(example['tokens'])
      if start + size > length:
        raise ValueError(
          f'row {row}: {start + size} tokens do not fit length={length}'
        )
      if size == 0:
        continue
      at = np.s_[row, start : start + size]
      rows['tokens'][at] = example['tokens']
      rows['mask'][at] = example['loss_mask']
      rows['mask'][row, start] = 0.0
      rows['segment_ids'][at] = segment
      rows['positions'][at] = np.arange(size)
      start += size
  return rows


def pad(
  examples: Sequence[dict],
  length: int,
  pad_id: int,
  num_rows: int | None = None,
) -> Rows:
  """One example per row."""
  groups = [[example] for example in examples]
  return build_rows(groups, length, pad_id, num_rows)


def pack(examples: Sequence[dict], length: int, pad_id: int) -> Rows:
  """All examples in few rows, each example whole."""
  lengths = [len(example['tokens']) for example in examples]
  groups = best_fit_decreasing(lengths, length)
  return build_rows(
    [[examples[i] for i in group] for group in groups], length, pad_id
  )
