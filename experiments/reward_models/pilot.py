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
from experiments.reward_models.bench import wrong
from experiments.reward_models.design import CLAIMS
from experiments.reward_models.settings import (
  MODELS,
  POLICIES,
  RUBRICS,
  SCALES,
)
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = (
  'ranked', 'later', 'wrong', 'gold', 'proxy', 'hacked', 'rubric', 'vowels',
  'skills',
)  # fmt: skip


def main() -> int:
  """Prints all values in %, seed by seed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='runs/reward_models-full')
  parser.add_argument('--scale', default='full', choices=sorted(SCALES))
  flags = parser.parse_args()
  scale = SCALES[flags.scale]
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, range(scale.seeds), bar)
    found = tuned.tune(runs, scale)
    for arm, scores in found.scores.items():
      print(arm, *(f'{rate:g}{"*" * (rate == found.rates[arm])} '
                   f'{lab.row(100 * x)}' for rate, x in scores.items()),
            flush=True)  # fmt: skip
    values = values_of(found)
  for arm, own in values.items():
    print(f'{arm:12}', *(f'{k}{lab.row(own[k])}' for k in SHOWN if k in own),
          flush=True)  # fmt: skip
  print(*lab.gaps(CLAIMS, values), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


def values_of(found: tuned.Tuning) -> dict[str, dict[str, np.ndarray]]:
  """{arm: values of the tuning seeds} at the rates that were chosen."""
  bench, few = found.bench, slice(0, len(found.bench.scale.tuning_seeds))
  part = 'validation'
  cut = lambda values, rows: {k: x[rows] for k, x in values.items()}
  made = {'base': cut(bench.policy(bench.base(), part), few)}
  for arm in (*MODELS, *POLICIES):
    if arm in found.tuned:
      stage, rows = found.stages[arm][found.rates[arm]]
    else:
      stage, rows = bench.train(arm, found.rates['plain']), few
    if arm in POLICIES:
      made[arm] = cut(bench.policy(stage, part), rows)
      continue
    made[arm] = cut(bench.model(stage, part), rows)
    if arm == 'flip':
      share = cut(wrong(stage), rows)
      made[arm]['wrong'] = share['turned']
      made['plain']['wrong'] = share['any']
  for arm in RUBRICS:
    stage = bench.rubric(arm, found.rates['gold'])[-1].models['policy']
    made[arm] = cut(bench.policy(stage, part), few)
  return made


if __name__ == '__main__':
  sys.exit(main())
