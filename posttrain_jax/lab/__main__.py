"""Judges committed results again, by the rule and the claims of today.

  python -m posttrain_jax.lab experiments/forgetting experiments/budget

Nothing is trained: verdicts, page and README tables are made again from the
numbers that results.json holds, and the claims and words (`READING` too, where
it has one) of the study's design.py (or run.py). Prints what changed.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain_jax.core import boundary
from posttrain_jax.core import flags as core_flags
from posttrain_jax.core.resolve import nearest
from posttrain_jax.lab import judged, results

__all__ = ['again', 'main']


def design(folder: Path) -> Any:
  """The module of a study's folder that has its STUDY.

  Raises:
    ValueError: no such study.
  """
  known = sorted(x.parent.name for x in folder.parent.glob('*/run.py'))
  if folder.name not in known:
    raise ValueError(
      f'{folder}: no study of this name.' + nearest(folder.name, known)
    )
  name = 'design' if (folder / 'design.py').exists() else 'run'
  return importlib.import_module(f'experiments.{folder.name}.{name}')


def again(
  found: dict[str, Any],
  study: results.Study,
  reading: Sequence[str] | None = None,
) -> dict[str, Any]:
  """Results whose verdicts are those of today's rule; the numbers stay.

  reading  what the figures say; None: as it was
  """
  claims = study.claims
  if found['mode'] != 'full':
    claims = [x for x in claims if {x.arm, x.against} <= found['arms'].keys()]
  words = {
    key: getattr(study, key)
    for key in ('title', 'question', 'tuning')
  }  # fmt: skip
  lists = {
    key: list(getattr(study, key))
    for key in ('paper_claims', 'setup', 'not_reproduced')
  }
  if reading is not None:
    lists['reading'] = list(reading)
  made = {**found, **words, **lists}
  return {**made, 'claims': judged.judged(claims, found['arms'])}


@boundary.command
def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.lab',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('folders', nargs='+', type=Path, metavar='FOLDER')
  try:
    folders = core_flags.read(parser, argv).folders
  except ValueError as error:
    parser.exit(2, f'error: {error}\n')
  for folder in folders:
    folder = folder.resolve()
    try:
      module, file = design(folder), folder / results.FILE
      if not file.exists():
        raise ValueError(f'no {file}: the study writes it when it is done')
      old = json.loads(file.read_text(encoding='utf-8'))
      new = again(old, module.STUDY, getattr(module, 'READING', None))
    except (ValueError, OSError) as error:
      print(f'error: {error}', file=sys.stderr)
      return 2
    results.write(new, folder)
    before = {claim['name']: claim['outcome'] for claim in old['claims']}
    for claim in new['claims']:
      was = before.get(claim['name'], 'new')
      print(f'{folder.name:20} {was:13} -> {claim["outcome"]:18} '
            f'{claim["name"]}: {claim["rule"]}')  # fmt: skip
  return 0


if __name__ == '__main__':
  sys.exit(main())
