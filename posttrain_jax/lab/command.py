"""The command line that every study's run.py has."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain_jax.core import boundary
from posttrain_jax.core import flags as core_flags
from posttrain_jax.lab import results
from posttrain_jax.lab.stages import Lab
from posttrain_jax.log import progress
from posttrain_jax.run import runtime

__all__ = ['main']

# (lab, scale) -> (study, arms, figures, reading)
Run = Callable[[Lab, Any], tuple]


@boundary.command
def main(
  file: str,
  run: Run,
  scales: dict[str, Any],
  argv: Sequence[str] | None = None,
) -> int:
  """Runs a study and writes its results; returns the exit status, which is 1
  where a step was not finite.

  file    the study's run.py
  run     (lab, scale) -> (Study, {key: Arm}, figures, sentences of reading)
  scales  {'full': ..., 'reduced': ...}: the sizes that `run` reads; each has a
          field `seeds`, how many there are, and may have `first_seed` (0),
          from which they are counted: a run that confirms another has its own

  The full mode writes into the study's folder, the reduced one beside the
  stages, so that it never replaces committed results.
  """
  folder = Path(file).resolve().parent
  module = sys.modules['__main__'].__doc__ or ''
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{folder.name}.run',
    description=module,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--reduced', action='store_true', help='fewer arms, steps and seeds'
  )
  parser.add_argument(
    '--seeds', type=int, default=0, help='0 = as the mode has'
  )
  parser.add_argument(
    '--workdir', default='', help='of the stages; default runs/STUDY-MODE'
  )
  parser.add_argument('--out', default='', help='folder of results and page')
  try:
    flags = core_flags.read(parser, argv)
  except ValueError as error:
    parser.exit(2, f'error: {error}\n')
  mode = 'reduced' if flags.reduced else 'full'
  scale = scales[mode]
  if flags.seeds < 0:
    parser.error(f'--seeds {flags.seeds} is below 0')
  workdir = Path(flags.workdir or f'runs/{folder.name}-{mode}')
  out = Path(flags.out) if flags.out else folder
  if flags.reduced and not flags.out:
    out = workdir / 'results'
  seeds = flags.seeds or scale.seeds
  runtime.prepare(runs=seeds)
  given = sys.argv[1:] if argv is None else argv
  command = ' '.join([f'python -m experiments.{folder.name}.run', *given])
  begun = time.perf_counter()
  try:
    with progress.Progress() as bar:
      first = getattr(scale, 'first_seed', 0)
      lab = Lab(workdir, range(first, first + seeds), bar)
      study, arms, figures, reading = run(lab, scale)
  except (ValueError, OSError) as error:  # a stage that another run holds, ...
    print(f'error: {error}', file=sys.stderr)
    return 2
  found = results.results(
    study,
    arms,
    figures,
    lab,
    mode=mode,
    command=command,
    seconds=lab.seconds,
    reading=reading,
  )
  page = results.write(found, out)
  for claim in found['claims']:
    print(f'{claim["outcome"]:12} {claim["statement"]}')
  took = progress.clock(time.perf_counter() - begun)
  print(f'took {took}; look at {page}')
  return 0
