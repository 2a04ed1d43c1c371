r"""On-policy samples and negative gradients: do they matter, and when?

  python -m experiments.on_policy.run             # full: most of an hour
  python -m experiments.on_policy.run --reduced   # minutes

Sums that may be answered in an easy format, which the base seldom or often
uses (language.py). README.md has the question and the reading;
experiments/bandit has the same contrasts in a bandit.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.on_policy import language
from experiments.on_policy.design import (
  BOTH,
  EARLY,
  FAR,
  NEAR,
  RATE,
  READING,
  SCALES,
  SOON,
  STUDY,
  WAYS,
  Scale,
  Way,
)
from posttrain_jax import lab

# An arm and the base that it starts from.
Spot = tuple[str, str]


def spots_of(scale: Scale) -> list[Spot]:
  """All that is trained: every arm from afar, some from near."""
  near = [(arm, 'near') for arm in scale.arms if arm in BOTH]
  return [(arm, 'far') for arm in scale.arms] + near


def bases_of(runs: lab.Lab, scale: Scale) -> dict[str, lab.Trained]:
  """The bases of both places, of a lab's seeds."""
  near = runs.train('near', language.base_config(scale.base_steps, 'near'))
  tilt = language.base_config(scale.tilt_steps, 'far')
  return {'far': runs.train('far', tilt, near), 'near': near}


def train(
  runs: lab.Lab, base: lab.Trained, spot: Spot, rate: float, steps: int,
  snapshots: tuple[int, ...] = (),
) -> lab.Trained:  # fmt: skip
  arm, place = spot
  way = WAYS[arm]
  config = language.arm_config(way.spec, way.items, steps)
  return runs.train(
    f'{place}-{arm}', config, base, {RATE: rate}, snapshots=snapshots
  )


@dataclasses.dataclass(frozen=True)
class Rates:
  """What every arm is trained at.

  ends   of each spot, by the accuracy after training
  early  of each spot that is far, by that after EARLY steps
  """

  ends: dict[Spot, lab.Tuned]
  early: dict[Spot, lab.Tuned]


def tune(own: lab.Lab, scale: Scale) -> Rates:
  """The rates of all arms, with seeds of their own: one grid for all ends, one
  for all that is early, of the same runs as far as they go."""
  judges = {x: language.Judge(own, b) for x, b in bases_of(own, scale).items()}

  def maker(spot: Spot):
    base = judges[spot[1]].base
    return lambda rate: train(own, base, spot, rate, scale.steps, (EARLY,))

  def score(spot: Spot, stage: lab.Trained):
    return judges[spot[1]].quick(stage, 'validation')['accuracy']

  makers = {spot: maker(spot) for spot in spots_of(scale)}
  far = {spot: make for spot, make in makers.items() if spot[1] == 'far'}
  early = lambda spot, stage: score(spot, stage.snapshots[EARLY])
  return Rates(
    lab.tune(makers, scale.rates, score, scale.extend),
    lab.tune(far, scale.rates, early, scale.extend),
  )


def near_arm(
  runs: lab.Lab, judge: language.Judge, arm: str, rates: Rates, scale: Scale
) -> dict[str, Any]:  # fmt: skip
  """Values, curve and tuning of an arm that starts near; its account is in no
  table."""
  tuned = rates.ends[arm, 'near']
  path, stage = _path(runs, judge, (arm, 'near'), tuned, scale)
  end = path[scale.steps]
  return {
    'values': {'near': end, 'near_gain': end - path[0]},
    'curves': {'near': _curve(path)},
    'tuned': {NEAR: tuned.entry},
    'outcomes': {'near': judge.quick(stage)['accuracy/problems']},
  }


def far_arm(
  runs: lab.Lab, judge: language.Judge, arm: str, rates: Rates, scale: Scale
) -> dict[str, Any]:  # fmt: skip
  """Values, curve, account and tuning of an arm that starts from afar."""
  spot = arm, 'far'
  tuned, soon = rates.ends[spot], rates.early[spot]
  path, stage = _path(runs, judge, spot, tuned, scale)
  first = judge.quick(train(runs, judge.base, spot, soon.chosen, EARLY))
  values = {
    'gain': path[scale.steps] - path[0],
    'early': first['accuracy'],
    'early_gain': first['accuracy'] - path[0],
  }
  return {
    'values': values | judge.values(stage),
    'curves': {'accuracy': _curve(path)},
    'account': stage.account,
    'tuned': {FAR: tuned.entry, SOON: soon.entry},
    'outcomes': {
      'accuracy': judge.quick(stage)['accuracy/problems'],
      'early': first['accuracy/problems'],
    },
  }


def _path(runs, judge, spot, tuned, scale):
  """({step: accuracy of each seed}, the trained arm)."""
  stage = train(
    runs, judge.base, spot, tuned.chosen, scale.steps, scale.snapshots
  )
  points = {0: judge.base, **stage.snapshots, scale.steps: stage}
  path = {step: judge.quick(x)['accuracy'] for step, x in points.items()}
  return path, stage


def _curve(path: dict[int, np.ndarray]) -> dict[str, Any]:
  return {
    'x': list(path),
    'xlabel': 'optimizer steps',
    'y': np.transpose(list(path.values())).tolist(),
  }


def make_arm(way: Way, found: list[dict[str, Any]]) -> lab.Arm:
  """Both places of an arm in one."""
  values, curves, tuned, outcomes, account = {}, {}, {}, {}, []
  for part in found:
    values |= part['values']
    curves |= part['curves']
    tuned |= part['tuned']
    outcomes |= part['outcomes']
    account = part.get('account', account)
  if 'near' in values:
    values['far_near'] = values['accuracy'] - values['near']
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec,
    overrides=dict(way.items),
    values=values,
    account=account,
    tuned=tuned,
    curves=curves,
    outcomes=outcomes,
  )


def start_arm(
  judges: dict[str, language.Judge], arms: dict[str, lab.Arm]
) -> lab.Arm:
  """The bases, which are the references of both places."""
  far, near = judges['far'], judges['near']
  values = far.values(far.base)
  zero = [0.0] * len(values['accuracy'])
  soon = [np.asarray(arm.values['early_gain']) for arm in arms.values()]
  return lab.Arm(
    label='Start', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, account=far.base.account,
    values=values | {
      'early': values['accuracy'],
      'gain': zero,
      'early_gain': zero,
      'early_most': np.max(soon, axis=0),
      'near': near.quick(near.base)['accuracy'],
      'near_gain': zero,
    },
  )  # fmt: skip


def figures() -> list[dict[str, Any]]:
  return [
    {
      'kind': 'curves', 'name': 'sums', 'measure': 'accuracy',
      'title': 'Sums, easy format far',
      'caption': 'Accuracy of samples on held-out problems, each arm at its '
                 'own best learning rate.',
    },
    {
      'kind': 'curves', 'name': 'sums_near', 'measure': 'near',
      'title': 'Sums, easy format near',
      'caption': 'The same from a base that answers in the easy format as '
                 'often as in the hard one.',
    },
    {
      'kind': 'bars', 'name': 'answers', 'title': "The base's answers",
      'measures': ['right', 'wrong'],
      'caption': 'Mean change of the log-probability of right and of wrong '
                 'answers that the base samples on held-out problems.',
    },
    {
      'kind': 'frontier', 'name': 'diversity',
      'title': 'Accuracy and entropy', 'x': 'accuracy', 'y': 'entropy',
      'caption': 'Sums, far, after training: mean and 95% interval over seeds.',
    },
  ]  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  rates = tune(runs.beside(scale.tuning_seeds), scale)
  bases = bases_of(runs, scale)
  judges = {place: language.Judge(runs, x) for place, x in bases.items()}
  arms = {}
  for arm in scale.arms:
    found = [far_arm(runs, judges['far'], arm, rates, scale)]
    if arm in BOTH:
      found.append(near_arm(runs, judges['near'], arm, rates, scale))
    arms[arm] = make_arm(WAYS[arm], found)
  arms = {'start': start_arm(judges, arms), **arms}
  problems = {'sums': lab.of_probe(runs, judges['far'].formats)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
