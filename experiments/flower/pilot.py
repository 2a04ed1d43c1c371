r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.flower.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to.
"""

import argparse
import sys

import numpy as np

from experiments.flower import run
from experiments.flower.design import CLAIMS
from experiments.flower.settings import SCALES
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def _say(name: str, what: str, values) -> None:
  cells = '  '.join(
    f'{key} {np.mean(x):.3g} ({", ".join(f"{y:.3g}" for y in x)})'
    for key, x in values.items()
  )
  print(f'{name:13} {what:9} {cells}', flush=True)


def main() -> int:
  """Prints measures seed by seed, and how claims' gaps spread."""
  argparse.ArgumentParser(description=__doc__).parse_args()
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  first = scale.first_seed
  with progress.Progress() as bar:
    seeds = range(first, first + scale.seeds)
    runs = lab.Lab('runs/flower-full', seeds, bar)
    chosen = run.tune(runs, scale)
  best = {'base': run.values_of(chosen.start)}
  _say('base', '', best['base'])
  for arm, tuned in chosen.rates.items():
    for rate, found in sorted(chosen.found[arm].items()):
      mark = '*' if rate == tuned.chosen else ''
      _say(arm, f'{rate:.1e}{mark}', run.values_of(found))
    best[arm] = run.values_of(chosen.best(arm))
  heat = chosen.heat()
  best['heat'] = run.values_of(chosen.best('sft'), heat)
  _say('heat', f'at {heat:g}', best['heat'])
  best['flower'] = best[chosen.flower()]
  print(f'flower: {chosen.flower()}')
  print(*lab.gaps(CLAIMS, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
