"""The tables of a study's README: verdicts, tuning, problems, results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain_jax.evals import statistics

__all__ = ['tables']


def tables(found: Mapping[str, Any]) -> str:
  """The verdicts and the results as Markdown, with where they come from.

  found  what results.json holds
  """
  header = found['header']
  seeds = len(header['seeds'])
  lines = [
    f'`{header["command"]}`, commit {header["commit"]}, {header["date"]}, '
    f'{header["hardware"]}, {seeds} seeds, {found["mode"]} mode, '
    f'{header["seconds"] / 60:.0f} minutes.',
  ]
  for when, title in (
    ('before', ''),
    ('after', 'Seen afterwards: claims that were added after a run, and count '
     'for nothing.'),
  ):  # fmt: skip
    claims = [x for x in found['claims'] if x.get('when', 'before') == when]
    if claims:
      lines += ['', *([title, ''] if title else []), *_verdicts(found, claims)]
  lines += ['', *_problems(found), *_results(found)]
  return '\n'.join(lines)


def _verdicts(found: Mapping[str, Any], claims: Sequence[Mapping]) -> list[str]:
  """p is adjusted for all claims; 'shows' is what the seeds could show."""
  lines = [
    '| claim | margin | verdict | difference [95%] | p | shows |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for claim in claims:
    digits = found['measures'][claim['measure']]['digits']
    shown = _with_interval(
      claim['difference'], claim['low'], claim['high'], digits, signed=True
    )
    p, least = _p(claim['p_value']), claim.get('shown')
    power = '–'
    if least is not None and claim['direction'] != 'equal':
      power = f'{claim["margin"] + least:.{digits}f}'
    lines.append(
      f'| {claim["statement"]} | {claim["margin"]:g} | **{claim["outcome"]}** '
      f'| {shown} | {p} | {power} |'
    )
  return lines


def _p(value: float | None) -> str:
  if value is None:
    return '–'
  return '<0.001' if value < 0.001 else f'{value:.3f}'


def _problems(found: Mapping[str, Any]) -> list[str]:
  """How many different problems there are, where that was counted."""
  counts = found.get('problems') or {}
  if not counts:
    return []
  lines = [
    '| problems | test: different of drawn | validation | in both |',
    '| --- | --- | --- | --- |',
  ]
  lines += [
    f'| {name} | {x["test"]} of {x["drawn"]} | {x["validation"]} | '
    f'{x["shared"]} |'
    for name, x in counts.items()
  ]
  return [*lines, '']


def _results(found: Mapping[str, Any]) -> list[str]:
  # Measures that arms have, in the order in which they were written down.
  there = {name for arm in found['arms'].values() for name in arm['values']}
  names = [name for name in found['measures'] if name in there]
  heads = [_head(found['measures'][name]) for name in names]
  lines = [
    f'| arm | {" | ".join(heads)} |',
    '| --- |' + ' --- |' * len(names),
  ]
  for arm in found['arms'].values():
    cells = []
    for name in names:
      values = [x for x in arm['values'].get(name, ()) if x is not None]
      if not values:
        cells.append('–')
        continue
      spread = statistics.interval(values)
      digits = found['measures'][name]['digits']
      cells.append(_with_interval(spread.mean, spread.low, spread.high, digits))
    lines.append(f'| {arm["label"]} | {" | ".join(cells)} |')
  return lines


def _head(measure: Mapping[str, Any]) -> str:
  unit = f', {measure["unit"]}' if measure['unit'] else ''
  return measure['label'] + unit


def _with_interval(
  mean: float | None,
  low: float | None,
  high: float | None,
  digits: int,
  signed: bool = False,
) -> str:
  if mean is None:
    return '–'
  form = f'{"+" if signed else ""}.{digits}f'
  if low is None or high is None or math.isnan(low):
    return f'{mean:{form}}'
  return f'{mean:{form}} [{low:{form}}, {high:{form}}]'
