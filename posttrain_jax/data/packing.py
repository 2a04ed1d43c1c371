"""Tokenised examples become rows: one each, or several packed into a row.

Rows are a dict of exactly the fields of `types.Batch`:

  tokens       [B, T] int32
  mask         [B, T] float32, weight of the prediction of the token it is at
  segment_ids  [B, T] int32, 1, 2, .. within a row, 0 on padding
  positions    [B, T] int32, from 0 in every segment

The first token of a segment never counts: its prediction would have to come
from another example. Of pairs, segment s of a chosen row and segment s of the
rejected row beside it are the sides of one pair.
"""

import bisect
from collections.abc import Sequence

import numpy as np

__all__ = [
  'FIELDS',
  'PAIRS',
  'best_fit_decreasing',
  'build_rows',
  'groups_of',
  'pack',
  'pad',
  'size_of',
]

FIELDS = ('tokens', 'mask', 'segment_ids', 'positions')
# Pairs that a packed row holds at most: what is summed over each of them is
# laid out for so many (`trainers.pairs`).
PAIRS = 32

Rows = dict[str, np.ndarray]


def best_fit_decreasing(
  lengths: Sequence[int], capacity: int, most: int = 0
) -> list[list[int]]:
  """Groups of indices whose lengths sum to at most `capacity`.

  Longest first, each into the fullest group that still has room.

  most  indices of one group at most; 0: any number

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
    if len(groups[group]) != most:
      bisect.insort(rooms, (room - length, group))
  # In the order of the data: else long examples would come first in a window,
  # and the batches would no longer be alike.
  return sorted((sorted(group) for group in groups), key=lambda g: g[0])


def size_of(example: dict) -> int:
  """Tokens that an example takes of a row; of a pair, of each of its two."""
  if 'chosen' in example:
    return max(len(example[side]['tokens']) for side in ('chosen', 'rejected'))
  return len(example['tokens'])


def groups_of(
  sizes: Sequence[int], length: int, paired: bool
) -> list[list[int]]:
  """Which examples, by their `size_of`, share a row of `length`."""
  return best_fit_decreasing(sizes, length, PAIRS if paired else 0)


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


def pack(examples: Sequence[dict], length: int, pad_id: int) -> dict:
  """All examples in few rows, each example whole.

  Pairs give {'chosen': rows, 'rejected': rows}.
  """
  paired = bool(examples) and 'chosen' in examples[0]
  groups = groups_of([size_of(e) for e in examples], length, paired)

  def rows(side: str = '') -> Rows:
    found = [[examples[i] for i in group] for group in groups]
    if side:
      found = [[pair[side] for pair in group] for group in found]
    return build_rows(found, length, pad_id)

  if paired:
    return {side: rows(side) for side in ('chosen', 'rejected')}
  return rows()
