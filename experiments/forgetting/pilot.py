r"""The pilot: can the setting give either answer, and how far do seeds differ?

  python -m experiments.forgetting.pilot --arms sft,grpo --rates 3e-4,1e-3

Two seeds that the study does not use, the sizes of its full mode. Prints what
the base knows and, at every rate and snapshot, what each arm gained and kept.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from experiments.forgetting import sequence, setting
from experiments.forgetting.design import RATE, SCALES, WAYS
from posttrain_jax import lab
from posttrain_jax.run import runtime

SEEDS = (100, 101)


def shown(values) -> str:
  return ' '.join(f'{x:6.1f}' for x in np.atleast_1d(values))


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--arms', default='sft,grpo')
  parser.add_argument('--rates', default='')
  parser.add_argument('--sequence', default='', help='arms of the sequence')
  parser.add_argument('--steps', type=int, default=0)
  parser.add_argument('--rows', type=int, default=0)
  parser.add_argument('--workdir', default='runs/forgetting-pilot')
  flags = parser.parse_args()
  runtime.prepare(runs=len(SEEDS))
  scale = SCALES['full']
  scale = dataclasses.replace(
    scale, steps=flags.steps or scale.steps, rows=flags.rows or scale.rows
  )
  runs = lab.Lab(Path(flags.workdir), SEEDS)
  base = runs.train('base', setting.base_config(scale))
  judge = setting.Judge(runs, base, scale)
  print(f'base: {base.wall_seconds:.0f} s; {SEEDS}: near, far, base tasks')
  start = {task: judge.point(base, task) for task in ('near', 'far')}
  for part in setting.PARTS:
    row = [100.0 * start[x].new[part].mean(1) for x in ('near', 'far')]
    row.append(start['near'].retention(part))
    print(part, '|'.join(map(shown, row)), flush=True)
  rates = [float(x) for x in flags.rates.split(',') if x] or scale.grid
  for arm in [x for x in flags.arms.split(',') if x]:
    task = WAYS[arm].task
    config = setting.arm_config(arm, scale)
    for rate in rates:
      stage = runs.train(
        arm, config, base, {RATE: rate},
        snapshots=setting.snapshots_of(arm, scale),
      )  # fmt: skip
      for step, there in [*stage.snapshots.items(), (config.num_steps, stage)]:
        point = judge.point(there, task)
        row = [point.gain(start[task], 'test'), point.retention('test')]
        row += [setting.both(point)]
        row.append(100.0 * judge.kl(there, task))
        print(
          f'{arm:9} {rate:g} step {step:3}: gain {shown(row[0])} | kept '
          f'{shown(row[1])} | both {shown(row[2])} | KL/100 {shown(row[3])} | '
          f'{stage.wall_seconds:.0f} s',
          flush=True,
        )
  start['both'] = sequence.point(judge, base)
  for arm in [x for x in flags.sequence.split(',') if x]:
    config = setting.arm_config(arm, scale)
    tried = {x: runs.train(arm, config, base, {RATE: x}) for x in rates}
    for rate, last in sequence.follow(runs, scale, arm, tried).items():
      point = sequence.point(judge, last)
      lost = sequence.lost_of_best(judge, base, tried[rate], last)
      kept = point.retention('test') - start['both'].retention('test')
      gain = point.gain(start['both'], 'test')
      print(
        f'{arm:9} {rate:g} in sequence: gain {shown(gain)} | kept '
        f'{shown(kept)} | lost of best {shown(lost)}',
        flush=True,
      )
  return 0


if __name__ == '__main__':
  sys.exit(main())
