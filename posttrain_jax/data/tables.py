"""Rows of Parquet files, Arrow files and saved `datasets` folders.

They are read by pyarrow alone. Arrow files are mapped into memory, and so are
Parquet files that are large, from a copy that is made once (`files.unpack`):
a row of any place is then read without those around it.
"""

import bisect
import json
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import files

__all__ = ['Rows', 'is_saved', 'saved_files']

# Bytes of a Parquet file's columns up to which it is held in memory.
IN_MEMORY = 2**28
SPLITS, STATE = 'dataset_dict.json', 'state.json'


def is_saved(folder: str) -> bool:
  """Whether a folder is one that `datasets` has saved to disk."""
  return any(
    os.path.isfile(os.path.join(folder, name)) for name in (SPLITS, STATE)
  )


def _json(folder: str, name: str) -> dict[str, Any]:
  path = os.path.join(folder, name)
  try:
    with open(path, encoding='utf-8') as file:
      found = json.load(file)
    if not isinstance(found, dict):
      raise ValueError('no object')
    return found
  except (OSError, ValueError) as error:
    told = (str(error).splitlines() or [''])[0][:200]
    raise ValueError(f'{path} cannot be read: {told}') from None


def one_split(folder: str, splits: Sequence[str], split: str) -> str:
  """The split that is meant; the only one where none is named.

  Raises:
    ValueError: there is no such split, or it has to be named.
  """
  if split in splits:
    return split
  if split:
    raise ValueError(
      f'dataset "{folder}" has no split "{split}".{nearest(split, splits)}'
    )
  if len(splits) == 1:
    return splits[0]
  raise ValueError(
    f'dataset "{folder}" has the splits {", ".join(splits)}: name one as '
    f'"{folder}:{splits[0] if splits else "train"}"'
  )


def saved_files(folder: str, split: str = '') -> list[str]:
  """Arrow files of a folder that `datasets` has saved to disk.

  Raises:
    ValueError: an unknown split, one that has to be named, or a folder that is
      not whole.
  """
  if os.path.isfile(os.path.join(folder, SPLITS)):
    splits = _json(folder, SPLITS).get('splits')
    if not isinstance(splits, list):
      raise ValueError(f'{os.path.join(folder, SPLITS)} names no splits')
    return saved_files(
      os.path.join(folder, one_split(folder, splits, split)), ''
    )
  if split:
    raise ValueError(f'dataset "{folder}" has no splits, so no "{split}"')
  state = _json(folder, STATE)
  if state.get('_indices_data_files'):
    raise ValueError(
      f'{folder} is a selection of rows: save it anew after flatten_indices()'
    )
  names = [entry.get('filename') for entry in state.get('_data_files') or []]
  paths = [os.path.join(folder, str(name)) for name in names]
  missing = [path for path in paths if not os.path.isfile(path)]
  if missing or not paths:
    raise ValueError(
      f'{os.path.join(folder, STATE)} names '
      + (f'{missing[0]}, which is not there' if missing else 'no files')
    )
  return paths


def _mapped(path: str) -> Any:
  """The table of an Arrow file or stream, mapped into memory."""
  pyarrow, ipc = files.arrow(), files.arrow('ipc')
  with open(path, 'rb') as file:
    is_file = file.read(6) == b'ARROW1'
  memory = pyarrow.memory_map(path)
  return (ipc.open_file if is_file else ipc.open_stream)(memory).read_all()


def _parquet(path: str) -> Any:
  """The table of a Parquet file: in memory, or mapped from an Arrow copy."""
  parquet = files.arrow('parquet')
  opened = parquet.ParquetFile(path)
  groups = range(opened.metadata.num_row_groups)
  size = sum(opened.metadata.row_group(i).total_byte_size for i in groups)
  if size <= IN_MEMORY:
    return opened.read()

  def write(out: BinaryIO) -> None:
    with files.arrow('ipc').new_file(out, opened.schema_arrow) as writer:
      for group in groups:
        writer.write_table(opened.read_row_group(group))

  return _mapped(files.unpack(path, '.arrow', write))


def _opened(path: str, kind: str) -> Any:
  """Raises ValueError where pyarrow cannot read the file."""
  pyarrow = files.arrow()
  try:
    table = _parquet(path) if kind == 'parquet' else _mapped(path)
  except (OSError, pyarrow.ArrowException) as error:
    told = (str(error).splitlines() or [''])[0][:200]
    raise ValueError(f'{path} cannot be read: {told}') from None
  names = table.column_names
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    raise ValueError(f'{path}: column "{twice[0]}" stands twice')
  return table


class Rows:
  """Rows of tables, by number; values are plain Python ones.

  num_bytes  of all of them together, in memory
  """

  def __init__(self, paths: Sequence[str], kind: str):
    """`kind`: 'parquet' or 'arrow'.

    Raises:
      ValueError: a file that cannot be read.
    """
    self._batches: list[tuple[str, int, Any]] = []  # (path, its first row, it)
    self._starts: list[int] = []
    self._length = self.num_bytes = 0
    for path in paths:
      table, first = _opened(path, kind), 0
      self.num_bytes += table.nbytes
      for batch in table.to_batches():
        self._batches.append((path, first, batch))
        self._starts.append(self._length)
        self._length += batch.num_rows
        first += batch.num_rows

  def __len__(self) -> int:
    return self._length

  def place(self, index: int) -> tuple[str, Any, int]:
    """('file[row]', the batch of that row, its row in the batch)."""
    if not 0 <= index < self._length:
      raise IndexError(index)
    at = bisect.bisect_right(self._starts, index) - 1
    path, first, batch = self._batches[at]
    row = index - self._starts[at]
    return f'{path}[{first + row}]', batch, row

  def __getitem__(self, index: int) -> tuple[str, dict[str, Any]]:
    """('file[row]', columns).

    Raises:
      ValueError: a text of the row is not UTF-8.
    """
    where, batch, row = self.place(index)
    try:
      return where, batch.slice(row, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
      byte = error.object[error.start]
      raise ValueError(
        f'{where}: byte {error.start + 1} (0x{byte:02x}) of a text is not UTF-8'
      ) from None
