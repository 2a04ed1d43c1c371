r"""What every arm reaches at every rate, on the seeds that choose rates.

  python -m experiments.on_policy.pilot

This is the tuning of the full run, which finds it in runs/on_policy-full. It
shows whether the setting can give either answer, and how far differences spread
over seeds, before any number of the run's own seeds is seen.
"""

import sys

import numpy as np

from experiments.on_policy import language, run
from experiments.on_policy.design import EARLY, SCALES, STUDY
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime


def main() -> int:
  """Prints accuracy on validation problems, in %, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=len(scale.tuning_seeds))
  with progress.Progress() as bar:
    own = lab.Lab('runs/on_policy-full', scale.tuning_seeds, bar)
    bases = run.bases_of(own, scale)
    judges = {place: language.Judge(own, x) for place, x in bases.items()}
    for place, judge in judges.items():
      found = judge.quick(judge.base, 'validation')
      for name in ('accuracy', f'share_{language.EASY}', 'passk'):
        print('base', place, name, np.round(found[name], 1))
    rates = run.tune(own, scale)
  best = {}
  for what, tuned in (('end', rates.ends), ('early', rates.early)):
    for spot, found in tuned.items():
      for rate, stage in sorted(found.tried.items()):
        stage = stage if what == 'end' else stage.snapshots[EARLY]
        value = judges[spot[1]].quick(stage, 'validation')['accuracy']
        mark = '*' if rate == found.chosen else ' '
        print(f'{what:5} {spot[1]:4} {spot[0]:12} {rate:8.1e}{mark}'
              f'{np.mean(value):6.1f} ', np.round(value, 1))  # fmt: skip
        if mark == '*':
          best[what, *spot] = value
  where = {
    'accuracy': ('end', 'far'),
    'early': ('early', 'far'),
    'near': ('end', 'near'),
  }
  found: dict[str, dict[str, np.ndarray]] = {}
  for measure, place in where.items():
    for (what, arm, at), value in best.items():
      if (what, at) == place:
        found.setdefault(arm, {})[measure] = value
  print(*lab.gaps(STUDY.claims, found), sep='\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())
