"""Says what a run takes on a TPU slice or on GPUs, before they are paid for.

  python -m posttrain_jax.plan --config configs/sft.py \\
      --config.init_from=FOLDER --config.mesh.fsdp=-1 --topology v5e:16x16

The run is built as train.py builds it, and its real programs (the train step;
for RL the rollout too) are compiled by XLA for that slice, on this machine's
CPU and with no array made: FOLDER needs no more than a config.json. It prints
memory of a chip, FLOPs, what goes over the links, an estimate of a step's time,
and, where it does not fit, settings that do.

TPUs need libtpu (pip install 'posttrain_jax[tpu]'), and no TPU. GPUs
(--topology h100x8) are planned by arithmetic alone, and TPUs with --arithmetic,
in seconds. --early compiles up to where memory and collectives are settled: a
tenth of the time, all but the size of the code. --json prints one object on
the last line. Exit status: 0 it fits, 1 it does not, 2 something given cannot
work.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import jax

from posttrain_jax.core import boundary, paths
from posttrain_jax.core import flags as core_flags
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import making, show, topology


def read(
  argv: Sequence[str],
) -> tuple[list[tuple[str, str]], argparse.Namespace]:
  """(values of --config.KEY, flags).

  Raises:
    ValueError: an unknown flag, with the nearest one.
  """
  items, rest = config_lib.split_flags(paths.words(argv))
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.plan',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, help='configs/FILE.py[:ARGS]')
  parser.add_argument(
    '--topology', required=True, help='v5e:16x16, 2*v5e:16x16, h100x8, ...'
  )
  parser.add_argument(
    '--tries',
    type=int,
    default=6,
    help='other settings to compile where this one does not fit',
  )
  parser.add_argument(
    '--early', action='store_true', help='leave machine code out'
  )
  parser.add_argument(
    '--arithmetic', action='store_true', help='compile nothing'
  )
  parser.add_argument(
    '--json', action='store_true', help='one object on the last line'
  )
  flags = core_flags.read(parser, rest, (core_flags.OF_CONFIG,))
  if flags.tries < 0:
    raise ValueError(f'--tries={flags.tries} is negative; nearest valid: 0')
  return items, flags


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  if 'JAX_PLATFORMS' not in os.environ:
    # This machine's own accelerators are not asked for.
    jax.config.update('jax_platforms', 'cpu')
  try:
    items, flags = read(list(sys.argv[1:] if argv is None else argv))
    machine = topology.parse(flags.topology)
    config = config_lib.load(flags.config, items)
    plan = making.make(
      config,
      machine,
      tries=flags.tries,
      compiles=not flags.arithmetic,
      early=flags.early,
    )
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(show.in_words(plan))
  if flags.json:
    print(show.last_line(plan))
  return 1 if plan.over else 0


if __name__ == '__main__':
  sys.exit(main())
