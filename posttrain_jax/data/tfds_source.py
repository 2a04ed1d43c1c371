"""TensorFlow Datasets and ArrayRecord files, read without TensorFlow."""

import difflib
import glob
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain_jax.data import files, json_lines, tables
from posttrain_jax.data.rows import Record, Stored

__all__ = ['ArrayRecordSource', 'TfdsSource', 'tfds_folder']


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


def tfds_folder(name: str, data_dir: str | None) -> str | None:
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


class TfdsSource(Stored):
  """A split of a TFDS dataset in array_record files; no TensorFlow.

  num_bytes  of all its records together, a slice's too
  """

  def __init__(self, name: str, split: str = '', data_dir: str | None = None):
    """`name`: a folder that a builder has written, or a registered dataset.

    The folder may lie in `data_dir`, and may be one that leads to a single
    data set, as 'task_problems'.

    Raises:
      ValueError: an unknown dataset or split, or a folder of several.
    """
    import tensorflow_datasets as tfds  # half a second, rarely needed

    folder = tfds_folder(name, data_dir)
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
    if not builder.info.splits:
      raise ValueError(
        f'dataset "{name}" has no data in {builder.data_dir}: prepare it first'
      )
    split = split or tables.one_split(name, list(builder.info.splits), '')
    base_split = tables.one_split(
      name, list(builder.info.splits), split.split('[')[0]
    )
    try:
      self._source = builder.as_data_source(split=split)
      size = len(self._source)
    except Exception as error:
      raise _unreadable(folder or name, error) from None
    if not size:
      raise ValueError(f'no records in dataset "{name}", split "{split}"')
    self.num_bytes = builder.info.splits[base_split].num_bytes
    self._paths = [str(p) for p in builder.info.splits[base_split].filepaths]
    self._name = f'{builder.info.full_name}/{split}'
    self.stamp = files.stamp(self.paths()) or None

  def paths(self) -> list[str]:
    return [path for path in self._paths if os.path.isfile(path)]

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


class ArrayRecordSource(Stored):
  """ArrayRecord files whose records are JSON objects."""

  def __init__(self, paths: Sequence[str]):
    """Raises ValueError where a file is no ArrayRecord file, or all are empty.

    paths  of files
    """
    from array_record.python import array_record_data_source

    self._paths = list(paths)
    self._readers, starts = [], [0]
    for path in self._paths:
      try:
        reader = array_record_data_source.ArrayRecordDataSource(path)
        starts.append(starts[-1] + len(reader))
      except Exception as error:  # the library raises what C++ does
        raise _unreadable(path, error) from None
      self._readers.append(reader)
    self._starts = np.array(starts)
    if not starts[-1]:
      raise ValueError(f'no records in {", ".join(self._paths[:8])}')
    self.stamp = files.stamp(self._paths)
    self.num_bytes = sum(size for _, size, _ in self.stamp)

  def paths(self) -> list[str]:
    return list(self._paths)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> Record:
    """Raises ValueError where a record is no JSON object."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    at = int(np.searchsorted(self._starts, index, side='right')) - 1
    row = int(index - self._starts[at])
    where = f'{self._paths[at]}[{row}]'
    try:
      columns = json_lines.parse(self._readers[at][row], where)
    except ValueError as error:
      raise ValueError(
        f'{error}; the records of an ArrayRecord file are JSON objects, those '
        'of a TFDS data set are read by the name of its folder'
      ) from None
    return Record(columns, where, int(index))
