"""What a data set will do to a run, counted before the run starts.

Every record is read and its columns are checked, so that no bad line ends a
run halfway. Truncated answers, empty loss masks and dropped examples train
nothing and say nothing; here they are counted, with the first few places.
"""

import functools
from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import formats, packing, records
from posttrain_jax.data.sources import Source, in_order
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['format_report', 'preflight', 'warnings']

QUANTILES = {'min': 0.0, 'p50': 0.5, 'p90': 0.9, 'p99': 0.99, 'max': 1.0}
PLACES = 3  # first examples named for each finding
# Findings by their names in a report; n is 'HOW MANY of HOW MANY records'.
TEXTS = {
  'errors': '{n} are too long: the run will stop there (overlong="error")',
  'dropped': '{n} are too long: dropped',
  'truncated': '{n} are too long: the end is cut off',
  'cut_answers': '{n} lose answer tokens by that cut',
  'empty_loss': 'no token is trained for {n}',
  'equal_pairs': '{n} have a rejected answer that equals the chosen one',
  'rewritten': (
    '{n} have earlier answers that the chat template writes otherwise later '
    'on: these are not trained'
  ),
  'merged': (
    '{n} have a token that reaches from the prompt into its answer: a model is '
    'asked with other tokens there'
  ),
}


def _sequences(example: dict[str, Any]) -> list[dict[str, Any]]:
  if example['kind'] == 'preference':
    return [example['chosen'], example['rejected']]
  return [example]


def _row_use(lengths: list[int], max_length: int) -> dict[str, float]:
  """Share of row slots that hold a token, one example per row and packed."""
  groups = packing.best_fit_decreasing(lengths, max_length)
  tokens = float(sum(lengths))
  return {
    'padded': tokens / (max_length * max(len(lengths), 1)),
    'packed': tokens / (max_length * max(len(groups), 1)),
  }


class _Count:
  """Findings and lengths of the examples looked at."""

  def __init__(self, kind: str, overlong: str):
    self.kind, self.overlong = kind, overlong
    self.findings = dict.fromkeys(TEXTS, 0)
    self.places: dict[str, list[str]] = {name: [] for name in TEXTS}
    self.lengths: list[int] = []
    self.kept_lengths: list[int] = []
    self.looked = self.kept = self.loss_tokens = 0

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
    self.kept += 1
    self.kept_lengths.extend(len(part['tokens']) for part in parts)
    counted = [np.count_nonzero(part['loss_mask']) for part in parts]
    self.loss_tokens += int(sum(counted))
    if self.kind != 'prompt' and not all(counted):
      self.found('empty_loss', where)
    elif len(parts) == 2 and parts[0]['tokens'] == parts[1]['tokens']:
      self.found('equal_pairs', where)
    for note in sorted({note for part in parts for note in part['notes']}):
      self.found(note, where)


def _check_kind(
  record: dict, kind: str, where: str, template: Any, first: str
) -> None:
  """The record is checked, and is not of another kind than the first."""
  records.check(record, kind, where, template)
  other = records.kind_of(record, where)
  if other != kind:
    raise ValueError(
      f'{where}: kind "{other}" by its columns, after kind "{kind}" at '
      f'{first}; a data set holds records of one kind'
    )


def preflight(
  source: Source,
  tokenizer: Tokenizer,
  *,
  max_length: int,
  kind: str | None = None,
  overlong: str = 'error',
  limit: int | None = None,
) -> dict[str, Any]:
  """Checks every record, tokenises as `make_iterator` would, and counts.

  kind   one of `formats.KINDS`; None: as the first record, and all alike
  limit  examples to tokenise, spread evenly over the source; None: all

  Returns a dict that JSON can hold:
    kind, overlong, max_length, num_records (in the source)
    examples     tokenised;   kept = examples - dropped - errors
    dropped, truncated, errors   over `max_length`, by `overlong`
    cut_answers  truncated examples that lose tokens that are trained
    empty_loss   kept examples (or a side of them) of which no token is trained
    equal_pairs  preference examples whose two sides are the same tokens
    tokens, loss_tokens          over the kept ones, after truncation
    lengths      min, p50, p90, p99, max of tokens before truncation
    row_use      share of tokens in rows, {padded, packed}
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
  first = source[0]
  check = records.check
  if kind is None:
    kind = formats.kind_of(first.columns, first.where)
    check = functools.partial(_check_kind, first=first.where)
  formats.check_columns(first.columns, kind, first.where)
  size = len(source)
  looks = size if limit is None else min(limit, size)
  looked_at = {look * size // looks for look in range(looks)}
  count = _Count(kind, overlong)
  for record in in_order(source):
    check(record.columns, kind, record.where, tokenizer.template)
    if record.index in looked_at:
      example = formats.tokenize(
        record.columns,
        tokenizer,
        kind=kind,
        max_length=max_length,
        overlong='truncate',
        where=record.where,
      )
      count.add(example, record.where)
  quantiles = np.quantile(
    count.lengths, list(QUANTILES.values()), method='higher'
  )
  return {
    'kind': kind,
    'overlong': overlong,
    'max_length': max_length,
    'num_records': size,
    'examples': count.looked,
    'kept': count.kept,
    **count.findings,
    'tokens': sum(count.kept_lengths),
    'loss_tokens': count.loss_tokens,
    'lengths': dict(zip(QUANTILES, quantiles.tolist())),
    'row_use': _row_use(count.kept_lengths, max_length),
    'places': {name: where for name, where in count.places.items() if where},
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
  lines = [
    f'{report["examples"]} of {report["num_records"]} records looked at, '
    f'kind "{report["kind"]}": {report["kept"]} kept',
    'lengths in tokens: '
    + ', '.join(f'{name} {n}' for name, n in report['lengths'].items()),
    f'{report["tokens"]} tokens, {report["loss_tokens"]} of them trained '
    f'({share:.1%}); rows of {report["max_length"]} are '
    f'{report["row_use"]["padded"]:.1%} full, packed '
    f'{report["row_use"]["packed"]:.1%}',
  ]
  return '\n'.join(lines + [f'WARNING {line}' for line in warnings(report)])
