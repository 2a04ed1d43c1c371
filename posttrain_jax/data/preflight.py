"""What a data set will do to a run, counted before the run starts.

Every record is read and its columns are checked, so that no bad line ends a
run halfway. Truncated answers, empty loss masks and dropped examples train
nothing and say nothing; here they are counted, with the first few places.
"""

import array
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import chat, formats, packing, records
from posttrain_jax.data.bad_rows import BadRows
from posttrain_jax.data.rows import (
  Failed,
  Record,
  Source,
  attempt,
  leaves,
  row_of,
  walk,
)
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = [
  'Checked',
  'first_kinds',
  'first_records',
  'format_report',
  'kinds_of',
  'preflight',
  'warnings',
]

QUANTILES = {'min': 0.0, 'p50': 0.5, 'p90': 0.9, 'p99': 0.99, 'max': 1.0}
PLACES = 3  # first examples named for each finding
PACKED = 2**17  # examples that are packed to see how full rows would be
# Kinds of records that one run can hold: their batches are alike.
TOGETHER = ('text', 'messages', 'completion')
# Findings by their names in a report; n is 'HOW MANY of HOW MANY records'.
TEXTS = {
  'errors': '{n} are too long: the run will stop there (overlong="error")',
  'dropped': '{n} are too long: dropped',
  'truncated': '{n} are too long: the end is cut off',
  'cut_answers': '{n} lose answer tokens by that cut',
  'empty_loss': 'no token is trained for {n}',
  'equal_pairs': '{n} have a rejected answer that equals the chosen one',
  'all_true': '{n} have label=true, and none has false: the loss is of good '
  'answers alone, and has none to tell them from',
  'all_false': '{n} have label=false, and none has true: the loss is of bad '
  'answers alone, and has none to tell them from',
  **chat.TOLD,
}


def _sequences(example: dict[str, Any]) -> list[dict[str, Any]]:
  if example['kind'] == 'preference':
    return [example['chosen'], example['rejected']]
  return [example]


class _Count:
  """Findings and lengths of the examples looked at."""

  def __init__(self, overlong: str):
    self.overlong = overlong
    self.findings = dict.fromkeys(TEXTS, 0)
    self.places: dict[str, list[str]] = {name: [] for name in TEXTS}
    self.lengths = array.array('q')
    self.looked = self.kept = self.tokens = self.loss_tokens = 0
    # Of the first PACKED examples: what each takes of a row, and all of them.
    self.sizes, self.sized_tokens, self.sides = array.array('q'), 0, 1

  def found(self, name: str, where: str) -> None:
    self.findings[name] += 1
    if len(self.places[name]) < PLACES:
      self.places[name].append(where)

  def add(self, example: dict[str, Any], where: str) -> None:
    """Counts an example that was tokenised with overlong='truncate'."""
    parts = _sequences(example)
    self.looked += 1
    self.lengths.extend(part['full_length'] for part in parts)
    if any(part['truncated'] for part in parts):
      finding = {'error': 'errors', 'drop': 'dropped', 'truncate': 'truncated'}
      self.found(finding[self.overlong], where)
      if self.overlong != 'truncate':
        return
      if any(part['lost'] for part in parts):
        self.found('cut_answers', where)
    self.kept, self.sides = self.kept + 1, len(parts)
    tokens = sum(len(part['tokens']) for part in parts)
    self.tokens += tokens
    if len(self.sizes) < PACKED:
      self.sizes.append(packing.size_of(example))
      self.sized_tokens += tokens
    counted = [np.count_nonzero(part['loss_mask']) for part in parts]
    self.loss_tokens += int(sum(counted))
    if example['kind'] != 'prompt' and not all(counted):
      self.found('empty_loss', where)
    elif len(parts) == 2 and parts[0]['tokens'] == parts[1]['tokens']:
      self.found('equal_pairs', where)
    if example['kind'] == 'unpaired':
      self.found('all_true' if example['label'] else 'all_false', where)
    for note in sorted({note for part in parts for note in part['notes']}):
      self.found(note, where)

  def report(self, max_length: int) -> dict[str, Any]:
    """What `preflight` returns of the examples that were added."""
    labels = ('all_true', 'all_false')
    if all(self.findings[name] for name in labels):  # as it should be
      self.findings |= dict.fromkeys(labels, 0)
      self.places |= {name: [] for name in labels}
    quantiles = np.quantile(
      self.lengths, list(QUANTILES.values()), method='higher'
    )
    return {
      'overlong': self.overlong,
      'max_length': max_length,
      'examples': self.looked,
      'kept': self.kept,
      **self.findings,
      'tokens': self.tokens,
      'loss_tokens': self.loss_tokens,
      'lengths': dict(zip(QUANTILES, quantiles.tolist())),
      'row_use': self._row_use(max_length),
      'places': {name: where for name, where in self.places.items() if where},
    }

  def _row_use(self, max_length: int) -> dict[str, float]:
    """Share of row slots that hold a token, one example per row and packed."""
    groups = packing.groups_of(self.sizes, max_length, self.sides == 2)
    room = max_length * self.sides
    return {
      'padded': self.tokens / (room * max(self.kept, 1)),
      'packed': self.sized_tokens / (room * max(len(groups), 1)),
    }


def _first_kind(source: Source, rows: BadRows) -> tuple[str, Record]:
  """(kind, record) of the first record of a source that has one."""
  told = ''
  for index in range(len(source)):
    found = attempt(source, index)
    try:
      if isinstance(found, Failed):
        raise ValueError(found.message)
      return records.kind_of(found.columns, found.where), found
    except ValueError as error:
      if rows.rule == 'error':
        raise
      told = told or str(error)
  raise ValueError(f'{told}; and none of {len(source):,} records is any better')


def first_records(
  source: Source, bad: BadRows | None = None
) -> list[tuple[str, Record]]:
  """(kind, record) of the first record of each part of a source.

  bad  with a rule that leaves rows out, the first record that has a kind counts

  Raises:
    ValueError: a first record of no kind.
  """
  rows = BadRows('error') if bad is None else bad
  return [_first_kind(leaf, rows) for leaf in leaves(source)]


def first_kinds(
  source: Source, bad: BadRows | None = None
) -> list[tuple[str, str]]:
  """(kind, place) of the first record of each part; as `first_records`."""
  return [(kind, x.where) for kind, x in first_records(source, bad)]


def kinds_of(source: Source, bad: BadRows | None = None) -> list[str]:
  """The kind of each part of a source, by its first record (`first_kinds`).

  Raises:
    ValueError: kinds that one run cannot hold, or a first record of none.
  """
  found = first_kinds(source, bad)
  kinds = [kind for kind, _ in found]
  for kind, where in found[1:]:
    if kind != kinds[0] and not {kind, kinds[0]} <= set(TOGETHER):
      raise ValueError(
        f'{where}: kind "{kind}", after kind "{kinds[0]}" at {found[0][1]}; '
        f'one run can hold several of {", ".join(TOGETHER)}, else one kind'
      )
  return kinds


class Checked:
  """What each record of a source has to be: of the kind of the first one of its
  part, by its columns."""

  def __init__(
    self,
    source: Source,
    tokenizer: Tokenizer,
    kind: str | None = None,
    bad: BadRows | None = None,
  ):
    """`kind`: of all of them, whatever else their columns would make of one.

    Raises:
      ValueError: as `first_kinds`.
    """
    self._template = tokenizer.template
    parts = leaves(source)
    self.first = [(kind, '')] * len(parts)
    if kind is None:
      self.first = first_kinds(source, bad)
    self._ends = np.cumsum([len(leaf) for leaf in parts])

  def read(self, record: Record) -> tuple[str, dict[str, Any]]:
    """(kind, what `records.check` gives) of a record of the source.

    Raises:
      ValueError: what is wrong with it.
    """
    part = int(np.searchsorted(self._ends, record.index, side='right'))
    kind, first = self.first[part]
    found = records.check(record.columns, kind, record.where, self._template)
    other = records.kind_of(record.columns, record.where) if first else kind
    if other != kind:
      raise ValueError(
        f'{record.where}: kind "{other}" by its columns, after kind "{kind}" '
        f'at {first}; a data set holds records of one kind (each entry of '
        'data.sources has its own)'
      )
    return kind, found


@dataclasses.dataclass
class _Look:
  """A look at a source; the fields are what `preflight` is called with."""

  source: Source
  tokenizer: Tokenizer
  max_length: int
  kind: str | None
  overlong: str
  rows: BadRows

  def __post_init__(self):
    self.checked = Checked(self.source, self.tokenizer, self.kind, self.rows)
    # What is too long is a bad row where a rule says what becomes of these.
    strict = self.rows.rule != 'error' and self.overlong == 'error'
    self._overlong = 'error' if strict else 'truncate'

  def _example(self, record: Record, tokenise: bool) -> dict[str, Any] | None:
    kind, read = self.checked.read(record)
    if not tokenise:
      return None
    return formats.tokenize(
      record.columns,
      self.tokenizer,
      kind=kind,
      max_length=self.max_length,
      overlong=self._overlong,
      where=record.where,
      read=read,
    )

  def __call__(
    self, limit: int | None, everything: bool
  ) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(place, example) of every good row; None for one that is only checked."""
    size = len(self.source)
    looks = size if limit is None else min(limit, size)
    chosen = sorted({look * size // looks for look in range(looks)})
    found_rows: Iterable[Record | Failed] = walk(self.source)
    if not everything:
      found_rows = (attempt(self.source, index) for index in chosen)
    tokenised = set(chosen)
    for found in found_rows:
      row = functools.partial(row_of, self.source, found)
      if isinstance(found, Failed):
        self.rows.take(found.index, found.message, row)
        continue
      try:
        example = self._example(found, found.index in tokenised)
      except ValueError as error:
        self.rows.take(found.index, str(error), row, found.where)
        continue
      yield found.where, example


def preflight(
  source: Source,
  tokenizer: Tokenizer,
  *,
  max_length: int,
  kind: str | None = None,
  overlong: str = 'error',
  limit: int | None = None,
  everything: bool = True,
  bad: BadRows | None = None,
  pause: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Checks every record, tokenises as `make_iterator` would, and counts.

  kind        one of `formats.KINDS`; None: as the first record of each part of
              the source, whose records are all alike
  limit       examples to tokenise, spread evenly over the source; None: all
  everything  whether the records that are not tokenised are checked, too
  bad         what is done with bad rows, to which those that are too long
              belong where `overlong` is 'error'; None: the first one is raised,
              and those that are too long are counted
  pause       called after every record

  Returns a dict that JSON can hold:
    kind, overlong, max_length, num_records (in the source)
    examples     tokenised;   kept = examples - dropped - errors
    bad          rows that are left out
    dropped, truncated, errors   over `max_length`, by `overlong`
    cut_answers  truncated examples that lose tokens that are trained
    empty_loss   kept examples (or a side of them) of which no token is trained
    equal_pairs  preference examples whose two sides are the same tokens
    all_true, all_false   kept unpaired examples, where all have that label
    tokens, loss_tokens          over the kept ones, after truncation
    lengths      min, p50, p90, p99, max of tokens before truncation
    row_use      share of tokens in rows, {padded, packed}; packed is of the
                 first PACKED examples
    places       first few places of each finding

  Raises:
    ValueError: a record that cannot be read or tokenised at any length, that
      is empty, or that is of another kind than the first.
  """
  if overlong not in formats.OVERLONG:
    raise ValueError(
      f'unknown overlong "{overlong}".{nearest(overlong, formats.OVERLONG)}'
    )
  if max_length < 2:
    raise ValueError(
      f'max_length={max_length} must be at least 2 tokens: nothing predicts '
      'the first of a row'
    )
  rows = BadRows('error') if bad is None else bad
  count = _Count(overlong)
  if kind is None:
    kinds_of(source, bad)  # whether they go together
  before = len(rows)
  look = _Look(source, tokenizer, max_length, kind, overlong, rows)
  for where, example in look(limit, everything):
    pause()
    if example is not None:
      count.add(example, where)
  if not count.looked:
    told = '; '.join(rows.lines(len(source)))
    raise ValueError(
      f'none of {len(source):,} records can be trained on: {told}'
    )
  report = count.report(max_length)
  return {
    'kind': '+'.join(sorted({kind for kind, _ in look.checked.first})),
    'num_records': len(source),
    'bad': len(rows) - before,
    **report,
  }


def warnings(report: dict[str, Any]) -> list[str]:
  """What a report found, a line each: how many of how many, and where first."""
  return [
    text.format(n=f'{report[name]:,} of {report["examples"]:,} records')
    + f'; first: {", ".join(report["places"][name])}'
    for name, text in TEXTS.items()
    if report[name]
  ]


def format_report(report: dict[str, Any]) -> str:
  """A preflight report for people."""
  share = report['loss_tokens'] / max(report['tokens'], 1)
  bad = f', {report["bad"]} bad rows left out' if report['bad'] else ''
  lines = [
    f'{report["examples"]} of {report["num_records"]} records looked at, '
    f'kind "{report["kind"]}": {report["kept"]} kept{bad}',
    'lengths in tokens: '
    + ', '.join(f'{name} {n}' for name, n in report['lengths'].items()),
    f'{report["tokens"]} tokens, {report["loss_tokens"]} of them trained '
    f'({share:.1%}); rows of {report["max_length"]} are '
    f'{report["row_use"]["padded"]:.1%} full, packed '
    f'{report["row_use"]["packed"]:.1%}',
  ]
  return '\n'.join(lines + [f'WARNING {line}' for line in warnings(report)])
