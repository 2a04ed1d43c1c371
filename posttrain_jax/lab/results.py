"""From what arms measured to a study's results.json, page and README table."""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax import log, report
from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals import statistics
from posttrain_jax.evals.statistics import Claim
from posttrain_jax.lab.stages import Lab, Trained
from posttrain_jax.report.generated import filled
from posttrain_jax.run import accounting

__all__ = ['Arm', 'Measure', 'Study', 'best', 'total_account', 'write']

FILE = 'results.json'


@dataclasses.dataclass(frozen=True)
class Measure:
  """How a number is called and shown.

  unit    '%' (0 to 100), 'nats', or ''
  better  'higher', 'lower' or ''
  """

  label: str
  unit: str = ''
  better: str = ''
  digits: int = 2


@dataclasses.dataclass(frozen=True)
class Arm:
  """One side of a comparison.

  config     spec of the config file, and what was changed in it
  values     {measure: one number a seed}
  account    one dict of `accounting.ITEMS` a seed (`total_account`)
  tuned      {config key: {'grid': [...], 'chosen': ...}}
  curves     {measure: {'x': [...], 'xlabel': ..., 'y': [one list a seed]}}
  """

  label: str
  family: str
  config: str
  overrides: Mapping[str, Any]
  values: Mapping[str, Sequence[float]]
  account: Sequence[Mapping[str, float]]
  tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
  """What a study asks, written down before it is run.

  name          of its folder
  paper_claims  what the papers say, in our words
  equal         what is held equal between the arms
  tuning        what was tuned, and how far, the same for all arms
  claims        judged by `statistics.judge`
  """

  name: str
  title: str
  question: str
  paper_claims: Sequence[str]
  setup: Sequence[str]
  equal: str
  tuning: str
  measures: Mapping[str, Measure]
  claims: Sequence[Claim]
  not_reproduced: Sequence[str] = ()


def best(tried: Mapping[Any, Any], score: Callable[[Any], Any]) -> Any:
  """The key of what has the highest mean of `score` over seeds, a stage or what
  was measured of it; the first of equals. One of which a seed failed (nan)
  comes last. An arm's tuning: score on validation problems."""

  def mean(key: Any) -> float:
    value = float(np.mean(score(tried[key])))
    return -math.inf if math.isnan(value) else value

  return max(tried, key=mean)


def total_account(stages: Sequence[Trained]) -> list[dict[str, float]]:
  """One dict of `accounting.ITEMS` a seed: the sum over an arm's stages."""
  return [
    {item: sum(own[item] for own in seed) for item in accounting.ITEMS}
    for seed in zip(*(stage.account for stage in stages))
  ]


def _means(account: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {
    item: float(np.mean([own[item] for own in account])) if account else 0.0
    for item in accounting.ITEMS
  }


def _arm(study: Study, arm: Arm) -> dict[str, Any]:
  for name in arm.values:
    if name not in study.measures:
      raise ValueError(
        f'arm "{arm.label}": no measure "{name}" in study "{study.name}".'
        + nearest(name, study.measures)
      )
  out = {
    'label': arm.label,
    'family': arm.family,
    'config': arm.config,
    'overrides': dict(arm.overrides),
    'account': _means(arm.account),
    'values': {name: [float(x) for x in xs] for name, xs in arm.values.items()},
  }
  if arm.tuned:
    out['tuned'] = dict(arm.tuned)
  if arm.curves:
    out['curves'] = dict(arm.curves)
  return out


def _judged(claim: Claim, arms: Mapping[str, Arm]) -> dict[str, Any]:
  for key in (claim.arm, claim.against):
    if key not in arms:
      raise ValueError(
        f'claim "{claim.name}": no arm "{key}".' + nearest(key, arms)
      )

  def of(measure: str) -> list[Sequence[float]]:
    for key in (claim.arm, claim.against):
      if measure not in arms[key].values:
        raise ValueError(
          f'claim "{claim.name}": arm "{key}" has no measure "{measure}".'
          + nearest(measure, arms[key].values)
        )
    return [arms[key].values[measure] for key in (claim.arm, claim.against)]

  a, b = of(claim.measure)
  moved = of(claim.moved) if claim.moved else []
  out = dataclasses.asdict(claim)
  if not np.all(np.isfinite([*a, *b])):
    gap = dict.fromkeys(('difference', 'low', 'high', 'p_value'))
    rule = 'a seed has no number for this measure'
    return {**out, **gap, 'outcome': 'undecided', 'rule': rule}
  verdict = statistics.judge(claim, a, b, moved)
  found = verdict.comparison
  one_sided = {'greater': found.p_greater, 'less': found.p_less}
  return out | {
    'outcome': verdict.outcome,
    'difference': found.difference.mean,
    'low': found.difference.low,
    'high': found.difference.high,
    'p_value': one_sided.get(claim.direction, found.p_value),
    'rule': verdict.rule,
  }


def results(
  study: Study,
  arms: Mapping[str, Arm],
  figures: Sequence[Mapping[str, Any]],
  lab: Lab,
  *,
  mode: str,
  command: str,
  seconds: float,
  reading: Sequence[str] = (),
) -> dict[str, Any]:
  """The dict that `report.study` shows.

  mode  'full', or another that may lack arms: then claims about these are left
        out

  Raises:
    ValueError: a measure that a claim names is not there, or in the full mode
      an arm.
  """
  header = log.make_header({})
  claims = study.claims
  if mode != 'full':
    claims = [x for x in claims if {x.arm, x.against} <= arms.keys()]
  return {
    'study': study.name,
    'title': study.title,
    'question': study.question,
    'paper_claims': list(study.paper_claims),
    'setup': list(study.setup),
    'reading': list(reading),
    'not_reproduced': list(study.not_reproduced),
    'equal': study.equal,
    'tuning': study.tuning,
    'mode': mode,
    'header': {
      'command': command,
      'commit': ', '.join(sorted(lab.commits)),
      'date': header['date_utc'][:10],
      'hardware': _hardware(header),
      'versions': header['versions'],
      'seconds': seconds,
      'seeds': list(lab.seeds),
    },
    'arms': {key: _arm(study, arm) for key, arm in arms.items()},
    'measures': {
      name: dataclasses.asdict(measure)
      for name, measure in study.measures.items()
    },
    'figures': list(figures),
    'claims': [_judged(claim, arms) for claim in claims],
  }


def _hardware(header: Mapping[str, Any]) -> str:
  devices = header['devices']
  if devices['platform'] == 'cpu':
    return f'{os.cpu_count()} CPU cores ({platform.machine()})'
  return f'{devices["count"]} x {devices["kind"]}'


def write(found: dict[str, Any], folder: Path) -> Path:
  """results.json, the page and its pictures, and the tables in README.md.

  Returns the page's path.
  """
  folder.mkdir(parents=True, exist_ok=True)
  found = _without_nan(found)
  text = json.dumps(found, indent=1, ensure_ascii=False)
  (folder / FILE).write_text(text + '\n', encoding='utf-8')
  page = report.study.write(found, folder)
  readme = folder / 'README.md'
  if readme.exists():
    old = readme.read_text(encoding='utf-8')
    new = filled(old, 'results', tables(found), str(readme))
    readme.write_text(new, encoding='utf-8')
  return page


def _without_nan(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _without_nan(x) for key, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [_without_nan(x) for x in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value.item() if isinstance(value, np.generic) else value


def tables(found: Mapping[str, Any]) -> str:
  """The verdicts and the results as Markdown, with where they come from."""
  header = found['header']
  seeds = len(header['seeds'])
  lines = [
    f'`{header["command"]}`, commit {header["commit"]}, {header["date"]}, '
    f'{header["hardware"]}, {seeds} seeds, {found["mode"]} mode, '
    f'{header["seconds"] / 60:.0f} minutes.',
    '',
    '| claim | verdict | difference [95%] | p |',
    '| --- | --- | --- | --- |',
  ]
  for claim in found['claims']:
    digits = found['measures'][claim['measure']]['digits']
    shown = _with_interval(
      claim['difference'], claim['low'], claim['high'], digits, signed=True
    )
    p = '–' if claim['p_value'] is None else f'{claim["p_value"]:.3f}'
    lines.append(
      f'| {claim["statement"]} | **{claim["outcome"]}** | {shown} | {p} |'
    )
  # Measures that arms have, in the order in which they were written down.
  there = {name for arm in found['arms'].values() for name in arm['values']}
  names = [name for name in found['measures'] if name in there]
  heads = [_head(found['measures'][name]) for name in names]
  lines += ['', f'| arm | {" | ".join(heads)} |']
  lines.append('| --- |' + ' --- |' * len(names))
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
  return '\n'.join(lines)


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
