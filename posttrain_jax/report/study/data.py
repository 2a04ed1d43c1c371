"""A study's results: checked key by key, and summed up over seeds.

Values are in the unit of their measure (a measure in % goes from 0 to 100);
null, NaN and infinity are missing values.
"""

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals import statistics

FAMILIES = ('base', 'sft', 'preference', 'rl', 'hybrid', 'other')
OUTCOMES = statistics.OUTCOMES
ACCOUNT = {
  'optimizer_steps': 'optimizer steps',
  'tokens_trained': 'tokens trained on',
  'tokens_generated': 'tokens generated',
  'verifier_calls': 'verifier calls',
  'demonstrations': 'demonstrations',
  'preference_labels': 'preference labels',
  'flops': 'FLOPs',
  'seconds': 'time',
}

# What a dict must hold, and what it may hold.
_STUDY = (
  ('study', 'title', 'question', 'paper_claims', 'setup', 'equal', 'tuning',
   'mode', 'header', 'arms', 'measures', 'figures', 'claims'),
  ('reading', 'not_reproduced', 'comparisons', 'problems'),
)  # fmt: skip
_ARM = (
  ('label', 'family', 'config', 'overrides', 'account', 'values'),
  ('tuned', 'curves', 'outcomes'),
)
_CLAIM = (
  'name', 'paper', 'statement', 'measure', 'arm', 'against', 'direction',
  'margin', 'outcome', 'difference', 'low', 'high', 'p_value', 'rule',
)  # fmt: skip
# What claims judged by older rules lack.
_CLAIM_TOO = (
  'moved', 'at_least', 'checks', 'spread', 'when', 'p_opposite', 'shown',
  'tuned',
)  # fmt: skip
_PROBLEMS = ('drawn', 'test', 'validation', 'shared')
_COMPARISON = (
  'arm', 'against', 'measure', 'difference', 'low', 'high', 'p_value',
  'effect_size',
)  # fmt: skip
_FIGURES = {
  'frontier': (('x', 'y'), ()),
  'bars': (('measures',), ()),
  'curves': (('measure',), ()),
  'heatmap': (
    ('rows', 'columns', 'values'),
    ('low', 'high', 'unit', 'xlabel', 'ylabel'),
  ),
  'lines': (('xlabel', 'ylabel', 'series'), ('logx',)),
}


def load(results: Mapping[str, Any] | str | os.PathLike) -> dict[str, Any]:
  """The results of one study, checked.

  Args:
    results: the dict, or the path of its JSON file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not JSON, or a key or value that is missing, unknown or of the
      wrong kind; the message names it and the nearest valid one.
  """
  if isinstance(results, Mapping):
    return check(results)
  path = Path(results)
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  return check(content, f'{path}: ')


def check(results: Mapping[str, Any], where: str = '') -> dict[str, Any]:
  """Raises ValueError, after `where`, for the first thing that is wrong."""
  try:
    return _check(results)
  except ValueError as error:
    raise ValueError(f'{where}{error}') from None


def _check(results: Mapping[str, Any]) -> dict[str, Any]:
  _keys('the results', results, *_STUDY)
  for key in ('study', 'title', 'question', 'equal', 'tuning'):
    _string(key, results[key])
  for key in ('paper_claims', 'setup', 'reading', 'not_reproduced'):
    for index, text in enumerate(_list(key, results.get(key, []))):
      _string(f'{key}[{index}]', text)
  _choice('mode', results['mode'], ('full', 'reduced'))
  header = _keys('header', results['header'], ('seeds',), None)
  count = len(_list('header.seeds', header['seeds']))
  measures = _keys('measures', results['measures'], (), None)
  for name, measure in measures.items():
    where = f'measures.{name}'
    _keys(where, measure, ('label', 'unit', 'better', 'digits'))
    _string(f'{where}.label', measure['label'])
    _string(f'{where}.unit', measure['unit'])
    _choice(f'{where}.better', measure['better'], ('higher', 'lower', ''))
    if not isinstance(measure['digits'], int) or measure['digits'] < 0:
      raise ValueError(
        f'{where}.digits is a whole number from 0 on, not {measure["digits"]!r}'
      )
  if not _keys('arms', results['arms'], (), None):
    raise ValueError('arms is empty')
  for name, arm in results['arms'].items():
    _arm(f'arms.{name}', arm, measures, count)
  for name, counts in (results.get('problems') or {}).items():
    _numbers(
      f'problems.{name}',
      list(_keys(f'problems.{name}', counts, _PROBLEMS).values()),
    )
  names = set()
  for index, figure in enumerate(_list('figures', results['figures'])):
    _figure(f'figures[{index}]', figure, results)
    if figure['name'] in names:
      raise ValueError(f'two figures are called "{figure["name"]}"')
    names.add(figure['name'])
  for index, claim in enumerate(_list('claims', results['claims'])):
    where = f'claims[{index}]'
    _keys(where, claim, _CLAIM, _CLAIM_TOO)
    _choice(f'{where}.when', claim.get('when', 'before'), ('before', 'after'))
    _string(f'{where}.statement', claim['statement'])
    _choice(f'{where}.outcome', claim['outcome'], OUTCOMES)
    _pair(where, claim, results)
  for index, item in enumerate(
    _list('comparisons', results.get('comparisons', []))
  ):
    where = f'comparisons[{index}]'
    _keys(where, item, _COMPARISON)
    _pair(where, item, results)
    _numbers(f'{where}.effect_size', [item['effect_size']])
  return dict(results)


def _arm(where: str, arm: Any, measures: Mapping, count: int) -> None:
  _keys(where, arm, *_ARM)
  _string(f'{where}.label', arm['label'])
  _choice(f'{where}.family', arm['family'], FAMILIES)
  _keys(f'{where}.account', arm['account'], (), tuple(ACCOUNT))
  _keys(f'{where}.overrides', arm['overrides'], (), None)
  for key, value in arm['account'].items():
    _numbers(f'{where}.account.{key}', [value])
  _keys(f'{where}.values', arm['values'], (), tuple(measures))
  for name, values in arm['values'].items():
    _numbers(f'{where}.values.{name}', values)
    if len(values) != count:
      raise ValueError(
        f'{where}.values.{name} has {len(values)} values for {count} seeds'
      )
  for key, tuned in (arm.get('tuned') or {}).items():
    _keys(f'{where}.tuned.{key}', tuned, ('grid', 'chosen'))
  curves = arm.get('curves') or {}
  _keys(f'{where}.curves', curves, (), tuple(measures))
  for name, curve in curves.items():
    at = f'{where}.curves.{name}'
    _keys(at, curve, ('x', 'y'), ('xlabel',))
    _numbers(f'{at}.x', curve['x'])
    for seed, y in enumerate(_list(f'{at}.y', curve['y'])):
      _numbers(f'{at}.y[{seed}]', y)
      if len(y) != len(curve['x']):
        raise ValueError(
          f'{at}.y[{seed}] has {len(y)} values for {len(curve["x"])} x'
        )


def _figure(where: str, figure: Any, results: Mapping) -> None:
  if not isinstance(figure, Mapping) or 'kind' not in figure:
    raise ValueError(f'{where}: no "kind".{nearest("", _FIGURES)}')
  _choice(f'{where}.kind', figure['kind'], _FIGURES)
  required, optional = _FIGURES[figure['kind']]
  _keys(
    where, figure, ('kind', 'name', 'title', *required), ('caption', *optional)
  )
  name = _string(f'{where}.name', figure['name'])
  where = f'{where} ({name})'
  if not name or set(name) & set('/\\') or name.startswith('.'):
    raise ValueError(f'{where}: the name is a file name without folder')
  _string(f'{where}.title', figure['title'])
  for key in ('x', 'y', 'measure'):
    if key in figure:
      _choice(f'{where}.{key}', figure[key], results['measures'])
  for name in _list(f'{where}.measures', figure.get('measures', [])):
    _choice(f'{where}.measures', name, results['measures'])
  if figure['kind'] == 'heatmap':
    _heatmap(where, figure)
  if figure['kind'] == 'lines':
    for label, series in _keys(where, figure['series'], (), None).items():
      at = f'{where}.series.{label}'
      _keys(at, series, ('x', 'y'))
      _numbers(f'{at}.x', series['x'])
      if len(_list(f'{at}.y', series['y'])) != len(series['x']):
        raise ValueError(
          f'{at}.y has {len(series["y"])} entries for {len(series["x"])} x'
        )
      for index, values in enumerate(series['y']):
        _numbers(f'{at}.y[{index}]', values)


def _heatmap(where: str, figure: Mapping) -> None:
  rows, columns = figure['rows'], figure['columns']
  values = _list(f'{where}.values', figure['values'])
  if len(values) != len(rows) or not rows or not columns:
    raise ValueError(
      f'{where}: {len(values)} rows of values for {len(rows)} rows, '
      f'{len(columns)} columns'
    )
  for index, row in enumerate(values):
    _numbers(f'{where}.values[{index}]', row)
    if len(row) != len(columns):
      raise ValueError(
        f'{where}.values[{index}] has {len(row)} values for {len(columns)} '
        'columns'
      )
  _numbers(f'{where}.low and .high', [figure.get('low'), figure.get('high')])


def _pair(where: str, item: Mapping, results: Mapping) -> None:
  for key, table in (
    ('arm', 'arms'), ('against', 'arms'), ('measure', 'measures')
  ):  # fmt: skip
    if item[key] is not None:
      _choice(f'{where}.{key}', item[key], results[table])
  for key in ('difference', 'low', 'high', 'p_value'):
    _numbers(f'{where}.{key}', [item[key]])


def _keys(
  where: str,
  value: Any,
  required: Sequence[str],
  optional: Sequence[str] | None = (),
) -> Mapping:
  """Checks a dict's keys; `optional` None allows any further ones."""
  if not isinstance(value, Mapping):
    raise ValueError(f'{where} is a dict, not {_kind(value)}')
  if optional is not None:
    for key in value:
      if key not in required and key not in optional:
        raise ValueError(
          f'{where}: unknown key "{key}".{nearest(key, [*required, *optional])}'
        )
  for key in required:
    if key not in value:
      raise ValueError(f'{where}: no "{key}".{nearest(key, value)}')
  return value


def _choice(where: str, value: Any, choices: Iterable[str]) -> None:
  if value not in list(choices):
    raise ValueError(f'{where}: no "{value}".{nearest(str(value), choices)}')


def _string(where: str, value: Any) -> str:
  if not isinstance(value, str):
    raise ValueError(f'{where} is text, not {_kind(value)}')
  return value


def _list(where: str, value: Any) -> Sequence:
  if not isinstance(value, (list, tuple)):
    raise ValueError(f'{where} is a list, not {_kind(value)}')
  return value


def _numbers(where: str, values: Any) -> None:
  for index, value in enumerate(_list(where, values)):
    if value is not None and (
      isinstance(value, bool) or not isinstance(value, (int, float))
    ):
      raise ValueError(
        f'{where}: value {index + 1} is a number or null, not {_kind(value)}'
      )


def _kind(value: Any) -> str:
  return f'{type(value).__name__} {str(value)[:40]!r}'


def counted(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """The claims that were written before the run; others are in no count."""
  return [x for x in results['claims'] if x.get('when', 'before') == 'before']


def numbers(values: Iterable[float | None]) -> np.ndarray:
  """float array in which every missing value is NaN."""
  array = np.array([math.nan if v is None else v for v in values], float)
  return np.where(np.isfinite(array), array, np.nan)


def summarize(
  values: Iterable[float | None],
) -> tuple[float, float, float] | None:
  """(mean, low, high) of the values that are there; None if there are none.

  The bounds are NaN where one value alone says nothing of its spread.
  """
  kept = numbers(values)
  kept = tuple(float(x) for x in kept[np.isfinite(kept)])
  return _interval(kept) if kept else None


@functools.cache
def _interval(values: tuple[float, ...]) -> tuple[float, float, float]:
  if len(values) == 1:
    return values[0], math.nan, math.nan
  found = statistics.interval(np.array(values))
  return float(found.mean), float(found.low), float(found.high)


def number(value: float | None, digits: int, sign: bool = False) -> str:
  """Fixed digits with a real minus sign; a dash for a missing value."""
  if value is None or not math.isfinite(value):
    return '–'
  text = f'{value:+,.{digits}f}' if sign else f'{value:,.{digits}f}'
  if not text.strip('+-0.,'):  # no sign on what rounds to zero
    text = text.lstrip('+-')
  return text.replace('-', '−')


def column_name(measure: Mapping[str, Any]) -> str:
  """Label, unit and the good direction: at no number under it they recur."""
  unit = f',\u00a0{measure["unit"]}' if measure['unit'] else ''
  arrow = {'higher': '\u00a0↑', 'lower': '\u00a0↓', '': ''}[measure['better']]
  return f'{measure["label"]}{unit}{arrow}'
