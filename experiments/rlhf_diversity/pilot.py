r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.rlhf_diversity.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from experiments.rlhf_diversity import run
from experiments.rlhf_diversity.design import SCALES, STUDY
from posttrain_jax import lab
from posttrain_jax.run import runtime


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/rlhf_diversity-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  runtime.prepare(runs=len(scale.tuning_seeds))
  own = lab.Lab(Path(flags.workdir), scale.tuning_seeds)
  base = run.make_base(own, scale.tuning_bases, scale)
  right = run.chooser(own, base, scale)
  print('base', lab.row(100 * np.array(right(base))), f'{own.seconds:.0f} s')
  sys.stdout.flush()
  chosen = run.tune(own, scale)
  for name, tuned in zip(('sft', 'ppo'), chosen):
    for rate, stage in sorted(tuned.tried.items()):
      mark = '*' if rate == tuned.chosen else ' '
      seen = lab.row(100 * np.array(right(stage)))
      print(f'{name} {rate:g}{mark}', seen, f'{stage.wall_seconds:.0f} s')
  sys.stdout.flush()
  arms, _ = run.make_arms(own, scale.tuning_bases, chosen, scale)
  for name, arm in arms.items():
    print(name)
    for measure, values in arm.values.items():
      factor = 1 if STUDY.measures[measure].unit == '%' else 100
      print(f'  {measure:16}', lab.row(factor * np.asarray(values)))
  found = {name: arm.values for name, arm in arms.items()}
  print(*lab.gaps(STUDY.claims, found), sep='\n')
  print(f'{own.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
