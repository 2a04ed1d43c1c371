r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.sft_objectives.pilot

With seeds of its own, in a folder of its own: chooses rates as the study does,
and prints what every arm comes to on the problems that choices are made on, and
what it keeps of the base's tasks. Its grid does not grow.
"""

import argparse
import dataclasses
import sys

from experiments.sft_objectives import run
from experiments.sft_objectives.design import SCALES, STUDY, arm_of
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SEEDS, BASES = (110, 111), (210, 211)


def main() -> int:
  """Prints accuracies in %, seed by seed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arms', default='', help='some, as nll,dft_rows')
  flags = parser.parse_args()
  scale = dataclasses.replace(SCALES['full'], base_seeds=BASES, extend=0)
  if flags.arms:
    known = {arm_of(*pair): pair for pair in scale.arms}
    asked = tuple(known[arm] for arm in flags.arms.split(','))
    scale = dataclasses.replace(scale, arms=asked)
  runtime.prepare(runs=len(SEEDS))
  with progress.Progress() as bar:
    own = lab.Lab('runs/sft_objectives-pilot', SEEDS, bar)
    bench = run.bench_of(own, scale)
    judge = bench.judge
    start = {
      name: 100.0 * judge.choice(stage).mean(1)
      for name, stage in (('base', bench.base), ('clean_only', bench.clean))
    }
    for name, value in start.items():
      print(f'{name:26}', lab.row(value), flush=True)
    tuned = run.tune(bench)
    best = {
      'base': {'new': start['base']},
      'clean_only': {'new': start['clean_only']},
    }
    for arm, found in tuned.items():
      for rate, stage in sorted(found.tried.items()):
        value = 100.0 * judge.choice(stage).mean(1)
        mark = '*' if rate == found.chosen else ' '
        print(f'{arm:17} {rate:7.1e}{mark}', lab.row(value),
              f'  {stage.wall_seconds:.0f} s', flush=True)  # fmt: skip
        if mark == '*':
          best[arm] = {'new': value}
      kept = 100.0 * judge.kept(found.tried[found.chosen]).mean(1)
      print(f'{arm:17} keeps   ', lab.row(kept), flush=True)
      best[arm]['kept'] = kept
  print(*lab.gaps(STUDY.claims, best), sep='\n')
  print(f'{own.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
