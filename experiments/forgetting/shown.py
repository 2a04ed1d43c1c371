"""What the study's page shows: numbers of arms, and figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.forgetting import frontier
from experiments.forgetting.design import (
  EXPLAINED,
  HIGH,
  LOW,
  OF_REACH,
  RATE,
  WAYS,
)
from experiments.forgetting.frontier import Point
from experiments.forgetting.setting import Judge, both
from posttrain_jax import lab

__all__ = [
  'Found',
  'at_gain',
  'base_arms',
  'equal_gain',
  'far_by_rate',
  'figures',
  'halves',
  'make_arm',
  'razor',
]


@dataclasses.dataclass(frozen=True)
class Found:
  """All that is measured of one arm.

  points  {rate: its points, the end of the stage last}
  chosen  the rate that validation problems chose
  end     its point that was chosen
  """

  points: Mapping[float, list[Point]]
  chosen: float
  end: Point

  def along(self, base: Point, rates: Sequence[float] = ()) -> list[Point]:
    """The base's point and those of all rates, or of some."""
    wanted = rates or self.points
    return [base, *(x for rate in wanted for x in self.points[rate])]


def equal_gain(arms: Sequence[Found], base: Point) -> float:
  """Points gained at which arms are compared: by validation problems alone."""
  reach = [
    max(float(x.gain(base, 'validation').mean()) for x in arm.along(base))
    for arm in arms
  ]
  return OF_REACH * min(reach)


def at_gain(points: list[Point], gain: float) -> tuple[dict, dict]:
  """(numbers by seed, outcomes by seed and problem) along a frontier."""
  along = frontier.mixed(points, gain)
  kept = np.round(along['kept'], 3)  # as results.json keeps them
  values = {
    'matched': 100.0 * kept.mean(1),
    'off': along['gain'] - gain,
    'most': along['most'],
    'beyond': along['most'] - gain,
  }
  return values, {'matched': kept}


def values_of(found: Found, base: Point, gain: float) -> tuple[dict, dict]:
  """`at_gain` of an arm, and what it is at its chosen rate."""
  values, outcomes = at_gain(found.along(base), gain)
  end = found.end
  values |= {
    'gain': end.gain(base, 'test'),
    'new': 100.0 * end.new['test'].mean(1),
    'retention': end.retention('test'),
    'both': both(end, 'test'),
  }
  return values, outcomes


def make_arm(
  arm: str,
  found: Found,
  base: Point,
  gain: float,
  stages: Sequence[lab.Trained],
) -> lab.Arm:
  """What an arm shows; `stages` are what its chosen rate took."""
  way = WAYS[arm]
  values, outcomes = values_of(found, base, gain)
  if way.task == 'far':  # no gain on the new task, beside which it would stand
    values = {k: values[k] for k in ('most', 'new', 'retention')}
    outcomes = {}
  # Frontiers, which claims are on, are of all rates.
  chosen = {'both': found.chosen}
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec or WAYS['sft'].spec,
    overrides=dict(way.items),
    values=values,
    account=lab.total_account(stages),
    tuned={RATE: {'grid': list(found.points), 'chosen': chosen}},
    outcomes=outcomes,
  )


def halves(
  found: Found, base: Point, gain: float, stages: Sequence[lab.Trained]
) -> dict[str, lab.Arm]:
  """SFT at small rates alone, and at large ones alone."""
  made = {}
  for arm, label, rates in (
    ('sft_small', f'SFT, rates up to {LOW:g}', [x for x in found.points
                                                if x <= LOW]),
    ('sft_large', f'SFT, rates from {HIGH:g}', [x for x in found.points
                                                if x >= HIGH]),
  ):  # fmt: skip
    values, outcomes = at_gain(found.along(base, rates), gain)
    made[arm] = lab.Arm(
      label=label,
      family='sft',
      config=WAYS['sft'].spec,
      overrides={},
      values=values,
      account=lab.total_account(stages),
      outcomes=outcomes,
    )
  return made


def razor(
  judge: Judge, base: Point, stages: Mapping[str, Sequence[lab.Trained]]
) -> tuple[dict[str, lab.Arm], dict[str, dict[str, list]]]:
  """How well KL and distance say what is forgotten, over all arms and rates.

  Returns (arms, {label: a line of what an arm forgot by its KL to the base}).
  """
  before = base.retention('test')
  lost, kls, distances = {}, {}, {}
  for arm, own in stages.items():
    found = [judge.point(x, 'near').retention('test') for x in own]
    lost[arm] = before - np.stack(found)
    kls[arm] = np.stack([judge.kl(x, 'near') for x in own])
    distances[arm] = np.stack([judge.distance(x) for x in own])
  every = lambda of: np.concatenate(list(of.values()))  # [models, S]
  rank = lambda of: [
    frontier.rank_correlation(x, y) for x, y in zip(every(of).T, every(lost).T)
  ]
  arm = lambda label, values: lab.Arm(
    label=label, family='base', config='', overrides={},
    values={'explained': values}, account=[],
  )  # fmt: skip
  lines = {}
  for name in GROUPS['by_data'][1]:
    if name in kls:
      order = np.argsort(kls[name].mean(1))
      lines[WAYS[name].label] = {
        'x': [float(x) for x in kls[name].mean(1)[order]],
        'y': lost[name][order].tolist(),
      }
  return {
    'by_kl': arm('Forgetting by KL on the new task', rank(kls)),
    'by_distance': arm('Forgetting by distance of weights', rank(distances)),
    'bar': arm('The bound set before', [EXPLAINED] * len(before)),
  }, lines


def base_arms(
  base: Mapping[str, Point], gain: float, stage: lab.Trained
) -> dict[str, lab.Arm]:
  """The base, as it knows either new task."""
  made = {}
  for arm, label, task in (
    ('base', 'Base', 'near'), ('base_far', 'Base, far task', 'far'),
  ):  # fmt: skip
    if task not in base:
      continue
    point = base[task]
    made[arm] = lab.Arm(
      label=label,
      family='base',
      config='configs/sft.py',
      overrides={},
      values={
        'new': 100.0 * point.new['test'].mean(1),
        'retention': point.retention('test'),
        'at': np.full(len(point.retention('test')), gain),
      },
      account=lab.total_account([stage]),
    )
  return made


GROUPS = {
  'by_data': (
    'RL, own data and demonstrations',
    ('sft', 'own', 'grpo', 'grpo_kl'),
  ),
  'by_loss': (
    'Losses on demonstrations',
    ('sft', 'sft_kl', 'dft', 'asft', 'psft', 'talr'),
  ),
  'by_anchor': (
    'Where the model may go',
    ('sft', 'l2', 'flow', 'wise', 'lora'),
  ),
}


def line(points: list[Point]) -> dict[str, list]:
  """An arm's frontier: corners by validation, numbers by test problems."""
  base = points[0]
  means = lambda of: np.array([of(x).mean() for x in points])
  corners = frontier.hull(
    means(lambda x: x.gain(base, 'validation')),
    means(lambda x: x.retention('validation')),
  )
  shown = sorted(
    (points[i] for i in corners), key=lambda x: x.gain(base, 'test').mean()
  )
  return {
    'x': [float(x.gain(base, 'test').mean()) for x in shown],
    'y': [
      (x.retention('test') - base.retention('test')).tolist() for x in shown
    ],
  }


def by_rate(
  found: Mapping[str, Found], base: Point, kept: bool
) -> dict[str, Any]:
  """A heatmap of what every arm gained, or kept, at every rate."""
  arms = {a: x for a, x in found.items() if WAYS[a].spec}
  rates = list(next(iter(arms.values())).points)
  of = lambda x: x.retention('test') if kept else x.gain(base, 'test')
  start = f' (the base: {base.retention("test").mean():.1f})' if kept else ''
  return {
    'kind': 'heatmap', 'name': 'kept_by_rate' if kept else 'gain_by_rate',
    'title': ('Base tasks' if kept else 'Gained on the new task')
             + ', by rate',
    'rows': [WAYS[a].label for a in arms],
    'columns': [f'{rate:g}' for rate in rates],
    'values': [
      [round(float(of(x.points[rate][-1]).mean()), 1) for rate in rates]
      for x in arms.values()
    ],
    'low': 0, 'high': 100 if kept else 20, 'unit': '%' if kept else 'points',
    'xlabel': 'learning rate', 'ylabel': 'arm',
    'caption': f'Test problems, means over seeds{start}.',
  }  # fmt: skip


def far_by_rate(
  found: Mapping[str, Found], base: Point
) -> list[dict[str, Any]]:
  """What the arms of the far task gained, by rate."""
  return [
    {
      'kind': 'lines', 'name': 'far', 'title': 'Gained on the far task',
      'xlabel': 'learning rate', 'ylabel': 'gained (points)', 'logx': True,
      'series': {
        WAYS[arm].label: {
          'x': list(own.points),
          'y': [x[-1].gain(base, 'test').tolist() for x in own.points.values()],
        }
        for arm, own in found.items()
      },
      'caption': 'Test problems, mean and 95% interval over seeds; the base: '
                 f'{100 * base.new["test"].mean():.1f}%.',
    }
  ]  # fmt: skip


def figures(
  found: Mapping[str, Found],
  base: Point,
  gain: float,
  lost: Mapping[str, dict[str, list]],
) -> list[dict[str, Any]]:
  """Frontiers, what is kept at an equal gain, and the razor."""
  made = []
  for name, (title, arms) in GROUPS.items():
    there = [arm for arm in arms if arm in found]
    if len(there) < 2:
      continue
    made.append(
      {
        'kind': 'lines', 'name': name, 'title': f'{title}: kept against gained',
        'xlabel': 'gained on the new task (points)',
        'ylabel': 'base tasks against before (points)', 'logx': False,
        'series': {
          WAYS[arm].label: line(found[arm].along(base)) for arm in there
        },
        'caption': 'Frontiers over all rates, from the base at 0: '
                   'corners chosen on validation problems, numbers of test '
                   'problems, mean and 95% interval over seeds.',
      }
    )  # fmt: skip
  near = {arm: x for arm, x in found.items() if WAYS[arm].task == 'near'}
  return [
    *made,
    by_rate(near, base, kept=False),
    by_rate(near, base, kept=True),
    {
      'kind': 'bars', 'name': 'matched', 'title': 'At an equal gain',
      'measures': ['matched', 'most'],
      'caption': f'Left: base tasks at {gain:.1f} points gained, along each '
                 "arm's frontier (of an arm that never gets there: where it "
                 'gained most). Right: the most that it gained at any rate. '
                 'Of the far task and of the sequence that is on the far task; '
                 'in sequence, at an equal gain of its own, the first task '
                 'counts among those that are kept.',
    },
    {
      'kind': 'frontier', 'name': 'chosen', 'title': 'At the chosen rates',
      'x': 'gain', 'y': 'retention',
      'caption': 'Each arm at the rate that new and base tasks together chose '
                 'on validation problems.',
    },
    {
      'kind': 'lines', 'name': 'forgetting_by_kl',
      'title': 'What is forgotten, by the KL to the base on the new task',
      'xlabel': 'KL (nats a token)', 'ylabel': 'points lost', 'logx': False,
      'series': dict(lost),
      'caption': 'One mark for each rate of an arm; the correlations are over '
                 'all arms and rates.',
    },
  ]  # fmt: skip
