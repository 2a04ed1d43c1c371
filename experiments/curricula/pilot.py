r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.curricula.pilot

Trains the arms that claims compare at the rates of the study's grid, with its
tuning seeds and in its folder (so that the study does not do it again), and
prints what they come to on the problems that choices are made on, and how far
claims' differences spread.
"""

import dataclasses
import sys

from experiments.curricula import run
from experiments.curricula.design import (
  BANDITS,
  BEST,
  CLAIMS,
  LEVELS,
  SCALES,
  measure_of,
)
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

# Those of claims; what says most about the setting comes first.
ARMS = (
  'uniform', 'bandit_sharp', 'bandit', 'easy_to_hard',
)  # fmt: skip


def main() -> int:
  """Prints accuracies in % by level, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  best, scores = {}, {}
  with progress.Progress() as bar:
    runs = lab.Lab('runs/curricula-full', range(scale.seeds), bar)
    for arm in ARMS:
      found = run.tune(runs, dataclasses.replace(scale, arms=(arm,)))
      if not scores:
        print(f'{"base":12} {line(found.start)}', flush=True)
      scores |= found.scores
      for rate, values in sorted(found.values[arm].items()):
        mark = '*' if rate == found.rates[arm].chosen else ' '
        print(f'{arm:12} {rate:8.1e}{mark} {line(values)}', flush=True)
        if mark == '*':
          best[arm] = values
  best[BEST] = best[max(BANDITS, key=scores.get)]
  print({arm: round(x, 3) for arm, x in scores.items()})
  print(*lab.gaps(CLAIMS, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


def line(values) -> str:
  shown = ('accuracy', *map(measure_of, LEVELS))
  return ' | '.join(f'{name}{lab.row(values[name])}' for name in shown)


if __name__ == '__main__':
  sys.exit(main())
