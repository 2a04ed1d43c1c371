r"""On-policy samples and negative gradients: do they matter, and when?

  python -m experiments.on_policy.run             # full: half an hour
  python -m experiments.on_policy.run --reduced   # minutes

The same contrasts twice: in a bandit whose optimum is far from the reference
or near it (bandit.py), and on sums that may be answered in an easy format which
the base seldom or often uses (language.py). README.md has the question and the
reading.
"""

import sys
from typing import Any

import numpy as np
from experiments.on_policy.gamble import Gamble

from experiments.on_policy import bandit, language
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
from posttrain_jax.run import accounting


def on_language(
  runs: lab.Lab, judge: language.Judge, arm: str, place: str, scale: Scale
) -> dict[str, Any]:  # fmt: skip
  """An arm's values, curve, account and tuning on sums, from one base."""
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


def make_arm(way: Way, gamble: Gamble, found: list[dict[str, Any]]) -> lab.Arm:
  """All parts of an arm in one; `found` is what `on_language` gives."""
  values, curves, tuned = {}, {}, {}
  account = [dict.fromkeys(accounting.ITEMS, np.nan)]
  for part in found:
    values |= part['values']
    curves |= part['curves']
    tuned |= part['tuned']
    account = part.get('account', account)
  if way.method:
    values |= gamble.values(way.method, way.refresh)
    curves['bandit_far'] = gamble.curve(way.method, way.refresh)
    for place in bandit.PEAKS:
      rate = gamble.rate(way.method, place, way.refresh, 1)
      tuned[f'bandit rate, {place}'] = {
        'grid': list(gamble.rates), 'chosen': rate
      }  # fmt: skip
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


def start_arm(judges: dict[str, language.Judge], gamble: Gamble) -> lab.Arm:
  """The bases, which are the references of all parts."""
  zero = [0.0] * len(gamble.start['far'])
  values = judges['far'].values(judges['far'].base)
  near = judges['near']
  return lab.Arm(
    label='Start', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, account=judges['far'].base.account,
    values=values | {
      'early': values['accuracy'],
      'gain': zero,
      'near': near.quick(near.base)['accuracy'],
      'near_gain': zero,
      'bandit_far': gamble.start['far'],
      'bandit_speed': gamble.start['far'],
      'bandit_near': gamble.start['near'],
      'bandit_winner': zero,
      'bandit_kl': zero,
    },
  )  # fmt: skip


def figures(gamble: Gamble) -> list[dict[str, Any]]:
  return [
    {
      'kind': 'curves', 'name': 'bandit', 'measure': 'bandit_far',
      'title': 'Bandit, optimum far from the reference',
      'caption': 'Expected reward of the policy while it trains, each arm at '
                 'its own best learning rate.',
    },
    {
      'kind': 'lines', 'name': 'refresh',
      'title': 'How old may the sampler be?',
      'xlabel': 'steps until the sampler becomes the policy',
      'ylabel': 'expected reward at the end', 'logx': True,
      'series': gamble.lines('refresh'),
      'caption': 'Bandit, far: every sample is used once. At 1 all samples are '
                 "the policy's own, at 500 all are the reference's.",
    },
    {
      'kind': 'lines', 'name': 'reuse',
      'title': 'How often may samples be used?',
      'xlabel': 'steps on the same samples',
      'ylabel': 'expected reward at the end', 'logx': True,
      'series': gamble.lines('reuse'),
      'caption': 'Bandit, far: 500 steps in all, so 50 steps on the same '
                 'samples see a fiftieth of the states.',
    },
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
  gamble = Gamble(runs, near, scale.refresh, scale.reuse, scale.bandit_steps)
  judges = {place: language.Judge(runs, x) for place, x in bases.items()}
  arms = {'start': start_arm(judges, gamble)}
  for arm in scale.arms:
    way = WAYS[arm]
    places = [x for x in bases if way.spec and (x == 'far' or arm in NEAR)]
    found = [on_language(runs, judges[x], arm, x, scale) for x in places]
    arms[arm] = make_arm(way, gamble, found)
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures(gamble), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
