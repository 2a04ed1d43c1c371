r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.hybrids.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import sys

import numpy as np

from experiments.hybrids import run
from experiments.hybrids.design import SCALES, STUDY
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def main() -> int:
  """Prints accuracies in %, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=len(scale.tuning_seeds))
  with progress.Progress() as bar:
    own = lab.Lab('runs/hybrids-full', scale.tuning_seeds, bar)
    tuned, judge = run.tune(own, scale)
    base = run.base_of(own, scale)
  right, entropy = judge.new(base, 'validation')
  start = 100.0 * right.mean(1)
  kept = 100.0 * judge.kept(base).mean(1)
  print('base', np.round(start, 1), np.round(entropy, 2), np.round(kept, 1))
  best = {}
  for arm, found in tuned.items():
    for rate, stage in sorted(found.tried.items()):
      right, entropy = judge.new(stage, 'validation')
      value = 100.0 * right.mean(1)
      mark = '*' if rate == found.chosen else ' '
      print(f'{arm:14} {rate:8.1e}{mark} {np.mean(value):6.1f}',
            np.round(value, 1), np.round(entropy, 2))  # fmt: skip
      if mark == '*':
        best[arm] = {'new': value, 'entropy': entropy}
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{own.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
