r"""An adversary in place of a likelihood?

python -m experiments.two_models.run             # full
python -m experiments.two_models.run --reduced   # two minutes of one core

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, exact.py the optima of divergences,
tuned.py what is tuned.
"""

import dataclasses
import sys
from collections.abc import Mapping

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
from experiments.two_models.tuned import Chosen, tune
from posttrain_jax import lab

Found = Mapping[str, np.ndarray]


def values_of(found: Found, base: Found) -> dict[str, np.ndarray]:
  """{measure: [S]} in the units of the study, of what was measured of a policy
  and its base."""
  return {
    'right': 100.0 * found['right'],
    'gain': 100.0 * (found['right'] - base['right']),
    **{name: found[name] for name in ('distinct', 'even', 'fit')},
  }


def outcomes_of(found: Found, shifted: Found) -> dict[str, np.ndarray]:
  """{measure: [S, N] by problem}."""
  return {
    'right': found['right/problems'],
    'distinct': found['distinct/problems'],
    'shifted': shifted['right/problems'],
  }


def base_arm(bench: Bench) -> lab.Arm:
  """Where all arms begin; its pretraining is nobody's."""
  base = bench.base()
  found, shifted = bench.measured(base), bench.measured(base, shifted=True)
  values = values_of(found, found) | {'shifted': 100.0 * shifted['right']}
  return lab.Arm(
    'Base', 'base', 'configs/sft.py:recipe=sft', {}, values, base.account,
    outcomes=outcomes_of(found, shifted),
  )  # fmt: skip


def make_arm(bench: Bench, name: str, chosen: Chosen, base: Found) -> lab.Arm:
  """An arm at its rate."""
  way, tuned = WAYS[name], chosen.rates[name]
  stages = bench.stages(name, tuned.chosen)
  found = bench.measured(stages[-1])
  shifted = bench.measured(stages[-1], shifted=True)
  values = values_of(found, base) | {'shifted': 100.0 * shifted['right']}
  overrides = {}
  if way.kind:
    values['told'] = told_apart(stages)
    overrides = {'adversary': way.kind, 'kl.coef': way.penalty}
  recipe = 'configs/rl.py:recipe=rlhf' if way.kind else ''
  return lab.Arm(
    way.label, way.family, recipe or 'configs/sft.py:recipe=sft', overrides,
    values, lab.total_account(stages), {RATE: tuned.entry},
    outcomes=outcomes_of(found, shifted),
  )  # fmt: skip


def less_arm(arm: lab.Arm) -> lab.Arm:
  """SFT with so many points fewer, to judge "at most so far behind" by."""
  right = np.asarray(arm.values['right']) - LESS
  return dataclasses.replace(
    arm, label=f'SFT, less {LESS:g} points', values={'right': right},
    account=[],
    outcomes={'right': arm.outcomes['right'] - LESS / 100.0},
  )  # fmt: skip


def cold_arm(
  arm: lab.Arm, heated: Found, heat: float, base: Found, reverse: lab.Arm
) -> lab.Arm:
  """SFT drawn at a temperature of HEATS."""
  at = HEATS.index(heat)
  values = values_of({name: x[:, at] for name, x in heated.items()}, base)
  values['apart'] = values['distinct'] - np.asarray(reverse.values['distinct'])
  return dataclasses.replace(
    arm, label=f'SFT, drawn at {heat:g}', values=values, account=[],
    overrides={'temperature': heat}, outcomes={},
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
  arms = {'base': base_arm(bench)}
  for name in scale.arms:
    arms[name] = make_arm(bench, name, chosen, base)
  sft = bench.stages('sft', chosen.rates['sft'].chosen)[-1]
  heated = bench.heated(sft)
  arms['sft_cold'] = cold_arm(
    arms['sft'], heated, chosen.heat, base, arms['reverse']
  )
  arms['sft_less'] = less_arm(arms['sft'])
  arms |= exact_arms(runs, scale)
  problems = {
    'picks': lab.of_probe(runs, bench.probe()),
    'shifted': lab.of_probe(runs, bench.probe(shifted=True)),
  }
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(arms, chosen, heated), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
