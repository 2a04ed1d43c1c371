"""From what arms measured to a study's results.json, page and README table."""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax import log, report
from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals.statistics import Claim
from posttrain_jax.lab import judged, markdown, tuning
from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained
from posttrain_jax.report.generated import filled
from posttrain_jax.run import accounting

__all__ = ['Arm', 'Measure', 'Study', 'total_account', 'write']

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
  outcomes   {measure: [S, N] by seed and problem, whose mean over problems is
             its value (or a hundredth, of a share in %)}
  """

  label: str
  family: str
  config: str
  overrides: Mapping[str, Any]
  values: Mapping[str, Sequence[float]]
  account: Sequence[Mapping[str, float]]
  tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  outcomes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
  """What a study asks, written down before it is run.

  name          of its folder
  paper_claims  what the papers say, in our words
  equal         what is held equal between the arms
  tuning        what was tuned, and how far, the same for all arms
  claims        judged by `statistics.judge_all`
  problems      {measure or set of problems: `counts.Counts` as a dict}
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
  problems: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
  if arm.outcomes:
    out['outcomes'] = {
      name: _outcomes(arm, name, values)
      for name, values in arm.outcomes.items()
    }
  return out


def _outcomes(arm: Arm, name: str, values: Any) -> dict[str, Any]:
  """What `judged.outcomes` reads; held against the measure's own numbers."""
  if name not in arm.values:
    raise ValueError(
      f'arm "{arm.label}": outcomes of "{name}", which it has no values of.'
      + nearest(name, arm.values)
    )
  means = np.mean(np.asarray(values, np.float64), axis=1)
  known = np.asarray(arm.values[name], np.float64)
  for scale in (1.0, 100.0):
    if np.allclose(scale * means, known, 1e-4, 1e-4 * scale, equal_nan=True):
      return {'scale': scale, 'values': judged.packed(values)}
  raise ValueError(
    f'arm "{arm.label}": outcomes of "{name}" have the means {means}, and its '
    f'values are {known}'
  )


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
      an arm; arms that tune a key with unequal numbers of tries.
  """
  header = log.make_header({})
  made = {key: _arm(study, arm) for key, arm in arms.items()}
  if mode == 'full':
    tuning.check_equal(made)
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
    'arms': made,
    'measures': {
      name: dataclasses.asdict(measure)
      for name, measure in study.measures.items()
    },
    'figures': list(figures),
    'claims': judged.judged(claims, made),
  } | ({'problems': dict(study.problems)} if study.problems else {})


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
    new = filled(old, 'results', markdown.tables(found), str(readme))
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
