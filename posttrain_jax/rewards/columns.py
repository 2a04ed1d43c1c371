"""The columns that rewards read, as the records of a file have them.

  seen = Seen(entries, 'prompts.jsonl')
  for record in records: seen.add(record.columns, record.where)
  lines = seen.check({'polite': ['tone']})

A right answer that is null, empty or of another kind than a reward reads makes
no answer right: it is told in how many records, and refused in all of them.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain_jax.core.names import nearest
from posttrain_jax.rewards import texts
from posttrain_jax.rewards.entries import Entry

__all__ = ['Seen']

# What a reward reads in its column, where null and empty are not all that it
# cannot use.
READS = {'choice_letter': 'no choice', 'numeric_match': 'without a number'}
MOST = 8  # columns that are named in place of an empty one


class _Count:
  """How many records are so, and the first of them."""

  def __init__(self) -> None:
    self.number, self.first = 0, ''

  def add(self, where: str) -> None:
    self.first = self.first if self.number else where
    self.number += 1


class Seen:
  """What records have for the rewards that read them; `total` of them."""

  def __init__(self, entries: Sequence[Entry], name: str):
    """`entries` of kind 'text' and 'own'; `name` of the file."""
    self.name, self.total = name, 0
    self._entries = tuple(entries)
    self._there: collections.Counter[str] = collections.Counter()
    self._filled: collections.Counter[str] = collections.Counter()
    self._first = ''
    self._lacking: dict[str, str] = {}  # the first place without it
    # By label of an entry that reads a column.
    self._without: dict[str, _Count] = collections.defaultdict(_Count)
    self._blank: dict[str, _Count] = collections.defaultdict(_Count)

  def add(self, columns: Mapping[str, Any], where: str) -> None:
    """Looks at one record.

    Raises:
      ValueError: an entry cannot judge it; names the column.
    """
    for name, value in columns.items():
      if not self._there[name] and self.total:
        self._lacking[name] = self._first  # none had it up to here
      self._there[name] += 1
      self._filled[name] += not texts.common.empty(value)
    if not self.total:
      self._first = where
    self.total += 1
    for name in self._there:
      if name not in columns:
        self._lacking.setdefault(name, where)
    for entry in self._entries:
      if entry.kind == 'text':
        self._add(entry, dict(columns), where)

  def columns(self) -> list[str]:
    """Those that any record has."""
    return list(self._there)

  def _add(self, entry: Entry, columns: dict[str, Any], where: str) -> None:
    check = texts.CHECKS.get(entry.name)
    if check is not None:
      check(columns, **entry.params)
    found = texts.judges_by(entry.name, columns, entry.params)
    if found is None:
      self._without[entry.label].add(where)
    elif not found:
      self._blank[entry.label].add(where)

  def check(self, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of what is empty in some records.

    needs  {label: columns that a function of one's own has to be given}

    Raises:
      ValueError: a column that is not there, in all records or in some, with
        the nearest one or the first place; one that is empty in all of them;
        one that has the name of a hyperparameter.
    """
    lines: list[str] = []
    for entry in self._entries if self.total else ():
      if entry.kind == 'own':
        lines += self._own(entry, needs.get(entry.label, ()))
      elif 'column' in entry.params:
        lines += self._read(entry)
    return lines

  def _own(self, entry: Entry, needs: Sequence[str]) -> Iterator[str]:
    taken = [key for key in entry.params if key in self._there]
    if taken:
      raise ValueError(
        f'{self.name}: "{taken[0]}" is a column and a hyperparameter of reward '
        f'"{entry.name}": rename one of them'
      )
    for name in needs:
      said = f'column "{name}", which reward "{entry.name}" needs'
      if name not in self._there:
        raise ValueError(
          f'{self.name}: no {said}.' + nearest(name, self._there)
        )
      lacking = self.total - self._there[name]
      if lacking:
        raise ValueError(
          f'{self.name}: {lacking:,} of {self.total:,} records have no {said}; '
          f'first: {self._lacking[name]}'
        )
      # What it makes of an empty one is its own affair.
      if not self._filled[name]:
        yield f'{self.name}: {said}, is null or empty in all records'

  def _read(self, entry: Entry) -> Iterator[str]:
    name = entry.params['column']
    wanted = (name,) if name else texts.common.ANSWERS
    said = f'which reward "{entry.name}" reads'
    without, blank = self._without[entry.label], self._blank[entry.label]
    if without.number == self.total:
      raise ValueError(
        f'{self.name}: no column {texts.common.either(wanted)}, {said}; name '
        'one by its "column".' + nearest(wanted[-1], self._there)
      )
    if without.number:
      raise ValueError(
        f'{self.name}: {without.number:,} of {self.total:,} records have no '
        f'column {texts.common.either(wanted)}, {said}; first: {without.first}'
      )
    there = [x for x in wanted if self._there[x]]
    other = READS.get(entry.name)
    state = f'null, empty or {other}' if other else 'null or empty'
    column = f'column {texts.common.either(there)}, {said}, is {state}'
    if blank.number == self.total:
      records = (
        f'all {self.total:,} records' if self.total > 1 else 'the record'
      )
      raise ValueError(
        f'{self.name}: {column} in {records}: no answer could be right; name '
        f'another by its "column".{self._others(there)}'
      )
    if blank.number:
      yield (
        f'{self.name}: {column} in {blank.number:,} of {self.total:,} records: '
        f'it does not apply to their answers; first: {blank.first}'
      )

  def _others(self, there: Sequence[str]) -> str:
    """Columns that have something in every record."""
    full = [
      name
      for name, count in self._filled.items()
      if count == self.total and name not in there
    ]
    return f' Valid: {", ".join(sorted(full)[:MOST])}' if full else ''
