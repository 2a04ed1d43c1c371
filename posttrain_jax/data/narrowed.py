"""Records that are of two kinds, as the one that a run trains on.

Sets of pairs often bring the chosen conversation as `messages`, too, by which a
record is one to imitate (`kinds.kind_of`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

from posttrain_jax.data import kinds
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.preflight import first_records
from posttrain_jax.data.quoting import listed
from posttrain_jax.data.rows import (
  Failed,
  Record,
  Source,
  Stored,
  View,
  each_leaf,
)

__all__ = ['Without', 'as_taken']

BESIDE = 'messages'  # the kind that is one column alone


class Without(View):
  """The records of a source without one of their columns."""

  def __init__(self, source: Source, column: str):
    super().__init__(source)
    self._column = column
    self.num_bytes = getattr(source, 'num_bytes', 0)
    stamp = getattr(source, 'stamp', None)
    self.stamp = stamp if stamp is None else ('without', column, stamp)

  def raw(self, index: int) -> str | None:
    return self._raw(index)

  def walk(self) -> Iterator[Record | Failed]:
    if not isinstance(self._source, Stored):
      yield from super().walk()
      return
    for found in self._source.walk():
      yield self._read(found) if isinstance(found, Record) else found

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return self._read(self._source[index])

  def _read(self, record: Record) -> Record:
    left = {k: v for k, v in record.columns.items() if k != self._column}
    return record._replace(columns=left)


def _other(record: dict[str, Any], takes: Iterable[str]) -> str:
  """The kind that is taken, and that a record is of beside `messages`."""
  left = {k: v for k, v in record.items() if k != BESIDE}
  try:
    kind = kinds.kind_of(left)
  except ValueError:  # of none
    return ''
  return kind if kind in takes and kind != 'prompt' else ''


def as_taken(
  source: Source, takes: Iterable[str], rows: BadRows
) -> tuple[Source, list[str]]:
  """(the source, what is told of it).

  takes  the kinds that are trained on; pairs become labelled answers

  The first record of each part says what all of the part are.

  Raises:
    ValueError: a first record of no kind.
  """
  told: list[str] = []
  takes = {*takes} | ({'preference'} if 'unpaired' in takes else set())

  def read(leaf: Source) -> Source:
    kind, record = first_records(leaf, rows)[0]
    other = kind == BESIDE and _other(record.columns, takes)
    if not other:
      return leaf
    names = listed(x for x in kinds.KINDS[other] if x in record.columns)
    taken = BESIDE if BESIDE in takes else names
    told.append(
      f'{record.where}: both {BESIDE} and {names} are there: the run trains on '
      f'{taken}'
    )
    return leaf if BESIDE in takes else Without(leaf, BESIDE)

  found = each_leaf(source, read)
  return (found if told and BESIDE not in takes else source), told
