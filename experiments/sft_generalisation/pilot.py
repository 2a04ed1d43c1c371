r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.sft_generalisation.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the hands that choices are made on.
"""

import sys

import numpy as np

from experiments.sft_generalisation import design, run, stages
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def main() -> int:
  """Prints accuracies in %, seed by seed."""
  scale = design.SCALES['full']
  runtime.prepare(runs=len(scale.tuning_seeds))
  with progress.Progress() as bar:
    own = lab.Lab('runs/sft_generalisation-full', scale.tuning_seeds, bar)
    tuned, judge, base = run.tune(own, scale)

  def shown(what: str, stage: lab.Trained) -> dict[str, np.ndarray]:
    values = stages.values_of(judge.found(stage, 'validation'))
    told = [f'{name} {np.round(x).astype(int)}' for name, x in values.items()]
    print(f'{what:22}', ' '.join(told))
    return values

  best = {'base': shown('base', base)}
  for arm, found in tuned.items():
    for rate, stage in sorted(found.tried.items()):
      mark = '*' if rate == found.chosen else ' '
      values = shown(f'{arm:12} {rate:7.1e}{mark}', stage)
      if mark == '*':
        best[arm] = values
  print(*lab.gaps(design.STUDY.claims, best), sep='\n')
  print(f'{own.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
