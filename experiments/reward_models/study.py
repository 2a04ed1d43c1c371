r"""What helps a reward model, and against a reward that is exploited?

  python -m experiments.reward_models.study             # full
  python -m experiments.reward_models.study --reduced   # two minutes

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, tuned.py their rates.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reward_models import shown, tuned
from experiments.reward_models.bench import Bench, wrong
from experiments.reward_models.design import READING, STUDY
from experiments.reward_models.settings import (
  MODELS,
  POLICIES,
  PROGRAMS,
  RUBRICS,
  SCALES,
  WAYS,
  Scale,
)
from posttrain_jax import lab


def stages_of(bench: Bench, arm: str) -> list[lab.Trained]:
  """What an arm costs besides the base: itself, and what it rests on."""
  way = WAYS[arm]
  found = [bench.known(arm)]
  others = bench.others(way.program)
  for role, made in others.items():
    # The policy that MetaRM reads is trained with a reward model of its own.
    found += [made, bench.known('plain')] if role == 'later' else [made]
  return found + ([bench.known(way.after)] if way.after else [])


def arm_of(
  arm: str, values: Mapping[str, np.ndarray],
  account: Sequence[Mapping[str, float]], found: tuned.Tuning, **more: Any,
) -> lab.Arm:  # fmt: skip
  way = WAYS[arm]
  spec, items, others = PROGRAMS[way.program]
  values = dict(values)
  outcomes = {}
  if 'problems' in values:
    outcomes['gold'] = values.pop('problems')
  return lab.Arm(
    label=way.label, family=way.family, config=spec,
    overrides=dict(items) | dict(way.hparams) | {
      f'others.{role}': 'a model of the study' for role in others
    },
    values=values, account=account, tuned=found.entry(arm), outcomes=outcomes,
    **more,
  )  # fmt: skip


def models(bench: Bench, found: tuned.Tuning) -> dict[str, lab.Arm]:
  """The reward models."""
  values = {arm: bench.model(bench.known(arm), 'test') for arm in MODELS}
  share = wrong(bench.known('flip'))
  values['flip']['wrong'] = share['turned']
  values['plain']['wrong'] = share['any']
  return {
    arm: arm_of(arm, values[arm], lab.total_account(stages_of(bench, arm)),
                found)
    for arm in MODELS
  }  # fmt: skip


def policies(bench: Bench, found: tuned.Tuning) -> dict[str, lab.Arm]:
  """Those that learn of demonstrations, or of the plain reward model."""
  return {
    arm: arm_of(arm, bench.policy(bench.known(arm), 'test'),
                lab.total_account(stages_of(bench, arm)), found)
    for arm in POLICIES
  }  # fmt: skip


def rubrics(
  bench: Bench, scale: Scale, found: tuned.Tuning
) -> dict[str, lab.Arm]:
  """Those that learn by a rubric, with what they are after each round."""
  made = {}
  for arm in RUBRICS:
    seen = bench.rubric(arm, found.rates['gold'])
    each = [bench.policy(x.models['policy'], 'test') for x in seen]
    start = bench.policy(bench.base(), 'test')
    each = [start, *each]
    step = scale.steps // scale.rounds
    curves = {
      name: {
        'x': [step * i for i in range(len(each))], 'xlabel': 'steps of PPO',
        'y': np.stack([x[name] for x in each], 1).round(3).tolist(),
      }
      for name in ('gold', 'rubric')
    }  # fmt: skip
    made[arm] = arm_of(arm, each[-1], seen[-1].account, found, curves=curves)
  return made


def base_arm(bench: Bench) -> lab.Arm:
  """Where all arms start."""
  base = bench.base()
  values = bench.policy(base, 'test')
  outcomes = {'gold': values.pop('problems')}
  return lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, values=values, account=base.account, outcomes=outcomes,
  )  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  found = tuned.tune(runs, scale)
  rates = {arm: found.rates[WAYS[arm].rate_of or arm] for arm in WAYS}
  bench = Bench(runs, scale, rates)
  arms = {'base': base_arm(bench)}
  arms |= models(bench, found)
  arms |= policies(bench, found)
  arms |= rubrics(bench, scale, found)
  counts = lab.of_probe(runs, bench.probe('test'))
  study = dataclasses.replace(STUDY, problems={'strings': counts})
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
