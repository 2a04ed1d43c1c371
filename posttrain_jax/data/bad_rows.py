"""Rows that cannot be trained on: refused, left out, or put aside, and counted.

  error       the first one ends the run
  skip        they are left out; how many, where and why is told
  quarantine  they are left out and written to a file, one JSON object a line:
              {"file", "line", "column", "reason", "row"}

`row` is the line as it stands in its file; of files that are no text its
columns. `line` counts from 1; files without lines have `row_number`, from 0.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest

__all__ = ['FILE', 'RULES', 'BadData', 'BadRows', 'report']

RULES = ('error', 'skip', 'quarantine')
FILE = 'quarantine.jsonl'
SHOWN = 3  # rows that are told with their reasons
_PLACE = re.compile(r'(?P<file>.*?)(?::(?P<line>\d+)|\[(?P<row>\d+)\])', re.S)
_COLUMN = re.compile(r'(?:column|key) "((?:[^"\\]|\\.)*)"')


class BadData(ValueError):
  """A row of a run's data that ends it, by `data.on_bad_row`."""


def report(message: str, where: str = '') -> dict[str, Any]:
  """{file, line or row, column, reason} of a message 'file:line: reason'.

  where  the place that the message begins with, where it is known
  """
  out: dict[str, Any] = {}
  if not where or not message.startswith(where):
    where = message.partition(': ')[0]
  place = _PLACE.fullmatch(where)
  out['file'] = place['file'] if place else where
  for name in ('line', 'row'):
    if place and place[name] is not None:
      out['line' if name == 'line' else 'row_number'] = int(place[name])
  reason = message.removeprefix(where).removeprefix(': ')
  column = _COLUMN.search(reason)
  out['column'] = column[1] if column else None
  out['reason'] = reason
  return out


class BadRows:
  """What is done with the bad rows of one run, and how many there were.

  Threads may call `take` at once; a place in a file is counted once.
  """

  def __init__(self, rule: str = 'error'):
    """Raises ValueError at an unknown rule, with the nearest one."""
    if rule not in RULES:
      raise ValueError(f'unknown on_bad_row "{rule}".{nearest(rule, RULES)}')
    self.rule = rule
    self._lock = threading.Lock()
    self._found: dict[tuple, dict[str, Any]] = {}
    self._indices: set[int] = set()
    self._announced = 0
    self._path: Path | None = None
    self._written: set[tuple] = set()

  def __len__(self) -> int:
    return len(self._found)

  @property
  def indices(self) -> list[int]:
    """Of the rows that were found, ascending, as `take` was told."""
    with self._lock:
      return sorted(self._indices)

  def absorb(self, other: 'BadRows') -> None:
    """Takes over what another one has found."""
    with other._lock:
      found = {key: dict(row) for key, row in other._found.items()}
      indices = set(other._indices)
    with self._lock:
      self._found |= found
      self._indices |= indices

  def take(
    self,
    index: int,
    message: str,
    row: Callable[[], Any] = lambda: None,
    where: str = '',
  ) -> None:
    """Counts a bad row; with rule 'error' it is raised.

    index    of the row in its source
    message  'file:line: reason'
    row      () -> the row itself, text or columns
    where    the place that the message begins with

    Raises:
      BadData: the rule is 'error'.
    """
    if self.rule == 'error':
      raise BadData(message)
    found = {**report(message, where), 'message': message}
    key = _place(found)
    with self._lock:
      self._indices.add(index)
      if key in self._found:
        return
      self._found[key] = found
      if self.rule == 'quarantine':
        found['row'] = row()
        if self._path is not None:
          self._write([found])

  def lines(self, of: int = 0) -> list[str]:
    """What is new since the last call: how many rows, the first with reasons.

    of  rows there are; 0: not said
    """
    with self._lock:
      total = len(self._found)
      new = list(self._found.values())[self._announced :]
      self._announced = total
    if not new:
      return []
    done = 'left out'
    if self.rule == 'quarantine':
      done += f' and written to {FILE} in the folder of the run'
    before = f' (with those before: {total:,})' if total > len(new) else ''
    whole = f' of {of:,}' if of else ''
    return [
      f'{len(new):,}{whole} records cannot be trained on: {done}{before}; '
      'first: ' + '; '.join(row['message'] for row in new[:SHOWN])
    ]

  def tell(self) -> None:
    """Shows what is new, if anything, on stderr."""
    for line in self.lines():
      print(f'WARNING data: {line}', file=sys.stderr)

  def keep_in(self, workdir: Path) -> None:
    """From now on, rows are written to `workdir`/quarantine.jsonl, those that
    were found already first; those that stand there are not written again.

    Does nothing with another rule than 'quarantine'.
    """
    if self.rule != 'quarantine':
      return
    with self._lock:
      self._path = paths.path(workdir) / FILE
      if self._path.exists():
        text = self._path.read_text(encoding='utf-8', errors='replace')
        for line in text.splitlines():
          try:
            self._written.add(_place(json.loads(line)))
          except (ValueError, AttributeError, TypeError):
            continue  # a line that was cut off
      self._write(self._found.values())

  def _write(self, rows: Iterable[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
      if _place(row) in self._written:
        continue
      self._written.add(_place(row))
      out = {key: value for key, value in row.items() if key != 'message'}
      lines.append(json.dumps(out, default=str) + '\n')
      row.pop('row', None)  # it is on disk
    if lines and self._path is not None:
      paths.append(self._path, ''.join(lines))


def _place(row: dict[str, Any]) -> tuple:
  return tuple(row.get(key) for key in ('file', 'line', 'row_number'))
