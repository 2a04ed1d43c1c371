"""python -m posttrain_jax.report FOLDER: make the page of a folder again.

FOLDER is a study (results.json), the quickstart's workdir (summary.json) or,
with --index, the folder of all studies.
"""

import argparse
import sys
from pathlib import Path

from posttrain_jax.core import boundary
from posttrain_jax.core import flags as core_flags
from posttrain_jax.report import study
from posttrain_jax.report.comparison import regenerate
from posttrain_jax.report.study import index


@boundary.command
def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.report', description=__doc__
  )
  parser.add_argument(
    'folder', help='with results.json (study) or summary.json (quickstart)'
  )
  parser.add_argument(
    '--index',
    action='store_true',
    help='make the index over the studies in the folder',
  )
  try:
    chosen = core_flags.read(parser, arguments)
    if chosen.index:
      make = index.write
    elif (Path(chosen.folder) / 'results.json').is_file():
      make = study.regenerate
    else:
      make = regenerate
    print(make(chosen.folder))
  except (OSError, ValueError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  sys.exit(main())
