r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.credit.pilot

Trains the arms that claims compare at the rates of the study's grid, with its
tuning seeds and in its folder (so that the study does not do it again), and
prints what they come to on the problems that choices are made on, and how far
claims' differences spread.
"""

import dataclasses
import sys

from experiments.credit import run
from experiments.credit.design import CLAIMS, SCALES
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = ('accuracy', 'curve', 'regret', 'price', 'length')
# All arms of claims; what says most about the setting comes first.
ARMS = (
  'grpo', 'segments', 'total', 'mrt', 'ppo', 'carft', 'carft_other', 'short',
)  # fmt: skip


def main() -> int:
  """Prints accuracies in % and what else is claimed of, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  best = {}
  with progress.Progress() as bar:
    runs = lab.Lab('runs/credit-full', range(scale.seeds), bar)
    for arm in ARMS:
      own = dataclasses.replace(scale, extend=0, arms=(arm,))
      found = run.tune(runs, own)
      best['base'] = found.start
      if len(best) == 1:
        print(f'{"base":21} {line(found.start)}', flush=True)
      for rate, values in sorted(found.values[arm].items()):
        mark = '*' if rate == found.rates[arm].chosen else ' '
        print(f'{arm:11} {rate:8.1e}{mark} {line(values)}', flush=True)
        if mark == '*':
          best[arm] = values
  print(*lab.gaps(CLAIMS, best), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


def line(values) -> str:
  return ' | '.join(
    f'{name}{lab.row(values[name])}' for name in SHOWN if name in values
  )


if __name__ == '__main__':
  sys.exit(main())
