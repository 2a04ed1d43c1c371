"""Two tasks in sequence: what is left of the first and of what was known.

Each model that learned the study's new task goes on to the far one, at its own
rate and with a fresh optimizer. As elsewhere an arm is its frontier over all
rates, and arms are compared where they gained as much on the far task.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.forgetting.design import RATE, WAYS, Scale
from experiments.forgetting.frontier import Point
from experiments.forgetting.setting import PARTS, Judge, arm_config, both
from experiments.forgetting.shown import Found, at_gain, equal_gain
from posttrain_jax import lab

__all__ = ['arms', 'figure', 'follow', 'lost_of_best', 'point']

FIRST, SECOND = 'near', 'far'


def point(judge: Judge, stage: lab.Trained) -> Point:
  """A model on the second task; kept are the first one and the base tasks."""
  first, second = judge.point(stage, FIRST), judge.point(stage, SECOND)
  kept = {
    part: np.concatenate([first.new[part], first.kept[part]], axis=1)
    for part in PARTS
  }
  return Point('', second.new, kept)


def follow(
  runs: lab.Lab, scale: Scale, arm: str, tried: Mapping[float, lab.Trained]
) -> dict[float, lab.Trained]:
  """{rate: model after both tasks}, from an arm's models of the first."""
  config = arm_config(arm, scale, SECOND)
  return {
    rate: runs.train(f'{arm}-{SECOND}', config, stage, {RATE: rate})
    for rate, stage in sorted(tried.items())
  }


def lost_of_best(
  judge: Judge, base: lab.Trained, first: lab.Trained, last: lab.Trained
) -> np.ndarray:
  """[S] points of the first task that are lost at the end, of the best that it
  had before: in the base or once it was learned."""
  before, learned, end = (
    100.0 * judge.right(x, FIRST, 'test').mean(1) for x in (base, first, last)
  )
  return np.maximum(before, learned) - end


def arms(
  judge: Judge,
  base: lab.Trained,
  firsts: Mapping[str, Mapping[float, lab.Trained]],
  lasts: Mapping[str, Mapping[float, lab.Trained]],
) -> dict[str, lab.Arm]:
  """What the sequence shows of every arm, and of the base.

  firsts, lasts  {arm: {rate: model}} after the first task, and after both
  """
  start = point(judge, base)
  found = {}
  for arm, own in lasts.items():
    points = {rate: [point(judge, stage)] for rate, stage in own.items()}
    chosen = lab.best({k: x[0] for k, x in points.items()}, both)
    found[arm] = Found(points, chosen, points[chosen][0])
  gain = equal_gain(list(found.values()), start)
  made = {
    'base_sequence': lab.Arm(
      label='Base, two tasks in sequence', family='base', config='',
      overrides={}, account=[],
      values={'at': np.full(len(start.retention('test')), gain),
              'retention': start.retention('test')},
    )
  }  # fmt: skip
  for arm, own in found.items():
    way, chosen = WAYS[arm], own.chosen
    values, outcomes = at_gain(own.along(start), gain)
    stages = firsts[arm][chosen], lasts[arm][chosen]
    values['lost_of_best'] = lost_of_best(judge, base, *stages)
    made[f'{arm}_sequence'] = lab.Arm(
      label=f'{way.label}, two tasks in sequence',
      family=way.family,
      config=way.spec,
      overrides=dict(way.items),
      values=values,
      account=lab.total_account(stages),
      tuned={RATE: {'grid': list(own.points),
                    'chosen': {'lost_of_best': chosen}}},
      outcomes=outcomes,
    )  # fmt: skip
  return made


def figure(
  judge: Judge,
  base: lab.Trained,
  firsts: Mapping[str, Mapping[float, lab.Trained]],
  lasts: Mapping[str, Mapping[float, lab.Trained]],
) -> dict[str, Any]:
  """A heatmap: what each model knows of the first and of the second task."""
  share = lambda stage, task: round(
    100.0 * float(judge.right(stage, task, 'test').mean()), 1
  )
  rows = {'base': base}
  for arm, own in firsts.items():
    for rate, stage in sorted(own.items()):
      # With a hyphen that no line ends at.
      shown = f'{rate:.0e}'.replace('e-0', 'e\u2011')
      rows[f'{WAYS[arm].label} {shown}, one'] = stage
      rows[f'{WAYS[arm].label} {shown}, both'] = lasts[arm][rate]
  return {
    'kind': 'heatmap', 'name': 'sequence', 'title': 'Two tasks in sequence',
    'rows': list(rows),
    'columns': ['first task', 'second task', 'base tasks'],
    'values': [
      [share(x, FIRST), share(x, SECOND),
       round(float(judge.point(x, FIRST).retention('test').mean()), 1)]
      for x in rows.values()
    ],
    'low': 0, 'high': 100, 'unit': '%',
    'xlabel': 'asked', 'ylabel': 'arm, rate, after one task or both',
    'caption': 'Greedy accuracy on test problems, means over seeds.',
  }  # fmt: skip
