"""Where records come from: random access, and a place to blame for each.

A source has `len(source)` and `source[i] -> Record` (`rows`). Grain shuffles
and shards it by index, so nothing is read twice or held in memory.

  open_source('train.jsonl')             a file, of any kind of `files`
  open_source('part-*.parquet')          a glob
  open_source('a.jsonl,b.jsonl')         both, where no file is called so
  open_source(['a.jsonl', 'b.jsonl.gz'])  one data set of several files
  open_source('saved:train')             FOLDER:SPLIT, of `datasets` or TFDS
  open_source('org/name:train@main')     a data set of the Hugging Face hub
  open_source([{'path': 'a.jsonl', 'weight': 0.7},
               {'path': 'b.parquet', 'weight': 0.3}])  a mixture
"""

import array
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.core import buckets, hub, paths
from posttrain_jax.core.domain import Number
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import files, json_lines, tables
from posttrain_jax.data.quoting import listed, shown
from posttrain_jax.data.rows import (
  Failed,
  Joined,
  ListSource,
  Record,
  Source,
  Stored,
  in_order,
  walk,
)
from posttrain_jax.data.tfds_source import (
  ArrayRecordSource,
  TfdsSource,
  tfds_folder,
)

__all__ = [
  'ArrayRecordSource',
  'JsonlSource',
  'ListSource',
  'Record',
  'Source',
  'TableSource',
  'TfdsSource',
  'entries',
  'in_order',
  'local',
  'open_source',
  'split_of',
  'walk',
]

# What an entry of a list of sources may say.
KEYS = ('path', 'split', 'weight')
LINES = ('jsonl', 'gzip', 'zstd')


class JsonlSource(Stored):
  """JSON Lines files, read at byte offsets that are found once.

  Files compressed by gzip or zstd are unpacked once (`files.unpack`).
  """

  def __init__(self, paths: str | Sequence[str]):
    """`paths`: a file, a glob or a list of them; blank lines are skipped.

    Raises:
      ValueError: nothing matches, what matches is no text file, a line is too
        long to be a record, or there is no record at all.
    """
    self._paths = files.expand(paths)
    kinds = {path: files.kind_of(path) for path in self._paths}
    for path, kind in kinds.items():
      if kind not in LINES and kind != 'json':  # an array is told by its line
        raise ValueError(f'{path}: a file of kind "{kind}", not of JSON lines')
    self._read = [
      files.unzipped(path, kinds[path])
      if kinds[path] in ('gzip', 'zstd')
      else path
      for path in self._paths
    ]
    self.stamp = files.stamp(self._paths)
    # (file, line, offset, size) of each record: 32 bytes, whatever its length.
    spans = array.array('q')
    for number, path in enumerate(self._read):
      for line, offset, text in json_lines.lines(path, self._paths[number]):
        spans.extend((number, line, offset, len(text)))
    if not spans:
      raise ValueError(f'no records in {listed(self._paths)}')
    self._spans = np.frombuffer(spans, np.int64).reshape(-1, 4)
    self.num_bytes = int(self._spans[:, 3].sum())

  def paths(self) -> list[str]:
    return list(self._paths)

  def __len__(self) -> int:
    return len(self._spans)

  def walk(self) -> Iterator[Record | Failed]:
    """All records in order, each file opened once."""
    index = 0
    for path, read in zip(self._paths, self._read):
      for line_number, _, line in json_lines.lines(read, path):
        where = f'{path}:{line_number}'
        try:
          yield Record(json_lines.parse(line, where), where, index)
        except ValueError as error:
          yield Failed(str(error), index)
        index += 1

  def _line(self, index: int) -> tuple[bytes, str]:
    """(a line, 'file:line')."""
    number, line_number, offset, size = self._spans[index].tolist()
    where = f'{self._paths[number]}:{line_number}'

    def read() -> bytes:
      with open(self._read[number], 'rb') as file:
        file.seek(offset)
        found = file.read(size)
      if len(found) < size:
        raise OSError(f'it ends {size - len(found):,} bytes before it did')
      return found

    return files.patiently(read, where), where

  def raw(self, index: int) -> str:
    return self._line(index)[0].decode('utf-8', 'replace').strip()

  def __getitem__(self, index: int) -> Record:
    """Raises ValueError ('file:line: ...') where the line is no JSON object."""
    line, where = self._line(index)
    return Record(json_lines.parse(line, where), where, int(index))


class TableSource(Stored):
  """Rows of Parquet or Arrow files (`data.tables`); a place is 'file[row]'."""

  def __init__(self, paths: Sequence[str], kind: str):
    """`kind`: 'parquet' or 'arrow'.

    Raises:
      ValueError: a file that cannot be read, or no row at all.
    """
    self._paths = list(paths)
    self.stamp = files.stamp(self._paths)
    self._rows = tables.Rows(self._paths, kind)
    if not len(self._rows):
      raise ValueError(f'no records in {listed(self._paths)}')
    self.num_bytes = self._rows.num_bytes

  def paths(self) -> list[str]:
    return list(self._paths)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Record:
    """Raises ValueError where a text of the row is not UTF-8."""
    where, columns = self._rows[int(index)]
    return Record(columns, where, int(index))


def _of_kind(kind: str, paths: list[str]) -> list[Source]:
  if kind in LINES:
    return [JsonlSource(paths)]
  if kind == 'array_record':
    return [ArrayRecordSource(paths)]
  if kind == 'json':
    return [ListSource(json_lines.array(p), p, [p]) for p in paths]
  return [TableSource(paths, kind)]


def _folder(path: str, split: str) -> Source:
  """A folder that `datasets` or TFDS has written."""
  if tables.is_saved(path):
    return TableSource(tables.saved_files(path, split), 'arrow')
  if tfds_folder(path, None):
    return TfdsSource(path, split)
  raise ValueError(
    f'"{path}" is a folder, and neither one that `datasets` has saved nor one '
    f'of TFDS; give a file, or a glob such as "{os.path.join(path, "*.jsonl")}"'
  )


def split_of(path: str, split: str = '', **_: Any) -> tuple[str, str]:
  """(path, split) of 'FOLDER:SPLIT', where that is no file itself."""
  folder, colon, name = path.rpartition(':')
  # 'gs://...' has a colon too, also where a folder is called gs.
  if split or not colon or name.startswith('//') or os.path.exists(path):
    return path, split
  if paths.is_remote(folder):
    with buckets.answered(folder):
      there = paths.path(folder).is_dir()
  else:
    there = os.path.isdir(folder)
  if there:
    return folder, name
  return path, split


def local(path: str, split: str = '', **_: Any) -> list[str]:
  """Files and folders of a path, as `files.expand`, or copies of those that a
  name of the hub has, or that lie in a bucket."""
  if paths.is_remote(path):
    path, split = split_of(path, split)
  there = hub.data_files(path, split)
  return files.expand(split_of(path, split)[0]) if there is None else there


def _open_path(path: str, split: str = '') -> list[Source]:
  found = local(path, split)
  path, split = split_of(path, split)
  split = '' if hub.parse(path, data=True) else split
  if split and not all(map(os.path.isdir, found)):
    raise ValueError(f'"{path}" has no splits, so no "{split}"')
  kind = lambda p: 'folder' if os.path.isdir(p) else files.kind_of(p)
  parts: list[Source] = []
  for name, group in itertools.groupby(
    found, lambda p: 'jsonl' if kind(p) in LINES else kind(p)
  ):
    paths = list(group)
    if name == 'folder':
      parts += [_folder(p, split) for p in paths]
    else:
      parts += _of_kind(name, paths)
  return parts


def entries(spec: Any, name: str = 'sources') -> list[dict[str, Any]]:
  """A spec of `open_source` as [{'path': ..., 'split': ..., 'weight': ...}].

  name  what messages call it

  Raises:
    ValueError: it is none, an entry has an unknown key, no path or a weight
      that is no share, or only some have weights.
  """
  spec = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
  listed_ = [spec] if isinstance(spec, str | Mapping) else spec
  if not isinstance(listed_, Sequence) or not listed_:
    raise ValueError(f'{name}={shown(spec)} names no file')
  out = []
  for number, entry in enumerate(listed_):
    here = f'{name}[{number}]'
    if isinstance(entry, str | os.PathLike):
      entry = {'path': os.fspath(entry)}
    if not isinstance(entry, Mapping):
      raise ValueError(
        f'{here}={shown(entry)} is no path and no {{"path": ..}}'
      )
    for key in entry:
      if key not in KEYS:
        raise ValueError(f'{here}: unknown key "{key}".{nearest(key, KEYS)}')
    for key in ('path', 'split'):
      value = entry.get(key, '')
      if not isinstance(value, str) or (key == 'path' and not value):
        raise ValueError(f'{here}.{key}={shown(value)} is no text')
    if entry.get('weight') is not None:
      Number(0, above=True).check(f'{here}.weight', entry['weight'])
    out.append(
      {'path': entry['path'], 'split': entry.get('split', ''),
       'weight': entry.get('weight')}
    )  # fmt: skip
  weighted = [entry['weight'] is not None for entry in out]
  if any(weighted) and not all(weighted):
    raise ValueError(
      f'{name}[{weighted.index(False)}] has no weight, and others have; give '
      'all of them one, or none: each record then comes once an epoch'
    )
  return out


def open_source(spec: Any, name: str = 'sources') -> Source:
  """The records of a path, a glob, FOLDER:SPLIT, or a list of these.

  spec  a path; {'path': ..., 'split': ..., 'weight': ...}; or a list of such.
        Without weights all are one data set; with them a mixture
        (`data.mixing`)
  name  what messages call it

  Raises:
    ValueError: an entry that is none (`entries`), no such file, or a file that
      cannot be read.
  """
  given = entries(spec, name)
  parts = [_open_path(entry['path'], entry['split']) for entry in given]
  if given[0]['weight'] is None or len(given) == 1:
    flat = [source for part in parts for source in part]
    return flat[0] if len(flat) == 1 else Joined(flat)
  whole = [part[0] if len(part) == 1 else Joined(part) for part in parts]
  return Joined(whole, [float(entry['weight']) for entry in given])
