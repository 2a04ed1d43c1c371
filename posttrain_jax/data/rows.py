"""Records by number: what every source is, and sources made of others.

A source has `len(source)` and `source[i] -> Record`; those of this project have
besides, as `Stored` says:

  num_bytes  about how many bytes its records are together
  stamp      changes when a file does; None where that is not known
  paths()    files that are read
  raw(i)     a record as it stands in its file, where that is text
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from posttrain_jax.data import files
from posttrain_jax.data.quoting import shown

__all__ = [
  'Failed',
  'Joined',
  'ListSource',
  'Record',
  'Source',
  'Stored',
  'View',
  'Subset',
  'attempt',
  'each_leaf',
  'in_order',
  'leaves',
  'row_of',
  'subset',
  'walk',
]


class Record(NamedTuple):
  """columns of one record, its place ('file:line') and its index."""

  columns: dict[str, Any]
  where: str
  index: int


class Failed(NamedTuple):
  """A record that cannot be read: what is wrong, with its place; its index."""

  message: str
  index: int


Source = Sequence[Record]


def attempt(source: Source, index: int) -> Record | Failed:
  """A record, or why it cannot be read."""
  try:
    return source[index]
  except ValueError as error:
    return Failed(str(error), int(index))


def walk(source: Source) -> Iterator[Record | Failed]:
  """Every record once, in order; one that cannot be read ends nothing."""
  if isinstance(source, Stored):
    return source.walk()
  return (attempt(source, i) for i in range(len(source)))


def in_order(source: Source) -> Iterator[Record]:
  """Every record, once.

  Raises:
    ValueError: one cannot be read.
  """
  for found in walk(source):
    if isinstance(found, Failed):
      raise ValueError(found.message)
    yield found


class Stored(Sequence):
  """What the sources here share."""

  num_bytes = 0
  stamp: Any = None

  def paths(self) -> list[str]:
    """Files that are read; none where records come from elsewhere."""
    return []

  def content(self) -> dict[str, str]:
    """{file: digest of what it says}, the same on every machine."""
    return {path: files.digest(path) for path in self.paths()}

  def raw(self, index: int) -> str | None:
    """A record as it stands in its file; None where that is no text."""
    del index
    return None

  def walk(self) -> Iterator[Record | Failed]:
    """Every record once, in order."""
    return (attempt(self, i) for i in range(len(self)))

  def __iter__(self) -> Iterator[Record]:
    return in_order(self)


class ListSource(Stored):
  """Any random-access sequence of dicts: a list, a Hugging Face dataset."""

  def __init__(
    self,
    records: Sequence[dict],
    name: str = 'records',
    paths: Sequence[str] = (),
  ):
    """`paths`: files that the records were read from."""
    if len(records) == 0:
      raise ValueError(f'no records in {name}')
    self._records, self._name, self._paths = records, name, paths
    if paths:
      self.stamp = files.stamp(paths)
      self.num_bytes = sum(size for _, size, _ in self.stamp)

  def paths(self) -> list[str]:
    return list(self._paths)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Record:
    index = int(index)
    where = f'{self._name}[{index}]'
    record = self._records[index]
    if not isinstance(record, Mapping):
      raise ValueError(f'{where}: expected a dict, got {shown(record)}')
    return Record(dict(record), where, index)


class Joined(Stored):
  """Sources one after another.

  parts    they
  weights  shares of a stream that is drawn from them side by side
           (`data.mixing`); empty: they are one data set
  """

  def __init__(self, parts: Sequence[Source], weights: Sequence[float] = ()):
    self.parts, self.weights = tuple(parts), tuple(weights)
    sizes = [len(part) for part in self.parts]
    self._starts = np.cumsum([0, *sizes])
    self.num_bytes = sum(getattr(p, 'num_bytes', 0) for p in self.parts)
    stamps = [getattr(part, 'stamp', None) for part in self.parts]
    self.stamp = None if None in stamps else tuple(stamps)

  def paths(self) -> list[str]:
    parts = [part for part in self.parts if isinstance(part, Stored)]
    return [path for part in parts for path in part.paths()]

  def __len__(self) -> int:
    return int(self._starts[-1])

  def _place(self, index: int) -> tuple[Source, int]:
    """(part, index in it) of a record."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    at = int(np.searchsorted(self._starts, index, side='right')) - 1
    return self.parts[at], int(index - self._starts[at])

  def raw(self, index: int) -> str | None:
    part, at = self._place(index)
    return part.raw(at) if isinstance(part, Stored) else None

  def walk(self) -> Iterator[Record | Failed]:
    for part, start in zip(self.parts, self._starts.tolist()):
      for found in walk(part):
        yield found._replace(index=start + found.index)

  def __getitem__(self, index: int) -> Record:
    part, at = self._place(index)
    return part[at]._replace(index=int(index))


class View(Stored):
  """What sources share that are made of the records of another one."""

  def __init__(self, source: Source):
    self._source = source

  def paths(self) -> list[str]:
    return self._source.paths() if isinstance(self._source, Stored) else []

  def _raw(self, index: int) -> str | None:
    """`raw` of the other source."""
    source = self._source
    return source.raw(index) if isinstance(source, Stored) else None


class Subset(View):
  """Some records of a source; their indices are counted anew."""

  def __init__(self, source: Source, indices: np.ndarray):
    """`indices`: [N] int, of the source, in the order they are wanted."""
    super().__init__(source)
    self._indices = np.asarray(indices, np.int64)
    share = len(self._indices) / max(len(source), 1)
    self.num_bytes = int(getattr(source, 'num_bytes', 0) * share)
    stamp = getattr(source, 'stamp', None)
    if stamp is not None:
      self.stamp = (stamp, len(self._indices), hash(self._indices.tobytes()))

  def raw(self, index: int) -> str | None:
    return self._raw(int(self._indices[index]))

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    record = self._source[int(self._indices[index])]
    return record._replace(index=int(index))


def leaves(source: Source) -> list[Source]:
  """The sources that a joined one is made of, in order."""
  if isinstance(source, Joined):
    return [leaf for part in source.parts for leaf in leaves(part)]
  return [source]


def subset(source: Source, indices: np.ndarray) -> Source:
  """The records `indices`, ascending; parts of a joined source stay parts.

  A part of which nothing is left goes, with its weight.

  Raises:
    ValueError: nothing at all is left.
  """
  indices = np.asarray(indices, np.int64)
  if len(indices) == len(source):
    return source
  if len(indices) == 0:
    raise ValueError('no record is left')
  if not isinstance(source, Joined):
    return Subset(source, indices)
  kept, weights, start = [], [], 0
  for number, part in enumerate(source.parts):
    stop = start + len(part)
    low, high = np.searchsorted(indices, [start, stop])
    if high > low:
      kept.append(subset(part, indices[low:high] - start))
      weights += source.weights[number : number + 1]
    start = stop
  return Joined(kept, weights)


def row_of(source: Source, found: Record | Failed) -> str | dict | None:
  """A row as it stands in its file, where that is text; else its columns."""
  text = source.raw(found.index) if isinstance(source, Stored) else None
  if text is None and isinstance(found, Record):
    return found.columns
  return text


def each_leaf(source: Source, make: Callable[[Source], Source]) -> Source:
  """The source with `make(leaf)` in place of each of its leaves."""
  if not isinstance(source, Joined):
    return make(source)
  return Joined([each_leaf(p, make) for p in source.parts], source.weights)
