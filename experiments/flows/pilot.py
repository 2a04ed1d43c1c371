r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.flows.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import argparse
import dataclasses
import sys

import numpy as np

from experiments.flows import run
from experiments.flows.bench import Bench
from experiments.flows.design import STUDY
from experiments.flows.settings import BEST, MOST, SCALES, WAYS
from experiments.flows.tuned import Chosen, tune
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def _table(chosen: Chosen, bases: dict) -> dict[str, dict[str, np.ndarray]]:
  """Prints what arms come to; {arm: values at its rate}."""
  best: dict[str, dict[str, np.ndarray]] = {}
  for part, base in bases.items():
    best[f'{part}_base'] = run.values_of(part, base, base)
    _say(f'{part}_base', '', best[f'{part}_base'])
  at_best = lambda arm: chosen.found[arm][chosen.rates[arm].chosen]
  ppos = {
    part: at_best(ppo)
    for part, (_, ppo) in run.FIRST.items()
    if ppo in chosen.rates
  }
  for arm, tuned in chosen.rates.items():
    part = WAYS[arm].part
    for rate, found in sorted(chosen.found[arm].items()):
      values = run.values_of(part, found, bases[part], ppos.get(part))
      mark = '*' if rate == tuned.chosen else ''
      _say(arm, f'{rate:.1e}{mark}', values)
      if mark:
        best[arm] = values
  for heat, found in chosen.hot.items():
    values = run.values_of('picks', found, bases['picks'], ppos['picks'])
    _say('ppo', f'at {heat:g}', values)
  heat = chosen.heat('names_sft')
  found = at_best('names_sft')
  best['names_heat'] = run.values_of('names', found, found, heat=heat)
  _say('names_heat', f'at {heat:g}', best['names_heat'])
  return best


def _say(name: str, what: str, values) -> None:
  cells = '  '.join(
    f'{key} {np.mean(x):.3g} ({", ".join(f"{y:.3g}" for y in x)})'
    for key, x in values.items()
  )
  print(f'{name:13} {what:9} {cells}', flush=True)


def main() -> int:
  """Prints measures seed by seed, and how claims' gaps spread."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arms', default='', help='some, as ppo,names_sft')
  parser.add_argument('--workdir', default='runs/flows-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  if flags.arms:
    scale = dataclasses.replace(scale, arms=tuple(flags.arms.split(',')))
  runtime.prepare(runs=scale.seeds)
  first = scale.first_seed
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, range(first, first + scale.seeds), bar)
    chosen = tune(runs, scale)
    own = runs.beside(scale.tune_seeds * scale.places)
    bases = {}
    for part in scale.grids:
      bench = Bench(own, scale, part)
      found = bench.measured(bench.base(), 'validation')
      bases[part] = {k: x[: len(scale.tune_seeds)] for k, x in found.items()}
  best = _table(chosen, bases)
  for name, (_, of) in BEST.items():
    if set(of) & best.keys():
      best[name] = best[chosen.best(name)]
      print(f'{name:14} {chosen.best(name)}')
  for name, (_, of) in MOST.items():
    if set(of) & best.keys():
      arm, tuned = chosen.most(name)
      found = chosen.found[arm][tuned.chosen]
      best[name] = run.values_of('picks', found, bases['picks'])
      _say(name, f'{tuned.chosen:.1e}', best[name])
  best['best_flower'] = best[chosen.best_flower()]
  print(f'best_flower    {chosen.best_flower()}')
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
