"""The columns that rewards read, as the records of a file have them.

  seen = Seen(entries, 'prompts.jsonl')
  for record in records: seen.add(record.columns, record.where)
  lines = seen.check({'polite': ['tone']})

A right answer that is null, empty or of another kind than a reward reads makes
no answer right: it is told in how many records. In all records of a file it is
refused where nothing else judges them, or where in no file an answer could be
right; a file of several kinds has such columns for the rewards of the others.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain_jax.core.names import nearest
from posttrain_jax.core.resolve import active
from posttrain_jax.rewards import texts, trl
from posttrain_jax.rewards.entries import Entry, verdict_of

__all__ = ['Seen']

# What a reward reads in its column, where null and empty are not all that it
# cannot use.
READS = {'choice_letter': 'no choice', 'numeric_match': 'without a number'}
MOST = 8  # columns that are named in place of an empty one


class _Count:
  """How many records are so, and the first of them: (its number, place)."""

  def __init__(self) -> None:
    self.number, self.first = 0, (0, '')

  def add(self, number: int, where: str) -> None:
    self.first = self.first if self.number else (number, where)
    self.number += 1


def _wanted(entry: Entry) -> tuple[str, ...]:
  """The columns of which an entry reads the first that is there."""
  if entry.kind != 'text' or 'column' not in entry.params:
    return ()
  name = entry.params['column']
  return (name,) if name else texts.common.ANSWERS


class Seen:
  """What records have for the rewards that read them; `total` of them."""

  def __init__(self, entries: Sequence[Entry], name: str):
    """`entries` of a run, all of them; `name` of the file."""
    self.name, self.total = name, 0
    self._entries, self._verdict = tuple(entries), verdict_of(entries)
    self._there: collections.Counter[str] = collections.Counter()
    self._filled: collections.Counter[str] = collections.Counter()
    self._first = (0, '')
    # The first record without it.
    self._lacking: dict[str, tuple[int, str]] = {}
    # Records by which no answer is right: by label of an entry, and column.
    self._blank: dict[tuple[str, str], _Count]
    self._blank = collections.defaultdict(_Count)

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
      self._first = (0, where)
    for name in self._there:
      if name not in columns:
        self._lacking.setdefault(name, (self.total, where))
    for entry in self._entries:
      if entry.kind == 'text':
        self._add(entry, dict(columns), where)
    self.total += 1

  def columns(self) -> list[str]:
    """Those that any record has."""
    return list(self._there)

  def _add(self, entry: Entry, columns: dict[str, Any], where: str) -> None:
    check = texts.CHECKS.get(entry.name)
    if check is not None:
      check(columns, **entry.params)
    for name in _wanted(entry):
      if name in columns and not texts.judges_by(
        entry.name, columns[name], entry.params
      ):
        self._blank[entry.label, name].add(self.total, where)

  def check(
    self, needs: Mapping[str, Sequence[str]], beside: Sequence['Seen'] = ()
  ) -> list[str]:
    """Lines of what is empty in some records.

    needs   {label: columns that a function of one's own has to be given}
    beside  what is seen of all files of the task, this one among them

    Raises:
      ValueError: a column that is not there, in all records or in some, with
        the nearest one or the first place; one that is empty in all of them,
        where no other entry judges this file or it decides what is right in
        all of them; one that has the name of a hyperparameter.
    """
    lines: list[str] = []
    files = [one for one in beside if one.total] or [self]
    for entry in self._entries if self.total else ():
      if entry.kind == 'own':
        lines += self._own(entry, needs.get(entry.label, ()))
      elif _wanted(entry):
        lines += self._read(entry, files)
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
      if name in trl.ARGUMENTS and name not in self._there:
        raise ValueError(
          f'reward "{entry.name}" needs "{name}", which TRL gives from its own '
          f'trainer and nothing here has: give it a default ({name}=None), or '
          'leave it out'
        )
      if name not in self._there:
        raise ValueError(
          f'{self.name}: no {said}.' + nearest(name, self._there)
        )
      lacking = self.total - self._there[name]
      if lacking:
        raise ValueError(
          f'{self.name}: {lacking:,} of {self.total:,} records have no {said}; '
          f'first: {self._lacking[name][1]}'
        )
      # What it makes of an empty one is its own affair.
      if not self._filled[name]:
        yield f'{self.name}: {said}, is null or empty in all records'

  def _blanks(self, entry: Entry, files: Sequence['Seen']) -> int:
    """Records by which an entry finds no answer right."""
    name = _used(entry, files)
    lacking = self.total - self._there[name]
    return lacking + self._blank[entry.label, name].number

  def _judges(self, entry: Entry, files: Sequence['Seen']) -> bool:
    """Whether an entry says of answers to any record what they are worth; what
    looks at their form alone does not, unless that is what decides."""
    if not active(entry.weight):
      return False
    if _wanted(entry):
      return self._blanks(entry, files) < self.total
    measures = entry.kind == 'array' or entry.kind == 'text'
    return entry is self._verdict or not measures

  def _read(self, entry: Entry, files: Sequence['Seen']) -> Iterator[str]:
    wanted, name = _wanted(entry), _used(entry, files)
    said = f'which reward "{entry.name}" reads'
    lacking = self.total - self._there[name]
    # One column at least has to be in all records.
    if lacking and not any(
      all(one._there[x] == one.total for one in files) for x in wanted
    ):
      names = texts.common.either((name,) if name else wanted)
      if lacking == self.total:
        raise ValueError(
          f'{self.name}: no column {names}, {said}; name one by its '
          '"column".' + nearest(wanted[-1], self._there)
        )
      raise ValueError(
        f'{self.name}: {lacking:,} of {self.total:,} records have no column '
        f'{names}, {said}; first: {self._lacking[name][1]}'
      )
    blanks = self._blanks(entry, files)
    if not blanks:
      return
    states = ['missing'] * bool(lacking) + ['null']
    other = READS.get(entry.name)
    state = ', '.join(states + ['empty'] * bool(other))
    state += f' or {other or "empty"}'
    column = f'{self.name}: column "{name}", {said}, is {state}'
    every = blanks == self.total
    records = f'{blanks:,} of {self.total:,} records'
    if every:
      records = f'all {blanks:,} records' if blanks > 1 else 'the record'
    others = [x for x in self._entries if x is not entry]
    alone = not any(self._judges(x, files) for x in others)
    decides = entry is self._verdict and all(
      one._blanks(entry, files) == one.total for one in files
    )
    if every and (alone or decides):
      raise ValueError(
        f'{column} in {records}: no answer could be right; name another by its '
        f'"column".{self._others([name])}'
      )
    firsts = [self._blank[entry.label, name].first] * (blanks > lacking)
    firsts += [self._lacking.get(name, self._first)] * bool(lacking)
    line = f'{column} in {records}: it finds no answer to them right'
    unread = [x for x in wanted if x != name and self._filled[x]]
    if unread:
      line += f', and does not read "{unread[0]}" beside it'
    yield f'{line}; first: {min(firsts)[1]}'

  def _others(self, there: Sequence[str]) -> str:
    """Columns that have something in every record."""
    full = [
      name
      for name, count in self._filled.items()
      if count == self.total and name not in there
    ]
    return f' Valid: {", ".join(sorted(full)[:MOST])}' if full else ''


def _used(entry: Entry, files: Sequence[Seen]) -> str:
  """The column that an entry reads of a task's files, which is one for all of
  them; '' where none is there."""
  there = (x for x in _wanted(entry) if any(one._there[x] for one in files))
  return next(there, '')
