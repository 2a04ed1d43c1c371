r"""A budget of examples, divided between demonstrations and preferences.

  python -m experiments.budget.run             # full
  python -m experiments.budget.run --reduced   # two minutes

README.md has the question and the reading, settings.py the settings and sizes,
design.py the claims, bench.py the stages, tuned.py what is tuned.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from experiments.budget.bench import DPO, SFT, Bench
from experiments.budget.design import FORMS, MEASURES, READING, STUDY
from experiments.budget.settings import (
  LABELS,
  LEVEL_ARMS,
  LEVELS,
  SCALES,
  SETTINGS,
  SHARES,
  WANTED,
  Scale,
  Setting,
)
from experiments.budget.tuned import Chosen
from posttrain_jax import lab

Curve = Mapping[str, Mapping[str, Any]]


def curve(bench: Bench, own: Setting, chosen: Chosen) -> Curve:
  """{share: its stages, and its measures after SFT and at the end}."""
  found = {}
  for name in own.shares:
    demonstrations, pairs = own.counts(SHARES[name])
    stages, last = [], bench.base(own)
    if demonstrations:
      last = bench.sft(own, demonstrations, chosen.rate(own, demonstrations))
      stages.append(last)
    before = bench.measure(own, last)
    if pairs:
      values = chosen.values(own, demonstrations)
      last = bench.dpo(own, last, pairs, values)
      stages.append(last)
    found[name] = {
      'stages': stages,
      'before': before,
      'after': bench.measure(own, last),
    }
  return found


def share_arm(
  name: str, curves: Mapping[str, Curve], chosen: Chosen
) -> lab.Arm:
  """A share of the budget, in all settings that have it."""
  values, outcomes = {}, {}
  own = {key: found[name] for key, found in curves.items() if name in found}
  for key, point in own.items():
    values[key] = point['after']['accuracy']
    outcomes[key] = point['after']['problems']
    if key in FORMS:
      values[f'form_{key}'] = point['after']['form']
  if {'cot_100', 'cot_1000'} <= own.keys():
    values['growth'] = values['cot_1000'] - values['cot_100']
  shown = 'cot_1000' if 'cot_1000' in own else next(iter(own))
  return lab.Arm(
    label=LABELS[name],
    family='preference' if SHARES[name] < 0.5 else 'sft',
    config=f'{SFT}; {DPO}',
    overrides={'share of demonstrations': SHARES[name]},
    values=values,
    account=lab.total_account(own[shown]['stages']),
    tuned=chosen.entries(
      [(key, SETTINGS[key], SHARES[name]) for key in own],
      {key: (key, f'form_{key}') for key in FORMS},
    ),
    outcomes=outcomes,
  )


def level_arm(
  level: str, curves: Mapping[str, Curve], chosen: Chosen
) -> lab.Arm:
  """A quarter on demonstrations of one writer, before and after DPO."""
  setting = LEVEL_ARMS[level]
  point = curves[setting]['f25']
  return lab.Arm(
    label=f'Writer: {level} ({100 * LEVELS[level]:.0f}% forgotten)',
    family='sft',
    config=f'{SFT}; {DPO}',
    overrides={'slips': LEVELS[level]},
    values={
      'level_sft': point['before']['accuracy'],
      'level_dpo': point['after']['accuracy'],
      'level_cost': (
        curves[LEVEL_ARMS['perfect']]['f25']['before']['accuracy']
        - point['before']['accuracy']
      ),
    },
    account=lab.total_account(point['stages']),
    tuned=chosen.entries([('level_dpo', SETTINGS[setting], SHARES['f25'])], {}),
    outcomes={
      'level_sft': point['before']['problems'],
      'level_dpo': point['after']['problems'],
    },
  )


def _short(name: str) -> str:
  """Of a setting of 1000 examples for reasoning: what is special about it."""
  label = MEASURES[name].label.removeprefix(MEASURES['cot_1000'].label)
  label = label.removeprefix(', ') or 'fair writer, own pairs'
  return label[0].upper() + label[1:]


def figures(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
  """Accuracy along the budget, along the share, and before and after DPO."""
  found = []
  caption = (
    'Sampled answers to held-out problems that are right and in the wanted '
    'form, mean over seeds.'
  )

  def lines(name, title, xlabel, series, logx=False):
    if series:
      found.append(
        {
          'kind': 'lines', 'name': name, 'title': title, 'xlabel': xlabel,
          'ylabel': 'accuracy (%)', 'logx': logx, 'series': series,
          'caption': caption,
        }
      )  # fmt: skip

  for task, title in (('cot', 'Reasoning'), ('style', 'Style')):
    keys = [
      key for key in curves
      if SETTINGS[key].task == task and key == f'{task}_{SETTINGS[key].budget}'
    ]  # fmt: skip
    series = {}
    for share, label in LABELS.items():
      there = [key for key in keys if share in curves[key]]
      if len(there) > 1:
        series[label] = {
          'x': [SETTINGS[key].budget for key in there],
          'y': [curves[key][share]['after']['accuracy'].tolist()
                for key in there],
        }  # fmt: skip
    lines(f'{task}_by_budget', f'{title}: accuracy by budget',
          'examples that the budget buys', series, True)  # fmt: skip
  of_1000 = [
    key
    for key in curves
    if (SETTINGS[key].task, SETTINGS[key].budget) == ('cot', 1000)
  ]
  lines(
    'cot_by_share', 'Reasoning, 1000 examples: accuracy by share',
    'share of the budget on demonstrations (%)',
    {
      _short(key): {
        'x': [100 * SHARES[x] for x in sorted(curves[key], key=SHARES.get)],
        'y': [curves[key][x]['after']['accuracy'].tolist()
              for x in sorted(curves[key], key=SHARES.get)],
      }
      for key in of_1000
    },
  )  # fmt: skip
  if set(LEVEL_ARMS.values()) <= curves.keys():
    found.append(
      {'kind': 'bars', 'name': 'levels',
       'title': 'A quarter on demonstrations of three writers',
       'measures': ['level_sft', 'level_dpo'], 'caption': caption},
    )  # fmt: skip
  return found


def run(runs: lab.Lab, scale: Scale):
  """Tunes, then trains and measures every share of every setting."""
  chosen = Chosen(runs, scale)
  bench = Bench(runs, scale)
  curves = {
    name: curve(bench, SETTINGS[name], chosen) for name in scale.settings
  }
  arms = {
    name: share_arm(name, curves, chosen)
    for name in SHARES
    if any(name in found for found in curves.values())
  }
  if set(LEVEL_ARMS.values()) <= curves.keys():
    arms |= {x: level_arm(x, curves, chosen) for x in LEVEL_ARMS}
  there = {name for arm in arms.values() for name in arm.values}
  tasks = {SETTINGS[name].task for name in scale.settings}
  study = dataclasses.replace(
    STUDY,
    claims=[x for x in STUDY.claims if x.measure in there],
    measures={k: x for k, x in STUDY.measures.items() if k in there},
    problems={
      task: lab.of_probe(runs, bench.probe(Setting(task, 1), 'test'))
      for task in WANTED
      if task in tasks
    },
  )
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures(curves), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
