r"""On-policy samples and negative gradients: do they matter, and when?

  python -m experiments.on_policy.run             # full: half an hour
  python -m experiments.on_policy.run --reduced   # minutes

Sums that may be answered in an easy format, which the base seldom or often
uses (language.py). README.md has the question and the reading;
experiments/bandit has the same contrasts in a bandit.
"""

import sys
from typing import Any

import numpy as np

from experiments.on_policy import language
from experiments.on_policy.design import (
  EARLY,
  NEAR,
  RATE,
  READING,
  SCALES,
  STUDY,
  WAYS,
  Scale,
  Way,
)
from posttrain_jax import lab


def on_language(
  runs: lab.Lab, judge: language.Judge, arm: str, place: str, scale: Scale
) -> dict[str, Any]:  # fmt: skip
  """An arm's values, curve, account and tuning, from one base."""
  way, base = WAYS[arm], judge.base
  config = language.arm_config(way.spec, way.items, scale.steps)
  stages = {
    rate: runs.train(
      f'{place}-{arm}', config, base, {RATE: rate}, snapshots=scale.snapshots
    )
    for rate in scale.rates
  }  # fmt: skip
  score = lambda stage: judge.quick(stage, 'validation')['accuracy']
  rate = lab.best(stages, score)
  stage = stages[rate]
  points = {0: base, **stage.snapshots, scale.steps: stage}
  path = {step: judge.quick(x)['accuracy'] for step, x in points.items()}
  end, gain = path[scale.steps], path[scale.steps] - path[0]
  curve = {
    'x': list(path),
    'xlabel': 'optimizer steps',
    'y': np.transpose(list(path.values())).tolist(),
  }
  tuned = {'grid': list(stages), 'chosen': rate}
  if place == 'near':
    return {
      'values': {'near': end, 'near_gain': gain},
      'curves': {'near': curve},
      'tuned': {f'{RATE}, near': tuned},
    }
  values = {'early': path[EARLY], 'gain': gain}
  return {
    'values': values | judge.values(stage),
    'curves': {'accuracy': curve},
    'account': stage.account,
    'tuned': {f'{RATE}, far': tuned},
  }


def make_arm(way: Way, found: list[dict[str, Any]]) -> lab.Arm:
  """Both places of an arm in one; `found` is what `on_language` gives."""
  values, curves, tuned, account = {}, {}, {}, []
  for part in found:
    values |= part['values']
    curves |= part['curves']
    tuned |= part['tuned']
    account = part.get('account', account)
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec,
    overrides=dict(way.items),
    values=values,
    account=account,
    tuned=tuned,
    curves=curves,
  )


def start_arm(judges: dict[str, language.Judge]) -> lab.Arm:
  """The bases, which are the references of both places."""
  values = judges['far'].values(judges['far'].base)
  zero = [0.0] * len(values['accuracy'])
  near = judges['near']
  return lab.Arm(
    label='Start', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, account=judges['far'].base.account,
    values=values | {
      'early': values['accuracy'],
      'gain': zero,
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
  near = runs.train('near', language.base_config(scale.base_steps, 'near'))
  tilt = language.base_config(scale.tilt_steps, 'far')
  bases = {'far': runs.train('far', tilt, near), 'near': near}
  judges = {place: language.Judge(runs, x) for place, x in bases.items()}
  arms = {'start': start_arm(judges)}
  for arm in scale.arms:
    way = WAYS[arm]
    places = [x for x in bases if x == 'far' or arm in NEAR]
    found = [on_language(runs, judges[x], arm, x, scale) for x in places]
    arms[arm] = make_arm(way, found)
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
