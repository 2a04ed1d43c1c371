r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.credit.pilot

Every arm at the rates of the study's grid, with seeds of its own, on the
problems that choices are made on, in a folder of its own. Prints what bases and
arms come to, and how far claims' differences spread.
"""

import dataclasses
import sys

import numpy as np

from experiments.credit import run
from experiments.credit.design import CLAIMS, SCALES
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SEEDS = (300, 301)
SHOWN = ('accuracy', 'curve', 'regret', 'price', 'length')


def main() -> int:
  """Prints accuracies in % and what else is claimed of, seed by seed."""
  scale = dataclasses.replace(SCALES['full'], tuning_seeds=SEEDS, extend=0)
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab('runs/credit-pilot', SEEDS * (scale.seeds // 2), bar)
    found = run.tune(runs, scale)
  shown = lambda values: ' | '.join(
    f'{name}{lab.row(values[name])}' for name in SHOWN if name in values
  )
  print(f'{"base":22} {shown(found.start)}')
  best = {'base': found.start}
  for arm, tuned in found.rates.items():
    for rate, values in sorted(found.values[arm].items()):
      mark = '*' if rate == tuned.chosen else ' '
      print(f'{arm:12} {rate:8.1e}{mark} {shown(values)}')
      if mark == '*':
        best[arm] = values
  print(*lab.gaps(CLAIMS, best), sep='\n')
  for arm, values in best.items():
    print(f'{arm:12} {np.mean(values["accuracy"]):5.1f}')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
