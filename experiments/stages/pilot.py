r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.stages.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import argparse
import dataclasses
import sys

import numpy as np

from experiments.stages import contrast
from experiments.stages.bench import Bench
from experiments.stages.design import STUDY
from experiments.stages.run import LIKELY
from experiments.stages.settings import BEST, SCALES, STEPS
from experiments.stages.tuned import Gamble, tune
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def main() -> int:
  """Prints what arms come to, seed by seed, and how claims' gaps spread."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arms', default='', help='some, as sft,dpo,rlvr')
  parser.add_argument('--workdir', default='runs/stages-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  if flags.arms:
    scale = dataclasses.replace(scale, arms=tuple(flags.arms.split(',')))
  runtime.prepare(runs=scale.seeds)
  first = scale.first_seed
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, range(first, first + scale.seeds), bar)
    chosen = tune(runs, scale)
    count = len(scale.tune_seeds)
    bench = Bench(runs.beside(scale.tune_seeds * scale.places), scale)
    best = {}
    for arm in ('base', *scale.arms):
      stage = bench.base() if arm == 'base' else bench.arm(arm, chosen.rates)
      kept, kl = bench.kept(stage, 'validation')
      values = {
        'accuracy': 100.0 * bench.right(stage, 'validation').mean(1),
        'kept': 100.0 * kept.mean(1), 'kl': kl,
      }  # fmt: skip
      if arm in LIKELY:
        start = bench.arm('sft', chosen.rates)
        values |= bench.moved(stage, start, 'validation')
      best[arm] = {x: value[:count] for x, value in values.items()}
      if arm != 'base':
        before = best[STEPS[arm].after or 'base']['accuracy']
        best[arm]['added'] = best[arm]['accuracy'] - before
      for rate, score in sorted(chosen.scores.get(arm, {}).items()):
        mark = '*' if rate == chosen.rates[arm] else ' '
        print(f'{arm:14} {rate:8.1e}{mark} {100.0 * np.mean(score):6.1f} |'
              f'{lab.row(100.0 * score)}', flush=True)  # fmt: skip
      for name, value in best[arm].items():
        print(f'{arm:14} {name:9} {np.mean(value):7.2f} |', np.round(value, 2),
              f' {stage.wall_seconds:.0f} s', flush=True)  # fmt: skip
    for name, (_, of) in BEST.items():
      if set(of) <= best.keys():
        best[name] = best[chosen.best(name)]
        print(f'{name:14} {chosen.best(name)}')
    gamble = Gamble(runs.beside(scale.tune_seeds), scale)
  for name in contrast.METHODS:
    regret = gamble.get(name, 'regret')
    best[name] = {'regret': regret}
    print(f'{name:14} {gamble.tuned[name].chosen:g}', np.round(regret, 4),
          np.round(gamble.get(name, 'paper'), 4))  # fmt: skip
  best['optimum'] = {'regret': 0.0 * regret}
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
