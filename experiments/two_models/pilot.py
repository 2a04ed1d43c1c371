r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.two_models.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds.
"""

import argparse
import dataclasses
import sys

import numpy as np

from experiments.two_models.bench import Bench, told_apart
from experiments.two_models.design import LESS, STUDY
from experiments.two_models.settings import HEATS, SCALES
from experiments.two_models.study import values_of
from experiments.two_models.tuned import tune
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = ('right', 'distinct', 'even')


def _line(values) -> str:
  return ' | '.join(f'{x} {np.round(values[x], 2)}' for x in SHOWN)


def _told(bench: Bench, arm: str) -> dict[float, np.ndarray]:
  """{rate: [seeds] what the arm's adversary tells in its last turn}."""
  scale = bench.scale
  count = len(scale.tune_seeds)
  stages = bench.stages(arm, [x for x in scale.grid for _ in range(count)])
  if len(stages) == 1:
    return {}
  told = told_apart(stages).reshape(-1, count)
  return dict(zip(scale.grid, told))


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
    start = {x: v[:count] for x, v in bench.measured(bench.base()).items()}
    best['base'] = values_of(start, start)
    print('base', _line(best['base']), flush=True)
    for arm in scale.arms:
      for rate, told in _told(bench, arm).items():
        print(f'{arm:8} {rate:8.1e} told apart {lab.row(told)}', flush=True)
    chosen = tune(runs, dataclasses.replace(scale, extend=0))
    for arm, tried in chosen.found.items():
      for rate, found in sorted(tried.items()):
        values = values_of(found, start)
        mark = '*' if rate == chosen.rates[arm].chosen else ' '
        print(f'{arm:8} {rate:8.1e}{mark} {_line(values)}', flush=True)
        if mark == '*':
          best[arm] = values
  at = HEATS.index(chosen.heat)
  for i, heat in enumerate(HEATS):
    print(f'sft at {heat:g}', _line(values_of(chosen.best('sft'), start, i)))
  best['sft_cold'] = values_of(chosen.best('sft'), start, at)
  best['sft_less'] = {'right': best['sft']['right'] - LESS}
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
