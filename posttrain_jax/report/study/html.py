"""The parts of a study's page that are HTML: verdicts, badges and tables."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain_jax.log.progress import clock, short
from posttrain_jax.report.study.data import (
  ACCOUNT,
  column_name,
  number,
  numbers,
  summarize,
)
from posttrain_jax.report.study.look import styles_of

# The word says it; sign and colour repeat it.
_OUTCOMES = {
  'reproduced': ('✓', 'Reproduced'),
  'contradicted': ('✗', 'Contradicted'),
  'not seen': ('∅', 'Not seen'),
  'undecided': ('?', 'Undecided'),
  'not testable here': ('–', 'Not testable here'),
}


def text(value: Any) -> str:
  """Escaped for HTML."""
  return html.escape(str(value), quote=True)


def breakable(name: str) -> str:
  """Escaped, and free to break after an underscore."""
  return text(name).replace('_', '_<wbr>')


def badge(outcome: str, name: str = '') -> str:
  """What became of a claim, in a word and a colour."""
  sign, word = _OUTCOMES[outcome]
  after = f' {text(name)}' if name else ''
  return (
    f'<span class="badge {_css(outcome)}">'
    f'<span aria-hidden="true">{sign}</span> {word}{after}</span>'
  )


def _css(outcome: str) -> str:
  return outcome.replace(' ', '-')


def verdicts(results: Mapping[str, Any], when: str = 'before') -> str:
  """One card a claim: its words, what became of it, and the difference.

  when  'before' or 'after': claims that were written then
  """
  cards = ''.join(
    _verdict(claim, results)
    for claim in results['claims']
    if claim.get('when', 'before') == when
  )
  return f'<div class="verdicts">{cards}</div>' if cards else ''


def _verdict(claim: Mapping[str, Any], results: Mapping[str, Any]) -> str:
  measure = results['measures'].get(claim['measure'])
  label = lambda key: results['arms'].get(claim[key], {}).get('label')
  against = f' − {label("against")}' if label('against') else ''
  what = f'{label("arm")}{against}' if label('arm') else ''
  if measure:
    what = f'{measure["label"]}: {what}' if what else measure['label']
  value = _difference(claim, measure)
  bounds = interval(claim, measure)
  paper = f'paper {claim["paper"]}' if claim['paper'] else ''
  notes = [
    what, paper, p_value(claim['p_value'], 'p '), _power(claim, measure),
  ]  # fmt: skip
  return (
    f'<article class="verdict {_css(claim["outcome"])}">'
    f'{badge(claim["outcome"])}'
    f'<p class="statement">{text(claim["statement"])}</p>'
    f'<p class="value">{text(value)}'
    + (f' <small>{text(bounds)}</small>' if bounds else '')
    + '</p>'
    + ''.join(f'<p class="note">{text(note)}</p>' for note in notes if note)
    + (f'<p class="rule">{text(claim["rule"])}</p>' if claim['rule'] else '')
    + '</article>'
  )


def _power(claim: Mapping[str, Any], measure: Mapping | None) -> str:
  """Which difference these seeds would have shown."""
  if claim.get('shown') is None:
    return ''
  digits = (measure or {}).get('digits', 3)
  if claim['direction'] == 'equal':
    return f'margin ±{number(claim["margin"], digits)}'
  least = number(claim['margin'] + claim['shown'], digits)
  return (
    f'margin {number(claim["margin"], digits)}; these seeds would show '
    f'{least} in four of five studies'
  )


def _difference(item: Mapping, measure: Mapping | None) -> str:
  """A signed difference with its unit; two percentages differ by points."""
  digits, unit = (measure or {}).get('digits', 3), (measure or {}).get('unit')
  value = number(item['difference'], digits, sign=True)
  unit = 'points' if unit == '%' else unit
  return f'{value} {unit}' if unit and value != '–' else value


def interval(item: Mapping[str, Any], measure: Mapping | None = None) -> str:
  """'[low, high]', or nothing where neither is known."""
  digits = (measure or {}).get('digits', 3)
  low, high = (number(item[x], digits, sign=True) for x in ('low', 'high'))
  return '' if low == high == '–' else f'[{low}, {high}]'


def p_value(value: float | None, name: str = '') -> str:
  """Three digits; what is smaller is said to be so; '' if it is missing."""
  if value is None or not math.isfinite(value):
    return ''
  if value < 0.001:
    return f'{name}< 0.001' if name else '<0.001'
  return f'{name}= {value:.3f}' if name else f'{value:.3f}'


def table(
  columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = ''
) -> str:
  """A table whose first column stays when it is scrolled sideways.

  Args:
    columns: text.
    rows: HTML, made with `name_cell`, `mean_cell` or `text`; '' is a dash.
    caption: text under it.
  """
  head = ''.join(
    f'<th{"" if index == 0 else " class=number"}>{text(name)}</th>'
    for index, name in enumerate(columns)
  )
  body = ''.join(
    '<tr>'
    + ''.join(
      f'<td{"" if index == 0 else " class=number"}>{cell or "–"}</td>'
      for index, cell in enumerate(row)
    )
    + '</tr>'
    for row in rows
  )
  below = f'<figcaption>{text(caption)}</figcaption>' if caption else ''
  return (
    f'<figure><div class="scroll"><table class="sticky"><thead><tr>{head}</tr>'
    f'</thead><tbody>{body}</tbody></table></div>{below}</figure>'
  )


def names(results: Mapping[str, Any]) -> dict[str, str]:
  """Every arm's name with a dot in the colour that it has in the figures."""
  families = {name: arm['family'] for name, arm in results['arms'].items()}
  light, dark = styles_of(families), styles_of(families, dark=True)
  return {
    name: f'<span class="arm"><span class="dot" '
    f'style="--light: {light[name].color}; --dark: {dark[name].color}"></span>'
    f'<span>{breakable(arm["label"])}</span></span>'
    for name, arm in results['arms'].items()
  }


def account_table(results: Mapping[str, Any]) -> str:
  """What every arm was given; a column that no arm has is left out, and the
  table where that is all of them."""
  arms = results['arms']
  columns = [
    key
    for key in ACCOUNT
    if any(arm['account'].get(key) is not None for arm in arms.values())
  ]
  if not columns:
    return ''
  dotted = names(results)

  def cell(key, value):
    if value is None or not math.isfinite(value):
      return ''
    return text(clock(value) if key == 'seconds' else short(value))

  return table(
    ['', *(ACCOUNT[key] for key in columns)],
    [
      [dotted[name], *(cell(key, arm['account'].get(key)) for key in columns)]
      for name, arm in arms.items()
    ],
    'Of one run, on the mean over seeds; time is minutes:seconds.',
  )


def results_table(results: Mapping[str, Any]) -> str:
  """Means with intervals, the best mean of every measure marked."""
  measures = {
    name: measure
    for name, measure in results['measures'].items()
    if any(
      summarize(arm['values'].get(name, ())) for arm in results['arms'].values()
    )
  }
  found = {
    (arm, name): summarize(results['arms'][arm]['values'].get(name, ()))
    for arm in results['arms']
    for name in measures
  }
  best = {}
  for name, measure in measures.items():
    means = [found[arm, name][0] for arm in results['arms'] if found[arm, name]]
    if measure['better'] and len(means) > 1:
      best[name] = (max if measure['better'] == 'higher' else min)(means)
  heads = [column_name(measure) for measure in measures.values()]
  dotted = names(results)
  rows = [
    [
      dotted[arm],
      *(
        _mean(found[arm, name], measure['digits'], best.get(name))
        for name, measure in measures.items()
      ),
    ]
    for arm in results['arms']
  ]
  return table(
    ['', *heads], rows,
    'Mean over seeds [95% interval of it]. ★ marks the best mean; ↑ higher is '
    'better, ↓ lower is better. Where intervals overlap, the mark decides '
    'nothing.' + _missing_seeds(results, measures),
  )  # fmt: skip


def _mean(
  found: tuple[float, float, float] | None, digits: int, best: float | None
) -> str:
  if not found:
    return ''
  mean, low, high = found
  value = number(mean, digits)
  if mean == best:
    value = f'<b class="best"><span title="best mean">★</span> {value}</b>'
  if not math.isfinite(low):
    return value
  return value + _small(f'[{number(low, digits)}, {number(high, digits)}]')


def _missing_seeds(results: Mapping, measures: Mapping) -> str:
  """A sentence on cells that stand for fewer runs than the others."""
  count = len(results['header']['seeds'])
  fewer = []
  for arm in results['arms'].values():
    for name, measure in measures.items():
      there = sum(x == x for x in numbers(arm['values'].get(name, ())))
      if 0 < there < count:
        fewer.append(f'{arm["label"]}, {measure["label"]}: {there}')
  return f' Fewer than {count} seeds: {"; ".join(fewer)}.' if fewer else ''


def comparisons_table(results: Mapping[str, Any]) -> str:
  """Differences of two arms, with what the seeds say of them."""
  rows = []
  for item in results['comparisons']:
    measure = results['measures'].get(item['measure'])
    label = lambda key, item=item: (
      results['arms'].get(item[key], {}).get('label', '–')
    )
    effect = item['effect_size']
    rows.append(
      [
        breakable(f'{label("arm")} − {label("against")}')
        + _small(measure['label'] if measure else ''),
        text(_difference(item, measure)) + _small(interval(item, measure)),
        text(p_value(item['p_value'])),
        text(number(effect, 2)) if effect is not None else '',
      ]
    )
  return table(
    ['', 'difference', 'p', 'effect size'], rows,
    'The first arm less the second [95% interval]; effect size is Cohen’s d.',
  )  # fmt: skip


def _small(note: str) -> str:
  return f' <span class="interval">{text(note)}</span>' if note else ''


def facts(pairs: Mapping[str, str]) -> str:
  """Names and values, one a line."""
  lines = ''.join(
    f'<dt>{text(name)}</dt><dd>{text(value)}</dd>'
    for name, value in pairs.items()
    if value not in ('', None)
  )
  return f'<dl class="facts">{lines}</dl>'
