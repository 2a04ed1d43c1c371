"""What a data set will do to a run, counted before the run starts.

Truncated answers, empty loss masks and dropped examples train nothing and say
nothing; here they are counted, with the first few places of each.
"""

from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.data import formats, packing
from posttrain_jax.data.sources import Source
from posttrain_jax.data.tokenizers import Tokenizer

__all__ = ['format_report', 'preflight']

QUANTILES = {'min': 0.0, 'p50': 0.5, 'p90': 0.9, 'p99': 0.99, 'max': 1.0}
PLACES = 3  # first examples named for each finding


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


def preflight(
  source: Source,
  tokenizer: Tokenizer,
  *,
  max_length: int,
  kind: str | None = None,
  overlong: str = 'error',
  limit: int | None = None,
) -> dict[str, Any]:
  """Tokenises a data set as `make_iterator` would, and counts.

  limit  examples to look at, spread evenly over the source; None: all

  Returns a dict that JSON can hold:
    kind, overlong, max_length, num_records (in the source)
    examples     looked at;   kept = examples - dropped - errors
    dropped, truncated, errors   over `max_length`, by `overlong`
    empty_loss   kept examples of which no token is trained
    tokens, loss_tokens          over the kept ones, after truncation
    lengths      min, p50, p90, p99, max of tokens before truncation
    row_use      share of tokens in rows, {padded, packed}
    places       first few places of each finding

  Raises:
    ValueError: a record that cannot be read or tokenised at any length.
  """
  if overlong not in formats.OVERLONG:
    raise ValueError(
      f'unknown overlong "{overlong}".{nearest(overlong, formats.OVERLONG)}'
    )
  kind = kind or formats.kind_of(source[0].columns, source[0].where)
  size = len(source)
  looks = size if limit is None else min(limit, size)
  finding = {'error': 'errors', 'drop': 'dropped', 'truncate': 'truncated'}
  findings = {'errors': 0, 'dropped': 0, 'truncated': 0, 'empty_loss': 0}
  places: dict[str, list[str]] = {name: [] for name in findings}
  lengths, kept_lengths, kept, loss_tokens = [], [], 0, 0

  def found(name: str, where: str) -> None:
    findings[name] += 1
    if len(places[name]) < PLACES:
      places[name].append(where)

  for look in range(looks):
    record = source[look * size // looks]
    example = formats.tokenize(
      record.columns,
      tokenizer,
      kind=kind,
      max_length=max_length,
      overlong='truncate',
      where=record.where,
    )
    parts = _sequences(example)
    lengths.extend(part['full_length'] for part in parts)
    if any(part['truncated'] for part in parts):
      found(finding[overlong], record.where)
      if overlong != 'truncate':
        continue
    kept += 1
    kept_lengths.extend(len(part['tokens']) for part in parts)
    counted = [np.count_nonzero(part['loss_mask']) for part in parts]
    loss_tokens += int(sum(counted))
    if kind != 'prompt' and not all(counted):
      found('empty_loss', record.where)
  quantiles = np.quantile(lengths, list(QUANTILES.values()), method='higher')
  return {
    'kind': kind,
    'overlong': overlong,
    'max_length': max_length,
    'num_records': size,
    'examples': looks,
    'kept': kept,
    **findings,
    'tokens': sum(kept_lengths),
    'loss_tokens': loss_tokens,
    'lengths': dict(zip(QUANTILES, quantiles.tolist())),
    'row_use': _row_use(kept_lengths, max_length),
    'places': {name: where for name, where in places.items() if where},
  }


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
  texts = {
    'errors': 'too long: the run will stop there (overlong="error")',
    'dropped': 'too long: dropped',
    'truncated': 'too long: the end cut off',
    'empty_loss': 'of which no token is trained',
  }
  for name, text in texts.items():
    if report[name]:
      first = ', '.join(report['places'][name])
      lines.append(f'WARNING {report[name]} {text}; first: {first}')
  return '\n'.join(lines)
