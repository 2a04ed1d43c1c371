r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.second_tries.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder (so
that the study does not do it again), and prints what every arm of a claim comes
to on the problems that choices are made on, and how far claims' differences
spread.
"""

import sys
from collections.abc import Mapping

import numpy as np

from experiments.second_tries import run
from experiments.second_tries.design import CLAIMS, SCALES, WAYS, Scale
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

SHOWN = ('first', 'fifth', 'majority', 'any', 'mended', 'repeated')
# What says most about the setting comes first.
ARMS = ('rise', 'grpo', 'critique', 'luffy', 'rise_2')


def main() -> int:
  """Prints what is measured, in %, seed by seed."""
  scale = SCALES['full']
  runtime.prepare(runs=scale.seeds)
  with progress.Progress() as bar:
    runs = lab.Lab('runs/second_tries-full', range(scale.seeds), bar)
    found, rates = {}, {}
    for arm in ARMS:
      if WAYS[arm].tuned:
        tuning = run.tune(runs, scale, (arm,))
        if not found:
          found['base'] = tuning.start
          print(f'{"base":18} {line(tuning.start)}', flush=True)
        rates[arm] = tuning.rates[arm].chosen
        found[arm] = tuning.found[arm][rates[arm]]
        for rate, seen in sorted(tuning.found[arm].items()):
          mark = '*' if rate == rates[arm] else ' '
          print(f'{arm:8} {rate:8.1e}{mark} {line(seen)}', flush=True)
      else:
        found[arm] = second(runs, arm, rates, scale)
        print(f'{arm:18} {line(found[arm])}', flush=True)
  print(*lab.gaps(CLAIMS, values(found)), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


def second(
  runs: lab.Lab, arm: str, rates: Mapping[str, float], scale: Scale
) -> run.Found:
  """What the tuning seeds come to with an arm that has no rate of its own."""
  count = len(scale.tuning_seeds)
  own = runs.beside(scale.tuning_seeds * (scale.seeds // count))
  stage = run.stages_of(own, arm, rates, scale)[-1]
  judge = run.Judge(own, run.base_of(own, scale), scale)
  seen = judge.found(stage, 'validation')
  return {name: x[:count] for name, x in seen.items()}


def values(
  found: Mapping[str, run.Found],
) -> dict[str, dict[str, np.ndarray]]:
  """What claims compare, of arms, and of what their answers apart are worth."""
  made = {
    arm: run.values_of(seen, found['base']) for arm, seen in found.items()
  }
  for name, (arm, kind) in run.APART.items():
    if arm in found:
      made[name] = {'fifth': 100.0 * found[arm][kind]}
  return made


def line(seen: run.Found) -> str:
  return ' | '.join(f'{name}{lab.row(100.0 * seen[name])}' for name in SHOWN)


if __name__ == '__main__':
  sys.exit(main())
