r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.reward_models.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm comes to with
these seeds, on the problems that choices are made on.
"""

import argparse
import sys

import numpy as np

from experiments.reward_models import tuned
from experiments.reward_models.design import CLAIMS
from experiments.reward_models.settings import SCALES, WAYS
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = ('gold', 'score', 'vowels', 'rubric', 'skills', 'length')


def main() -> int:
  """Prints all values in %, seed by seed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/reward_models-full')
  flags = parser.parse_args()
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, range(scale.seeds), bar)
    found = tuned.tune(runs, scale)
    for arm, scores in found.scores.items():
      told = (
        f'{rate:g}{"*" if rate == found.rate(arm) else ""} {lab.row(100 * x)}'
        for rate, x in scores.items()
      )
      print(f'{arm:8}', *told, flush=True)
    values = values_of(found)
  for arm, own in values.items():
    print(f'{arm:8}', *(f'{k}{lab.row(own[k])}' for k in SHOWN), flush=True)
  print(*lab.gaps(CLAIMS, values), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


def values_of(found: tuned.Tuning) -> dict[str, dict[str, np.ndarray]]:
  """{arm: values of the tuning seeds} at the rates that were chosen."""
  bench, few = found.bench, slice(0, len(found.bench.scale.tuning_seeds))
  made = {}

  def add(arm: str, stage: lab.Trained, rows: slice) -> None:
    values, _ = bench.values(stage, 'validation')
    made[arm] = {name: x[rows] for name, x in values.items()}

  add('base', bench.base(), few)
  for arm in WAYS:
    if arm in found.tuned:
      add(arm, *found.stages[arm][found.rate(arm)])
    else:
      add(arm, bench.train(arm, found.rate(arm))[-1], few)
      for number, x in enumerate(bench.weights(arm, found.rate(arm)), 1):
        weights = {name: lab.row(each[few]) for name, each in x.items()}
        print(f'{arm} after round {number}: {weights}', flush=True)
  return made


if __name__ == '__main__':
  sys.exit(main())
