r"""An adversary in place of a likelihood?

python -m experiments.two_models.study             # full
python -m experiments.two_models.study --reduced   # two minutes of one core

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, exact.py the optima of divergences,
tuned.py what is tuned.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.two_models import exact, shown
from experiments.two_models.bench import Bench, told_apart
from experiments.two_models.design import LESS, READING, STUDY
from experiments.two_models.settings import (
  EXACT,
  HEATS,
  RATE,
  SCALES,
  WAYS,
  Scale,
)
from experiments.two_models.tuned import tune
from posttrain_jax import lab

Found = Mapping[str, np.ndarray]


def values_of(found: Found, base: Found, at: int = 0) -> Found:
  """{measure: [S]} in the units of the study, of what was measured of a policy
  and its base.

  at  place of its temperature in HEATS
  """
  own = {name: x[:, at] for name, x in found.items()}
  return {
    'right': 100.0 * own['right'],
    'gain': 100.0 * (own['right'] - base['right'][:, 0]),
    **{name: own[name] for name in ('distinct', 'even', 'fit')},
  }


def base_arm(bench: Bench, found: Found) -> lab.Arm:
  """Where all arms begin; its pretraining is nobody's."""
  return lab.Arm(
    'Base', 'base', 'configs/sft.py:recipe=sft', {}, values_of(found, found),
    bench.base().account,
  )  # fmt: skip


def make_arm(
  name: str, stages: Sequence[lab.Trained], tuned: lab.Tuned, found: Found,
  base: Found,
) -> lab.Arm:  # fmt: skip
  """An arm at its rate."""
  way = WAYS[name]
  values = dict(values_of(found, base))
  spec, overrides = 'configs/sft.py:recipe=sft', {}
  if way.kind:
    values['told'] = told_apart(stages)
    spec = 'configs/rl.py:recipe=rlhf'
    overrides = {'adversary': way.kind, 'kl.coef': way.penalty}
  return lab.Arm(
    way.label, way.family, spec, overrides, values, lab.total_account(stages),
    {RATE: tuned.entry},
  )  # fmt: skip


def less_arm(arm: lab.Arm) -> lab.Arm:
  """SFT with so many points fewer, to judge "at most so far behind" by."""
  right = np.asarray(arm.values['right']) - LESS
  return dataclasses.replace(
    arm, label=f'SFT, less {LESS:g} points', values={'right': right},
    account=[],
  )  # fmt: skip


def cold_arm(
  arm: lab.Arm, found: Found, heat: float, base: Found, reverse: lab.Arm
) -> lab.Arm:
  """SFT drawn at a temperature of HEATS."""
  values = dict(values_of(found, base, HEATS.index(heat)))
  values['apart'] = values['even'] - np.asarray(reverse.values['even'])
  return dataclasses.replace(
    arm, label=f'SFT, drawn at {heat:g}', values=values, account=[],
    overrides={'temperature': heat},
  )  # fmt: skip


def exact_arms(runs: lab.Lab, scale: Scale) -> dict[str, lab.Arm]:
  """The optima of divergences."""
  found = lab.look(runs, 'exact', exact.Exact(scale.exact_steps))
  arms = {}
  for name, label in EXACT.items():
    values = {
      measure: np.asarray(found[f'{name}/{measure}'])
      for measure in ('right', 'distinct', 'even', 'own', 'ahead', 'drop')
    }
    values['right'] = 100.0 * values['right']
    arms[name] = lab.Arm(label, 'base', '', {}, values, [])
  return arms


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs, scale)
  bench = Bench(runs, scale)
  base = bench.measured(bench.base())
  arms, seen = {'base': base_arm(bench, base)}, {}
  for name in scale.arms:
    tuned = chosen.rates[name]
    stages = bench.stages(name, tuned.chosen)
    seen[name] = bench.measured(stages[-1])
    arms[name] = make_arm(name, stages, tuned, seen[name], base)
  arms['sft_cold'] = cold_arm(
    arms['sft'], seen['sft'], chosen.heat, base, arms['reverse']
  )
  arms['sft_less'] = less_arm(arms['sft'])
  arms |= exact_arms(runs, scale)
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, shown.figures(arms, chosen, seen['sft']), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
