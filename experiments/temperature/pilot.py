r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.temperature.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import sys

import numpy as np

from experiments.temperature import run
from experiments.temperature.design import HELD_AT, SCALES, STUDY
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def main() -> int:
  """Prints accuracies in % and entropies in training, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab('runs/temperature-full', range(scale.seeds), bar)
    found = run.tune(runs, scale)
    own = runs.beside(scale.tuning_seeds)
    bases = run.bases_of(own, scale)
  judge = run.Judge(own, bases, scale)
  starts = {
    name: 100.0 * judge.right(x, 'validation').mean(1)
    for name, x in bases.items()
  }
  for name, value in starts.items():
    print(f'{name:14} {np.mean(value):6.1f} |{lab.row(value)}')
  best = {'strong': {'gap': starts['strong'] - starts['weak']}}
  for arm, tuned in found.rates.items():
    for rate, score in sorted(found.scores[arm].items()):
      entropy = found.entropy[arm][rate]
      late = entropy[:, entropy.shape[1] // 2 :].mean(1)
      mark = '*' if rate == tuned.chosen else ' '
      print(f'{arm:14} {rate:8.1e}{mark} {100.0 * np.mean(score):6.1f} |'
            f'{lab.row(100.0 * score)} | nats', np.round(late, 2))  # fmt: skip
      if mark == '*':
        off = run.miss(entropy, HELD_AT)
        best[arm] = {'accuracy': 100.0 * score, 'miss': off}
  if {'t_1', 'weak_t_1'} <= best.keys():
    ahead = best['t_1']['accuracy'] - best['weak_t_1']['accuracy']
    best['t_1']['gap'] = ahead
  for name, arm in run.picked(found).items():
    best[name] = best[arm]
    print(f'{name:14} {arm}')
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
