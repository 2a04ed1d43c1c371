r"""Trains a config with many seeds and overrides; grids, lists, random draws.

  python -m posttrain_jax.sweep --config configs/sft.py:task=addition \\
      --sweep config.optimizer.lr=1e-4,3e-4,1e-3 \\
      --sweep config.prompts_per_step=32,128 --seeds 8 --workdir runs/grid
  python -m posttrain_jax.sweep --config configs/rl.py:task=addition \\
      --sweep 'config.optimizer.lr=log(1e-5,1e-2)' --random 16 --workdir runs/r
  python -m posttrain_jax.sweep --config configs/sft.py --list settings.jsonl \\
      --config.num_steps=200 --workdir runs/list

Of a sweep on many machines, each trains one setting with all its seeds, and the
same command with --gather makes the table when all are through:

  python -m posttrain_jax.sweep ... --workdir DIR --only 3
  python -m posttrain_jax.sweep ... --workdir DIR --gather

Runs that differ in seed and in numbers that a compiled program can take as
inputs train together, in one program; others in turn. Every run has a folder
of its own under WORKDIR/runs; results.jsonl has a line for each, results.csv a
line for each setting. A stopped sweep goes on where it was.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain_jax import log
from posttrain_jax.core import boundary, hosts, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.log import progress
from posttrain_jax.run import (
  accounting,
  build,
  domains,
  failed,
  loop,
  notes,
  rescue,
  roles,
  runtime,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import folders, runner, settings
from posttrain_jax.trainers.guard import SKIPPED


def _count(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise ValueError(
      f'--seeds {text}: a count, as --seeds 2 for the seeds 0 and 1; '
      '--first_seed says where they begin'
    ) from None


def parse(
  argv: Sequence[str],
) -> tuple[list[settings.Member], argparse.Namespace]:
  """(runs, flags) of a command line.

  Raises:
    ValueError: a flag, key or value that cannot work; it is named.
  """
  items, rest = config_lib.split_flags(paths.words(argv))
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.sweep',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, help='configs/FILE.py[:ARGS]')
  parser.add_argument(
    '--sweep', action='append', default=[], help='config.KEY=VALUE,VALUE'
  )
  parser.add_argument('--list', help='a JSONL file, one object of keys a line')
  parser.add_argument(
    '--random', type=int, default=0, help='draw this many settings of --sweep'
  )
  parser.add_argument('--seeds', default='1', help='of each setting')
  parser.add_argument('--first_seed', type=int, default=0)
  parser.add_argument(
    '--together', type=int, default=0, help='runs in a program; 0 = what fits'
  )
  parser.add_argument(
    '--only', type=int, help='train this setting (0, 1, ...) alone'
  )
  parser.add_argument(
    '--gather', action='store_true', help='train nothing, make the table'
  )
  parser.add_argument('--workdir', help='the folder of the sweep')
  parser.add_argument(
    '--dry_run', action='store_true', help='print the runs, and stop'
  )
  flags = core_flags.read(parser, rest, (core_flags.OF_CONFIG,))
  flags.seeds = _count(flags.seeds)
  for name in ('seeds', 'together', 'random'):
    least = 1 if name == 'seeds' else 0
    if getattr(flags, name) < least:
      raise ValueError(f'--{name} {getattr(flags, name)} is below {least}')
  if not flags.workdir and not flags.dry_run:
    raise ValueError('--workdir is missing: the folder of the sweep')
  if flags.list and (flags.sweep or flags.random):
    raise ValueError(
      '--list has whole settings; leave --sweep and --random out'
    )
  if flags.list:
    chosen = settings.listed(flags.list)
  elif flags.random:
    chosen = settings.sampled(flags.sweep, flags.random, flags.first_seed)
  else:
    chosen = settings.grid(flags.sweep)
  seeds = range(flags.first_seed, flags.first_seed + flags.seeds)
  for seed in (seeds[0], seeds[-1]):
    domains.KEYS['seed'].check('seed', seed)
  found = settings.members(flags.config, items, chosen, seeds)
  if flags.only is not None:
    if flags.gather:
      raise ValueError('--gather is of all settings; leave --only out')
    found = settings.point(found, flags.only)
  if not flags.dry_run and not flags.gather:
    # Before anything asks for the devices that the runs are to share.
    runtime.prepare(runs=_alone(found))
  told = []
  for member in found:
    if member.seed == flags.first_seed:
      told += _check(member)
  notes.tell(told)
  return found, flags


def _check(member: settings.Member) -> list[str]:
  """The notes of a run that can work; the error of another names it."""
  try:
    run = build.build(member.config)
    roles.check(member.config)
    return notes.notes(run)
  except ValueError as error:
    raise ValueError(f'{member.name}: {error}') from error


def result(member: settings.Member, path: paths.AnyPath) -> dict[str, Any]:
  """A finished run's line of results.jsonl."""
  _, rows = log.read(path)
  trained = [row for row in rows if row['split'] == 'train']
  judged = [row for row in rows if row['split'] == 'eval']
  run = build.build(member.config)
  flops = accounting.step_flops(member.config, run.model, run.sizes, run.models)
  # Steps that were skipped and counted are no divergence.
  losses = np.array([row['loss'] for row in trained if not row.get(SKIPPED)])
  finished = len(trained) == member.config.num_steps
  sound = finished and bool(np.all(np.isfinite(losses)))
  hidden = ('step', 'split', 'time')
  last = lambda found: {
    k: v for k, v in (found[-1] if found else {}).items() if k not in hidden
  }
  return {
    'name': member.name,
    'setting': dict(member.overrides),
    'seed': member.seed,
    'status': 'finished' if sound else 'diverged',
    'scores': last(judged),
    'train': last(trained),
    'account': accounting.account(member.config, run.sizes, flops, trained),
  }


def summary(results: Sequence[dict]) -> tuple[list[str], list[list[Any]]]:
  """(columns, a row for each setting): means over seeds, and their spread."""
  by_setting: dict[str, list[dict]] = {}
  for row in results:
    by_setting.setdefault(json.dumps(row['setting']), []).append(row)
  swept = list(dict.fromkeys(k for row in results for k in row['setting']))
  # A run without an evaluation is judged by its last step.
  part = 'scores' if any(row['scores'] for row in results) else 'train'
  wanted = ('eval/accuracy', 'eval/accuracy_sampled', 'reward', 'loss')
  shown = [name for name in wanted if any(name in row[part] for row in results)]
  columns = [*swept, 'seeds', 'diverged']
  columns += [f'{name}{what}' for name in shown for what in ('', ' (std)')]
  table = []
  for rows in by_setting.values():
    sound = [row for row in rows if row['status'] == 'finished']
    line = [rows[0]['setting'].get(key, '') for key in swept]
    line += [len(rows), len(rows) - len(sound)]
    for name in shown:
      values = [row[part][name] for row in sound if name in row[part]]
      line.append(float(np.mean(values)) if values else None)
      line.append(float(np.std(values, ddof=1)) if len(values) > 1 else None)
    table.append(line)
  return columns, table


def write(results: Sequence[dict], workdir: paths.AnyPath) -> None:
  """results.jsonl and results.csv."""
  lines = [json.dumps(log.strict(row)) + '\n' for row in results]
  paths.write(workdir / 'results.jsonl', ''.join(lines))
  columns, table = summary(results)
  text = io.StringIO(newline='')
  csv.writer(text).writerows([columns, *table])
  paths.write(workdir / 'results.csv', text.getvalue())


def _alone(members: Sequence[settings.Member]) -> int:
  """How many runs need no more than a device each; 1 if any is sharded."""
  sizes = {size for m in members for size in dict(m.config.mesh).values()}
  return len(members) if sizes <= {1} else 1


def _check_finished(
  members: Sequence[settings.Member], workdir: paths.AnyPath
) -> None:
  """Raises ValueError if a run has neither finished nor failed; names some."""
  left = []
  for member in members:
    path = runner.folder(workdir, member)
    steps, wanted = 0, member.config.num_steps
    with contextlib.suppress(FileNotFoundError):
      rows = log.read(path)[1]
      steps = max((r['step'] for r in rows if r['split'] == 'train'), default=0)
    if steps < wanted and not failed.newest(path):
      left.append(f'{member.name} ({steps} of {wanted} steps)')
  if left:
    more = f', and {len(left) - 3} more' if len(left) > 3 else ''
    raise ValueError(
      f'{len(left)} of {len(members)} runs in {workdir} are not through: '
      f'{", ".join(left[:3])}{more}; train them with --only, or leave --gather '
      'out to train them here'
    )


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  try:
    members, flags = parse(sys.argv[1:] if argv is None else argv)
    if flags.dry_run:
      print('\n'.join(member.name for member in members))
      if flags.workdir:
        found = folders.foreseen(members, paths.path(flags.workdir))
        print('\nworkdir', *found, sep='\n  ')
      return 0
    workdir = paths.path(flags.workdir)
    folders.check(members, workdir)
    if flags.gather:
      _check_finished(members, workdir)
    else:
      workdir.mkdir(parents=True, exist_ok=True)
      with progress.Progress() as bar:
        for group in runner.groups(members, workdir, flags.together):
          runner.run_group(group, workdir, bar)
    results = [result(m, runner.folder(workdir, m)) for m in members]
  except loop.Interrupted as stopped:
    print(f'{stopped}; the same command goes on from there')
    return 128 + stopped.number
  except Exception as error:
    told = rescue.sentence(error)
    if not told:
      raise
    print(f'error: {told}', file=sys.stderr)
    return 2
  if not flags.gather and not hosts.first():
    return 0
  columns, table = summary(results)
  progress.table(f'{len(results)} runs', columns, table)
  if flags.only is None:  # else others write beside it: --gather tells of all
    write(results, workdir)
    print(f'look at {workdir / "results.csv"}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
