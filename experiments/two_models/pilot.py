r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.two_models.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on. What is exact has no
seeds of training and no pilot but its program's test.
"""

import argparse
import dataclasses
import sys

import numpy as np

from experiments.two_models.bench import Bench, told_apart
from experiments.two_models.design import LESS, STUDY
from experiments.two_models.run import values_of
from experiments.two_models.settings import HEATS, SCALES
from experiments.two_models.tuned import tune
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = ('right', 'distinct', 'even')


def _line(values) -> str:
  return ' | '.join(f'{x} {np.round(values[x], 2)}' for x in SHOWN)


def main() -> int:
  """Prints what arms come to, seed by seed, and how claims' gaps spread."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/two_models-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  first, count = scale.first_seed, len(scale.tune_seeds)
  best = {}
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, range(first, first + scale.seeds), bar)
    bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
    found = bench.measured(bench.base(), 'validation')
    start = {name: x[:count] for name, x in found.items()}
    best['base'] = values_of(start, start)
    print('base', _line(best['base']), flush=True)
    chosen = tune(runs, dataclasses.replace(scale, extend=0))
    for arm, tried in chosen.found.items():
      for rate, found in sorted(tried.items()):
        values = values_of(found, start)
        mark = '*' if rate == chosen.rates[arm].chosen else ' '
        print(f'{arm:8} {rate:8.1e}{mark} {_line(values)}', flush=True)
        if mark == '*':
          best[arm] = values
      stages = bench.stages(arm, [x for x in scale.grid for _ in range(count)])
      if len(stages) > 1:
        print(f'{arm:8} told apart {lab.row(told_apart(stages))}')
      seen = bench.measured(stages[-1], 'validation', shifted=True)
      at = count * scale.grid.index(chosen.rates[arm].chosen)
      best[arm]['shifted'] = 100.0 * seen['right'][at : at + count]
      print(f'{arm:8} shifted {lab.row(best[arm]["shifted"])}', flush=True)
    seen = bench.measured(bench.base(), 'validation', shifted=True)
    print(f'base     shifted {lab.row(100.0 * seen["right"][:count])}')
  cold = chosen.best('sft')
  at = HEATS.index(chosen.heat)
  for i, heat in enumerate(HEATS):
    print(f'sft at {heat:g}', *(
      np.round(cold[f'{x}/heats'][:, i], 2) for x in ('right', 'distinct')
    ))  # fmt: skip
  best['sft_cold'] = {'right': 100.0 * cold['right/heats'][:, at]}
  best['sft_less'] = {'right': best['sft']['right'] - LESS}
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
