"""The metrics file: one strict JSON object a line, a header first."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax.core import paths

FILE_NAME = 'metrics.jsonl'

_NON_FINITE = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}


def read(path: str | os.PathLike) -> tuple[dict, list[dict]]:
  """The header and the rows of a metrics file.

  Args:
    path: the file, or the run's folder that holds it.

  Returns:
    The first header, with those of changed resumes as a list under
    'resumed_with'; and the rows in the order written. A torn last line, which
    a kill leaves, is skipped.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a line that is not valid, with file and line number.
  """
  path = paths.path(path)
  path = path / FILE_NAME if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(f'no metrics file at {path}')
  headers, rows = [], []
  for record in _records(path):
    if 'header' in record:
      headers.append(record['header'])
    else:
      rows.append({name: _restore(value) for name, value in record.items()})
  if not headers:
    raise ValueError(f'{path}:1: the file is empty: no header')
  if len(headers) > 1:
    headers[0]['resumed_with'] = headers[1:]
  return headers[0], rows


def _restore(value: Any) -> Any:
  return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _records(path: Path) -> list[dict]:
  """Every line of the file as a dict; drops a torn last line."""
  lines = path.read_bytes().split(b'\n')
  records = []
  for number, text in enumerate(lines, start=1):
    is_tail = number == len(lines)  # no newline after it; b'' in a whole file
    try:
      record = json.loads(text)
    except ValueError as error:
      if is_tail:
        break
      raise ValueError(f'{path}:{number}: not JSON: {error}') from None
    keys = record if isinstance(record, dict) else {}
    if number == 1 and 'header' not in keys:
      raise ValueError(f'{path}:1: the first line is not a header')
    if 'header' not in keys and not isinstance(keys.get('step'), int):
      raise ValueError(
        f'{path}:{number}: neither a header nor a row with a "step"'
      )
    records.append(record)
  return records


def open_to_append(path: Path, header: dict, resume_step: int | None) -> Any:
  """Opens the file to append to, after dropping what will be done again."""
  header = json.loads(line(header))
  records = []
  if path.exists() and resume_step is None:
    path.replace(path.with_name('metrics.old.jsonl'))
  elif path.exists():
    records = [
      record
      for record in _records(path)
      if 'header' in record or record['step'] <= resume_step
    ]
  old = [record['header'] for record in records if 'header' in record]
  if not old or _lasting(old[-1]) != _lasting(header):
    records.append({'header': header})
  # Whole or not at all: a kill here must not lose the old rows.
  paths.write(path, ''.join(line(record) for record in records))
  if isinstance(path, paths.Remote):
    return paths.Grown(path)
  return path.open('a', encoding='utf-8')


def _lasting(header: dict) -> dict:
  """The header without what differs between two starts of the same run."""
  return {name: value for name, value in header.items() if name != 'date_utc'}


def line(record: dict) -> str:
  """One line of the file, newline included."""
  return json.dumps(strict(record), allow_nan=False) + '\n'


def strict(value: Any) -> Any:
  """`value` as strict JSON can hold it: "nan" for nan, text for the rest."""
  if hasattr(value, 'items'):
    return {str(key): strict(item) for key, item in value.items()}
  if isinstance(value, (list, tuple, set, frozenset)):
    return [strict(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  return str(value)
