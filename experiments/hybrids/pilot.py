r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.hybrids.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import sys

import numpy as np

from experiments.hybrids import run
from experiments.hybrids.design import SCALES, STUDY, Scale
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def show(study: lab.Study, scale: Scale) -> None:
  """Prints accuracies in %, seed by seed."""
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab(f'runs/{study.name}-full', range(scale.seeds), bar)
    found, judge, base = run.tune(runs, scale)
  count = len(scale.tuning_seeds)
  right, entropy = judge.new(base, 'validation')
  start = 100.0 * right.mean(1)[:count]
  kept = 100.0 * judge.kept(base).mean(1)[:count]
  print('base', np.round(start, 1), np.round(entropy[:count], 2),
        np.round(kept, 1))  # fmt: skip
  best = {}
  for arm, tuned in found.rates.items():
    for rate, score in sorted(found.scores[arm].items()):
      value, nats = 100.0 * score, found.entropy[arm][rate]
      mark = '*' if rate == tuned.chosen else ' '
      print(f'{arm:14} {rate:8.1e}{mark} {np.mean(value):6.1f}',
            np.round(value, 1), np.round(nats, 2))  # fmt: skip
      if mark == '*':
        best[arm] = {'new': value, 'entropy': nats}
  print(*lab.gaps(study.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')


if __name__ == '__main__':
  sys.exit(show(STUDY, SCALES['full']))
