"""What SFT and RL gain on a new task, and what of the old ones they keep.

  python -m posttrain_jax.quickstart --config configs/quickstart.py \
      --workdir runs/quickstart

Trains a base model and from it SFT, GRPO and SFT on own right answers, at equal
counted FLOPs, several learning rates and three seeds. Writes under the workdir
summary.json, report.html with its plots/, and the stages. An interrupted
quickstart goes on where it stopped.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain_jax import log, report
from posttrain_jax.core import boundary, paths, target
from posttrain_jax.evals.statistics import t_interval
from posttrain_jax.lab import stages as stages_lib
from posttrain_jax.log import progress
from posttrain_jax.quickstart import statements, training
from posttrain_jax.run import continuing, runtime
from posttrain_jax.run.command import parse
from posttrain_jax.run.lease import Lease

__all__ = ['main', 'run', 'summarise']

SUMMARY = 'summary.json'


def run(
  config: Any,
  workdir: str | Path,
  command: str,
  like: training.Labs | None = None,
) -> tuple[dict[str, Any], training.Labs]:
  """Trains and compares the arms: the summary that it writes, and its labs.

  like  the labs of another one, whose compiled programs are taken

  Raises:
    ValueError: as `training.check`.
    failed.NonFinite: a step of a seed was not finite.
  """
  training.check(config)
  workdir = Path(workdir)
  began, used = time.monotonic(), time.process_time()
  with progress.Progress() as bar:
    both = training.labs(config, workdir, bar, like)
    found = training.train(config, both, bar)
  summary = summarise(config, found) | {
    'command': command,
    'commit': found.commit,
    'hardware': hardware(),
    'versions': log.make_header({})['versions'],
    # Of this process; what an earlier one trained and measured is in the next.
    'wall_seconds': time.monotonic() - began,
    'cpu_seconds': time.process_time() - used,
    'stage_seconds': found.seconds,
  }
  text = json.dumps(log.strict(summary), indent=1, ensure_ascii=False)
  (workdir / SUMMARY).write_text(text + '\n', encoding='utf-8')
  return summary, both


def summarise(config: Any, found: training.Found) -> dict[str, Any]:
  """The numbers of summary.json: shares from 0 to 1, differences in points."""
  rates = {
    name: statements.chosen({r: x.validation for r, x in points.items()})
    for name, points in found.points.items()
  }
  arms = {'base': _arm(found.base) | {'rate': None, 'steps': 0, 'flops': 0.0}}
  for name, points in found.points.items():
    arms[name] = _arm(points[rates[name]]) | {
      'rate': rates[name],
      'steps': found.steps[name],
      'flops': found.account[name]['flops'],
    }
  for name, arm in arms.items():
    arm['label'] = training.LABELS[name]
  percent = lambda shares: 100.0 * np.asarray(shares)
  fronts = {
    name: [
      [_pair(found.base, s), *(_pair(x, s) for x in points.values())]
      for s in range(config.seeds)
    ]
    for name, points in found.points.items()
  }
  judged = statements.statements(
    percent(found.base.accuracy),
    {name: percent(points[rates[name]].accuracy)
     for name, points in found.points.items()},
    fronts,
  )  # fmt: skip
  return {
    'arms': arms,
    'statements': [
      {
        'text': x.text,
        'holds': bool(x.holds),
        'difference': x.difference.mean,
        'low': x.difference.low,
        'high': x.difference.high,
      }
      for x in judged
    ],
    'frontiers': {
      name: [
        {
          'rate': rate,
          'accuracy_seeds': point.accuracy.tolist(),
          'greedy_seeds': point.greedy.tolist(),
          'retention_seeds': point.retention.tolist(),
          'validation_seeds': point.validation.tolist(),
        }
        for rate, point in points.items()
      ]
      for name, points in found.points.items()
    },
    'task': config.grpo.task.name,
    'old_tasks': [
      x for x in config.base.task.parts if x != config.grpo.task.name
    ],
    'problems': {name: dict(x) for name, x in found.problems.items()},
    'seeds': list(range(config.seed, config.seed + config.seeds)),
    'samples': _samples(found, rates),
  }


def _pair(point: training.Point, seed: int) -> tuple[float, float]:
  """(accuracy, retention) of a seed, in %."""
  percent = lambda shares: 100.0 * float(shares[seed])
  return percent(point.accuracy), percent(point.retention)


def _arm(point: training.Point) -> dict[str, Any]:
  made = {}
  for name in ('accuracy', 'greedy', 'retention'):
    values = getattr(point, name)
    interval = t_interval(values)
    made[name] = interval.mean
    # A share; the interval of a mean of shares can reach beyond.
    made[f'{name}_low'] = max(0.0, interval.low)
    made[f'{name}_high'] = min(1.0, interval.high)
    made[f'{name}_seeds'] = values.tolist()
  return made


def _samples(
  found: training.Found, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
  """What the first seed of each arm writes for the same problems."""
  models = {'base': found.base} | {
    name: points[rates[name]] for name, points in found.points.items()
  }
  return [
    {
      'prompt': prompt,
      'arm': training.LABELS[name],
      'completion': point.shown[index][0],
      'reward': float(point.shown[index][1]),
    }
    for index, prompt in enumerate(found.prompts)
    for name, point in models.items()
  ]


def foreseen(workdir: str | Path) -> list[str]:
  """What a quickstart would find in its folder; nothing is written.

  Raises:
    ValueError: the folder cannot be written, or another process writes in it.
  """
  workdir = Path(workdir)
  told = [Lease(workdir).foreseen()]
  stages = sorted(path for path in workdir.glob('stages/*') if path.is_dir())
  told += [Lease(stage).foreseen() for stage in stages]
  kept = sum((stage / stages_lib.FILE).exists() for stage in stages)
  said = f'stages kept: {kept}; those of this config are taken'
  return [said if kept else 'a new quickstart', *filter(None, told)]


def hardware() -> str:
  device = target.devices()[0]
  if device.platform == 'cpu':
    return f'{os.cpu_count()} CPU cores ({platform.machine()})'
  return f'{target.device_count()} x {device.device_kind}'


def show(summary: Mapping[str, Any]) -> None:
  """Prints the final table and the statements."""
  rows = []
  for arm in summary['arms'].values():
    cells = [
      f'{100 * arm[name]:.1f} [{100 * arm[f"{name}_low"]:.1f}, '
      f'{100 * arm[f"{name}_high"]:.1f}]'
      for name in ('accuracy', 'retention', 'greedy')
    ]
    rate = '' if arm['rate'] is None else f'{arm["rate"]:g}'
    rows.append([arm['label'], *cells, rate, f'{arm["steps"]}'])
  seeds = ', '.join(map(str, summary['seeds']))
  progress.table(
    f'New task: {summary["task"]}; {summary["problems"]["new"]["test"]} '
    f'held-out problems, seeds {seeds}',
    ['model', 'new task % [95%]', 'old tasks kept % [95%]', 'greedy % [95%]',
     'rate', 'steps'],
    rows,
  )  # fmt: skip
  for item in summary['statements']:
    print(
      f'{"holds" if item["holds"] else "does not hold"}: {item["text"]} '
      f'({item["difference"]:+.1f} points [{item["low"]:+.1f}, '
      f'{item["high"]:+.1f}])'
    )


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    config, flags = parse(argv, __doc__, prog='posttrain_jax.quickstart')
    training.check(config)
    if flags.workdir:
      if paths.is_remote(flags.workdir):
        raise ValueError(
          f'--workdir={flags.workdir}: a quickstart writes into a folder of '
          'this machine'
        )
      continuing.check_folder(paths.path(flags.workdir))
      report.check_own(Path(flags.workdir) / 'report.html')
    if flags.dry_run:
      print(config)
      if flags.workdir:
        print('\nworkdir', *foreseen(flags.workdir), sep='\n  ')
      return 0
    runtime.prepare(runs=config.seeds)
    command = 'python -m posttrain_jax.quickstart ' + ' '.join(argv)
    summary, _ = run(config, flags.workdir, command)
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except FloatingPointError as error:  # failed.NonFinite
    print(f'error: {error}', file=sys.stderr)
    return 1
  show(summary)
  page = report.write_comparison(flags.workdir, summary)
  took = progress.clock(summary['wall_seconds'])
  print(f'took {took}; look at {page}')
  return 0
