r"""What helps against a reward that is exploited, and on the way to a reward?

  python -m experiments.reward_models.run             # full
  python -m experiments.reward_models.run --reduced   # into runs/

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, tuned.py their rates.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.reward_models import shown, tuned
from experiments.reward_models.bench import Bench
from experiments.reward_models.design import READING, STUDY
from experiments.reward_models.settings import (
  NUMBERS,
  PROGRAMS,
  SCALES,
  WAYS,
  Scale,
)
from posttrain_jax import lab


def arm_of(bench: Bench, arm: str, found: tuned.Tuning) -> lab.Arm:
  """Trains an arm at its rate and measures it, of PPO after each round."""
  way = WAYS[arm]
  spec, items = PROGRAMS[way.program]
  stages = bench.train(arm, found.rate(arm))
  values, outcomes = bench.values(stages[-1], 'test')
  costs = [*stages, bench.start(arm)] if way.after else stages
  return lab.Arm(
    label=way.label, family=way.family, config=spec,
    overrides=dict(items) | dict(zip(NUMBERS, way.weights)),
    values=values, account=lab.total_account(costs), tuned=found.entry(arm),
    curves=curves(bench, arm, stages), outcomes=outcomes,
  )  # fmt: skip


def curves(bench: Bench, arm: str, stages: list[lab.Trained]) -> dict[str, Any]:
  """What PPO is after each round, from where it began."""
  if len(stages) == 1:
    return {}
  seen = [bench.values(x, 'test')[0] for x in (bench.start(arm), *stages)]
  step = stages[0].config.num_steps
  return {
    name: {
      'x': [step * i for i in range(len(seen))], 'xlabel': 'steps of PPO',
      'y': np.stack([x[name] for x in seen], 1).round(3).tolist(),
    }
    for name in ('gold', 'vowels')
  }  # fmt: skip


def base_arm(bench: Bench) -> lab.Arm:
  """Where all arms start."""
  base = bench.base()
  values, outcomes = bench.values(base, 'test')
  return lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, values=values, account=base.account, outcomes=outcomes,
  )  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  found = tuned.tune(runs, scale)
  bench = Bench(runs, scale, {arm: found.rate(arm) for arm in WAYS})
  arms = {'base': base_arm(bench)}
  arms |= {arm: arm_of(bench, arm, found) for arm in WAYS}
  counts = lab.of_probe(runs, bench.probe('test'))
  study = dataclasses.replace(STUDY, problems={'strings': counts})
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
