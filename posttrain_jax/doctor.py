"""Looks at this machine, and says what a run would stumble over.

  python -m posttrain_jax.doctor --workdir runs/x
  python -m posttrain_jax.doctor --workdir gs://bucket/x \\
      --config configs/rl.py --config.mesh.fsdp=8

Python and packages, cores, memory, limits, clock, the disk of the workdir, the
cache of compiled programs, devices (a product of matrices on each), and, where
variables, SLURM or a TPU slice say that there are other processes, the network
between them: then it has to be started on every host at once.

Each line says ok, warning or fault, and below it what to do. Exit status: 1 if
there is a fault. --json prints one object, on the last line.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from posttrain_jax.core import boundary, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import doctor

__all__ = ['main']


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.doctor',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--workdir', default='.', help='of a run; gs://, too')
  parser.add_argument('--config', default='', help='configs/FILE.py[:ARGS]')
  parser.add_argument(
    '--timeout', type=int, default=120, help='seconds for devices and hosts'
  )
  parser.add_argument(
    '--json', action='store_true', help='one object, on the last line'
  )
  return parser


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  try:
    items, rest = config_lib.split_flags(paths.words(argv))
    flags = core_flags.read(_parser(), rest)
    if items and not flags.config:
      raise ValueError(f'--config.{items[0][0]} without --config')
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  told = []
  words = tuple(f'--config.{key}={value}' for key, value in items)
  for found in doctor.examine(
    flags.workdir, flags.config, words, flags.timeout
  ):
    told.append(found)
    if not flags.json:
      print(found.told(), flush=True)
  count = {
    status: sum(found.status == status for found in told)
    for status in ('ok', 'warning', 'fault')
  }
  if flags.json:
    rows = [dataclasses.asdict(found) for found in told]
    print(json.dumps({'ok': count['fault'] == 0, **count, 'findings': rows}))
  else:
    print(f'{count["fault"]} faults, {count["warning"]} warnings')
  return 1 if count['fault'] else 0


if __name__ == '__main__':
  sys.exit(main())
