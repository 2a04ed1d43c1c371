r"""Does sampling in proportion to reward find more of what is right?

python -m experiments.flows.run             # full: a quarter of an hour
python -m experiments.flows.run --reduced   # two minutes of one core

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, probes.py the exact measures,
tuned.py what is tuned.
"""

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np

from experiments.flows import shown
from experiments.flows.bench import Bench
from experiments.flows.design import READING, STUDY
from experiments.flows.settings import BEST, MOST, RATE, SCALES, WAYS, Scale
from experiments.flows.tuned import Chosen, heated, tune
from posttrain_jax import lab

Found = Mapping[str, np.ndarray]
_NAMES = ('kl', 'kl_back', 'entropy', 'hit', 'taken')
_SPREAD = ('distinct', 'even', 'missed', 'fit')
_SHARES = ('hit', 'taken', 'listed', 'right', 'missed')
# {part: (its base among arms, its PPO)}
FIRST = {
  'picks': ('base', 'ppo'), 'alike': ('alike_base', 'alike_ppo'),
  'names': ('names_base', 'names_ppo'),
}  # fmt: skip
# {part: {what a probe calls it: what the study does}}, where they differ.
_CALLED = {
  'alike': {'right': 'listed', 'distinct': 'names'},
  'names': {'right': 'listed'},
}


def values_of(
  part: str, found: Found, base: Found, ppo: Found | None = None,
  heat: float = 1.0,
) -> dict[str, np.ndarray]:  # fmt: skip
  """{measure: [S]} in the units of the study.

  base, ppo  what the same of these is; None where PPO is not there yet
  heat       temperature that names are drawn at
  """
  if part == 'names':
    own = {name: found[heated(name, heat)] for name in _NAMES}
    if heat == 1.0:  # when nothing holds them, it is known at 1 alone
      own['right'] = found['right']
  else:
    own = {name: found[name] for name in ('right', *_SPREAD)}
    own['gain'] = 100.0 * (found['right'] - base['right'])
    ppo = found if ppo is None else ppo
    own['ahead'] = 100.0 * (found['right'] - ppo['right'])
  called = _CALLED.get(part, {})
  return {
    called.get(k, k): 100.0 * x if k in _SHARES else x for k, x in own.items()
  }


def outcomes_of(found: Found) -> dict[str, np.ndarray]:
  """{measure: [S, N] by problem}, of picks."""
  ends = '/problems'
  return {k[: -len(ends)]: x for k, x in found.items() if k.endswith(ends)}


def base_arm(bench: Bench, found: Found) -> lab.Arm:
  """Where the arms of a part begin; its pretraining is nobody's."""
  base = bench.base()
  return lab.Arm(
    label={'picks': 'Base', 'alike': 'Alike: base', 'names': 'Names: base'}[
      bench.part
    ],
    family='base',
    config='configs/sft.py:recipe=sft',
    overrides={},
    values=values_of(bench.part, found, found),
    account=base.account,
    outcomes=outcomes_of(found),
  )


def make_arm(
  name: str, stage: lab.Trained, values: Found, found: Found, chosen: Chosen
) -> lab.Arm:
  way = WAYS[name]
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec,
    overrides=dict(way.items) | dict(way.task) | dict(way.hparams),
    values=values,
    account=lab.total_account([stage]),
    tuned={f'{RATE} of {way.part}': chosen.rates[name].entry},
    outcomes=outcomes_of(found),
  )


def most_arms(
  bench: Bench, chosen: Chosen, base: Found, ppo: Found
) -> dict[str, lab.Arm]:
  """The rows of MOST."""
  rows = {}
  for name, (label, of) in MOST.items():
    if set(of) & chosen.rates.keys():
      arm, tuned = chosen.most(name)
      stage = bench.stage(arm, tuned.chosen)
      found = bench.measured(stage)
      values = values_of('picks', found, base, ppo)
      made = make_arm(arm, stage, values, found, chosen)
      rows[name] = dataclasses.replace(
        made, label=f'{label} ({WAYS[arm].label})',
        tuned={f'{RATE} that finds most': tuned.entry},
      )  # fmt: skip
  return rows


def hot_ppo(bench: Bench, chosen: Chosen, arm: lab.Arm, base: Found) -> lab.Arm:
  """PPO drawn at the temperature at which it finds most."""
  heat = chosen.hot_ppo()
  stage = bench.stage('ppo', chosen.rates['ppo'].chosen)
  own, cold = bench.measured(stage, 'test', heat), bench.measured(stage)
  return dataclasses.replace(
    arm, label=f'PPO, drawn at {heat:g}', overrides={'temperature': heat},
    values=values_of('picks', own, base, cold), outcomes=outcomes_of(own),
  )  # fmt: skip


def hot_names(chosen: Chosen, arm: lab.Arm, found: Found) -> lab.Arm:
  """SFT drawn at the temperature at which it is nearest to what is wanted."""
  heat = chosen.heat('names_sft')
  return dataclasses.replace(
    arm, label=f'Names: SFT, drawn at {heat:g}',
    overrides={'temperature': heat},
    values=values_of('names', found, found, heat=heat),
  )  # fmt: skip


def best_arms(
  chosen: Chosen, arms: Mapping[str, lab.Arm]
) -> dict[str, lab.Arm]:
  """The rows that are the best of several: arms a second time."""
  rows = {
    name: (label, chosen.best(name))
    for name, (label, of) in BEST.items()
    if set(of) & arms.keys()
  }
  rows['best_flower'] = 'Best Flower', chosen.best_flower()
  return {
    name: dataclasses.replace(arms[arm], label=f'{label}: {arms[arm].label}')
    for name, (label, arm) in rows.items()
  }


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs, scale)
  arms: dict[str, lab.Arm] = {}
  seen: dict[str, Found] = {}
  problems = {}
  for part, (first, ppo) in FIRST.items():
    bench = Bench(runs, scale, part)
    seen[first] = bench.measured(bench.base())
    arms[first] = base_arm(bench, seen[first])
    own = [x for x in scale.arms if WAYS[x].part == part]
    stages = {x: bench.stage(x, chosen.rates[x].chosen) for x in own}
    seen |= {x: bench.measured(stage) for x, stage in stages.items()}
    for name, stage in stages.items():
      values = values_of(part, seen[name], seen[first], seen.get(ppo))
      arms[name] = make_arm(name, stage, values, seen[name], chosen)
    if part == 'picks':
      arms['hot_ppo'] = hot_ppo(bench, chosen, arms['ppo'], seen['base'])
      arms |= most_arms(bench, chosen, seen['base'], seen['ppo'])
      problems['picks'] = lab.of_probe(runs, bench.probe())
  sft = arms['names_sft'], seen['names_sft']
  arms['names_heat'] = hot_names(chosen, *sft)
  arms |= best_arms(chosen, arms)
  figures = shown.figures(arms, seen, chosen)
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures, reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
