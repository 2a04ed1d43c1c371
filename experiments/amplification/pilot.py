r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.amplification.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds.
"""

import argparse
import sys
from pathlib import Path

from experiments.amplification import run
from experiments.amplification.design import SCALES, STUDY
from posttrain_jax import lab
from posttrain_jax.run import runtime


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/amplification-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  runtime.prepare(runs=len(scale.tuning_seeds))
  own = lab.Lab(Path(flags.workdir), scale.tuning_seeds)
  tuned, tried = run.tune(own, scale)
  for label, rates in tried.items():
    for rate, seen in rates.items():
      right, top = lab.row(seen['accuracy']), lab.row(seen['top'])
      print(f'{label} {rate:g}: right {right} | most common format {top}')
  print({way: found.chosen for way, found in tuned.items()}, flush=True)
  arms, _, bases = run.make_arms(own, tuned, scale)
  for name, base in bases.items():
    print(name, 'best format', [run.NAMES[i] for i in base.best])
  for name, arm in arms.items():
    print(name)
    for measure, values in arm.values.items():
      print(f'  {measure:17}', lab.row(values))
  found = {name: arm.values for name, arm in arms.items()}
  print(*lab.gaps(STUDY.claims, found), sep='\n')
  print(f'{own.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
