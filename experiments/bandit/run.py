r"""On-policy samples and negative gradients: the didactic bandit.

  python -m experiments.bandit.run             # full: a quarter of an hour
  python -m experiments.bandit.run --reduced   # a minute

bandit.py is the bandit, design.py has arms and claims, README.md the question
and the reading. The same contrasts on language: experiments/on_policy.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.bandit import bandit
from experiments.bandit.design import (
  ARMS,
  FAR,
  NEAR,
  READING,
  SCALES,
  STUDY,
  Scale,
)
from experiments.bandit.gamble import Gamble
from posttrain_jax import lab
from posttrain_jax.run import accounting

# A network of 64 units is not what accounts are of.
NOTHING = [dict.fromkeys(accounting.ITEMS, np.nan)]


def make_arm(name: str, gamble: Gamble) -> lab.Arm:
  label, family, method, refresh = ARMS[name]
  tuned = {
    key: gamble.tuned[method, place, refresh, 1].entry
    for key, place in ((FAR, 'far'), (NEAR, 'near'))
  }
  offline = 'the reference' if refresh == bandit.OFFLINE else 'the policy'
  return lab.Arm(
    label=label,
    family=family,
    config='',
    overrides={'loss': method, 'samples of': offline},
    values=gamble.values(method, refresh),
    account=NOTHING,
    tuned=tuned,
    curves={'bandit_far': gamble.curve(method, refresh)},
  )


def start_arm(gamble: Gamble) -> lab.Arm:
  """The reference, which is where all arms begin."""
  zero = [0.0] * len(gamble.start['far'])
  values = {
    'bandit_far': gamble.start['far'],
    'bandit_speed': gamble.start['far'],
    'bandit_near': gamble.start['near'],
    'bandit_winner': zero,
    'bandit_kl': zero,
  }
  return lab.Arm('Start', 'base', '', {}, values, NOTHING)


def figures(gamble: Gamble) -> list[dict[str, Any]]:
  return [
    {
      'kind': 'curves', 'name': 'bandit', 'measure': 'bandit_far',
      'title': 'Optimum far from the reference',
      'caption': 'Expected reward of the policy while it trains, each arm at '
                 'its own best learning rate.',
    },
    {
      'kind': 'lines', 'name': 'refresh',
      'title': 'How old may the sampler be?',
      'xlabel': 'steps until the sampler becomes the policy',
      'ylabel': 'expected reward at the end', 'logx': True,
      'series': gamble.lines('refresh'),
      'caption': 'Far: every sample is used once. At 1 all samples are '
                 "the policy's own, at the right end all are the reference's.",
    },
    {
      'kind': 'lines', 'name': 'reuse',
      'title': 'How often may samples be used?',
      'xlabel': 'steps on the same samples',
      'ylabel': 'expected reward at the end', 'logx': True,
      'series': gamble.lines('reuse'),
      'caption': 'Far: as many steps in all, so 50 steps on the same samples '
                 'see a fiftieth of the states.',
    },
    {
      'kind': 'bars', 'name': 'places', 'title': 'Far and near',
      'measures': ['bandit_far', 'bandit_near'],
      'caption': 'Expected reward after training, with the optimum far from '
                 'the reference (left) and near it.',
    },
  ]  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  gamble = Gamble(runs, scale)
  arms = {'start': start_arm(gamble)}
  arms |= {name: make_arm(name, gamble) for name in ARMS}
  problems = {'states': gamble.counts(runs)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures(gamble), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
