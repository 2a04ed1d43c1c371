"""Where records come from: random access, and a place to blame for each.

A source has `len(source)` and `source[i] -> Record`. Grain shuffles and shards
it by index, so nothing is read twice or held in memory.
"""

import difflib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import json_lines
from posttrain_jax.data.quoting import shown

__all__ = [
  'JsonlSource',
  'ListSource',
  'Record',
  'Source',
  'TfdsSource',
  'in_order',
]


class Record(NamedTuple):
  """columns of one record, its place ('file:line') and its index."""

  columns: dict[str, Any]
  where: str
  index: int


Source = Sequence[Record]


def in_order(source: Source) -> Iterator[Record]:
  """Every record, once."""
  if isinstance(source, JsonlSource):
    return iter(source)
  return (source[i] for i in range(len(source)))


class JsonlSource:
  """JSON Lines files, read at byte offsets that are found once.

  num_bytes  of all records together
  stamp      (path, size, time of change) of every file
  """

  def __init__(self, paths: str | Sequence[str]):
    """`paths`: a file, a glob or a list of them; blank lines are skipped.

    Raises:
      ValueError: nothing matches, what matches is no text file, a line is too
        long to be a record, or there is no record at all.
    """
    self._files = json_lines.expand(paths)
    stats = [(path, os.stat(path)) for path in self._files]
    self.stamp = tuple((p, s.st_size, s.st_mtime_ns) for p, s in stats)
    spans = []  # (file, line, offset, size)
    for number, path in enumerate(self._files):
      spans.extend(
        (number, line_number, offset, len(line))
        for line_number, offset, line in json_lines.lines(path)
      )
    if not spans:
      raise json_lines.no_records(self._files)
    self._spans = np.array(spans, np.int64)
    self.num_bytes = int(self._spans[:, 3].sum())

  def __len__(self) -> int:
    return len(self._spans)

  def __iter__(self) -> Iterator[Record]:
    """All records in order, each file opened once."""
    index = 0
    for path in self._files:
      for line_number, _, line in json_lines.lines(path):
        where = f'{path}:{line_number}'
        yield Record(json_lines.parse(line, where), where, index)
        index += 1

  def __getitem__(self, index: int) -> Record:
    """Raises ValueError ('file:line: ...') where the line is no JSON object."""
    number, line_number, offset, size = self._spans[index].tolist()
    where = f'{self._files[number]}:{line_number}'
    try:
      with open(self._files[number], 'rb') as file:
        file.seek(offset)
        line = file.read(size)
    except OSError as error:
      raise ValueError(f'{where}: {error.strerror}') from None
    return Record(json_lines.parse(line, where), where, int(index))


class ListSource:
  """Any random-access sequence of dicts: a list, a Hugging Face dataset."""

  def __init__(self, records: Sequence[dict], name: str = 'records'):
    if len(records) == 0:
      raise ValueError(f'no records in {name}')
    self._records, self._name = records, name

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Record:
    index = int(index)
    where = f'{self._name}[{index}]'
    record = self._records[index]
    if not isinstance(record, Mapping):
      raise ValueError(f'{where}: expected a dict, got {shown(record)}')
    return Record(dict(record), where, index)


def _plain(value: Any) -> Any:
  """TFDS gives text as bytes and numbers as numpy; records are plain."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray):
    return [_plain(item) for item in value.tolist()]
  return value


def _tfds_folder(name: str, data_dir: str | None) -> str | None:
  """The one data set on disk at or under `name` or `data_dir/name`, if any.

  Raises:
    ValueError: there are several.
  """
  root = name if os.path.isdir(name) else os.path.join(data_dir or '', name)
  pattern = os.path.join(glob.escape(root), '**', 'dataset_info.json')
  found = [os.path.dirname(p) for p in glob.glob(pattern, recursive=True)]
  if len(found) > 1:
    raise ValueError(
      f'several data sets under "{root}": {", ".join(sorted(found))}'
    )
  return found[0] if found else None


def _unreadable(name: str, error: Exception) -> ValueError:
  told = (str(error).splitlines() or [type(error).__name__])[0][:200]
  return ValueError(f'dataset "{name}" cannot be read: {told}')


class TfdsSource:
  """A split of a TFDS dataset in array_record files; no TensorFlow.

  num_bytes  of all its records together, a slice's too
  """

  stamp = None  # a data set does not say whether it has changed

  def __init__(self, name: str, split: str, data_dir: str | None = None):
    """`name`: a folder that a builder has written, or a registered dataset.

    The folder may lie in `data_dir`, and may be one that leads to a single
    data set, as 'task_problems'.

    Raises:
      ValueError: an unknown dataset or split, or a folder of several.
    """
    import tensorflow_datasets as tfds  # half a second, rarely needed

    folder = _tfds_folder(name, data_dir)
    try:
      if folder is not None:
        builder = tfds.builder_from_directory(folder)
      else:
        builder = tfds.builder(
          name, data_dir=data_dir, file_format='array_record'
        )
    except tfds.core.DatasetNotFoundError:
      names = tfds.list_builders(with_community_datasets=False)
      close = difflib.get_close_matches(name, names, n=3)
      hint = f' Registered names near it: {", ".join(close)}' if close else ''
      raise ValueError(
        f'no TFDS dataset or folder "{name}", data_dir {data_dir}.{hint}'
      ) from None
    except Exception as error:  # of many kinds, for a folder that is harmed
      raise _unreadable(folder or name, error) from None
    base_split = split.split('[')[0]
    if not builder.info.splits:
      raise ValueError(
        f'dataset "{name}" has no data in {builder.data_dir}: prepare it first'
      )
    if base_split not in builder.info.splits:
      hint = nearest(base_split, builder.info.splits)
      raise ValueError(f'dataset "{name}" has no split "{split}".{hint}')
    try:
      self._source = builder.as_data_source(split=split)
      size = len(self._source)
    except Exception as error:
      raise _unreadable(folder or name, error) from None
    if not size:
      raise ValueError(f'no records in dataset "{name}", split "{split}"')
    self.num_bytes = builder.info.splits[base_split].num_bytes
    self._name = f'{builder.info.full_name}/{split}'

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    where = f'{self._name}[{int(index)}]'
    try:
      return Record(_plain(self._source[int(index)]), where, int(index))
    except UnicodeDecodeError as error:
      byte = error.object[error.start]
      raise ValueError(
        f'{where}: byte {error.start + 1} (0x{byte:02x}) of a text is not UTF-8'
      ) from None
