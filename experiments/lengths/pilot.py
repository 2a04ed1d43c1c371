r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.lengths.pilot

Trains arms with the tuning seeds of the study, two rates of each side by side,
and prints what they come to on the problems that choices are made on.
"""

import argparse
import dataclasses
import sys

import numpy as np

from experiments.lengths.bench import Bench
from experiments.lengths.design import STUDY
from experiments.lengths.numbers import fallen
from experiments.lengths.run import measured
from experiments.lengths.settings import SCALES, STEPS, WAYS
from experiments.lengths.tuned import tune
from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

ARMS = 'few,long,short,mix,qfft,others,wrong,qfft_wrong,few_cut,long_cut,'
ARMS += 'long_plain'
SHOWN = ('accuracy', 'tight', 'length', 'cut', 'finished', 'spelled', 'easy',
         'hard', 'rak', 'lost')  # fmt: skip


def main() -> int:
  """Prints what arms come to, seed by seed, and how claims' gaps spread."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arms', default=ARMS)
  parser.add_argument('--sft', default='3e-4,3e-3', help='two rates of SFT')
  parser.add_argument('--rl', default='3e-5,1e-4', help='and of GRPO')
  parser.add_argument('--workdir', default='runs/lengths-pilot')
  flags = parser.parse_args()
  grid = lambda text: tuple(float(x) for x in text.split(','))
  # No seeds of the study: the bases are those of the tuning seeds alone.
  scale = dataclasses.replace(
    SCALES['full'], arms=tuple(flags.arms.split(',')), seeds=0, extend=0,
    sft_grid=grid(flags.sft), rl_grid=grid(flags.rl),
  )  # fmt: skip
  rows = scale.tune_seeds * scale.places
  count = len(scale.tune_seeds)
  runtime.prepare(runs=len(rows))
  with progress.Progress() as bar:
    runs = lab.Lab(flags.workdir, rows, bar)
    chosen = tune(runs, scale)
    bench = Bench(runs, scale)
    answers = {'base': bench.answers(bench.base(), 'validation')}
    answers['base'] = {x: y[:count] for x, y in answers['base'].items()}
    for arm in scale.arms:
      # The runs of the tuning, of which the rows at the chosen rate are taken.
      own = STEPS[arm]
      tried = scale.rl_grid if WAYS[own.way].rl else scale.sft_grid
      place = count * tried.index(chosen.rates[own.rate_of or arm])
      side = [own.share * rate for rate in tried for _ in scale.tune_seeds]
      stage = bench.stage(arm, side, chosen.rates)
      said = bench.answers(stage, 'validation', own.asked)
      answers[arm] = {x: y[place : place + count] for x, y in said.items()}
      print(f'{arm:12} {stage.wall_seconds:.0f} s', end='')
      if not WAYS[STEPS[arm].way].rl:
        fall = fallen(stage)[place : place + count]
        print(f', the loss falls by {np.round(fall, 2)}', end='')
      print(flush=True)
    found = measured(answers, {})
  for arm, values in found.items():
    for rate, score in sorted(chosen.scores.get(arm, {}).items()):
      mark = '*' if rate == chosen.rates[arm] else ' '
      print(f'{arm:12} {rate:8.1e}{mark} {100.0 * np.mean(score):6.1f} |'
            f'{lab.row(100.0 * score)}')  # fmt: skip
    for name in SHOWN:
      if name in values:
        print(f'{arm:12} {name:9} {np.mean(values[name]):7.2f} |',
              np.round(values[name], 2))  # fmt: skip
  print(*lab.gaps(STUDY.claims, found), sep='\n')
  print(f'{runs.seconds:.0f} s')
  return 0


if __name__ == '__main__':
  sys.exit(main())
