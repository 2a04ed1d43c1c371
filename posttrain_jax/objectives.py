"""Makes the page of every objective and recipe, and its tables in Markdown.

  python -m posttrain_jax.objectives --out experiments/objectives

Writes index.html (one file, searchable, opens without a network) and README.md
from the functions, their docstrings and the recipes as they are now.
"""

import argparse
import os
import sys
from pathlib import Path

# Functions are traced here and nothing runs: an accelerator is of no use.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from posttrain_jax.core import boundary
from posttrain_jax.core import flags as core_flags
from posttrain_jax.report.objectives import catalog as objectives_catalog
from posttrain_jax.report.objectives import page, tables
from posttrain_jax.report.page import check_own

__all__ = ['COMMAND', 'files', 'main']

OUT = 'experiments/objectives'
MADE_BY = 'Made by `python -m posttrain_jax.objectives'
COMMAND = f'python -m posttrain_jax.objectives --out {OUT}'


def files() -> dict[str, str]:
  """{file name: content} of the page as it would be made now."""
  catalog = objectives_catalog.load()
  return {
    'index.html': page.page(catalog),
    'README.md': tables.readme(catalog, COMMAND),
  }


def _check(out: Path) -> None:
  """Raises ValueError for files in a folder that this command did not write."""
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file; name a folder')
  check_own(out / 'index.html')
  readme = out / 'README.md'
  if readme.exists() and MADE_BY not in readme.read_text(encoding='utf-8'):
    raise ValueError(
      f'{readme} is there, and was not made by this command: name another --out'
    )


@boundary.command
def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.objectives', description=__doc__
  )
  parser.add_argument('--out', type=Path, default=Path(OUT), help='folder')
  try:
    out = core_flags.read(parser, arguments).out
    _check(out)
  except ValueError as error:
    sys.exit(f'error: {error}')
  out.mkdir(parents=True, exist_ok=True)
  for name, content in files().items():
    (out / name).write_text(content, encoding='utf-8')
    print(out / name)


if __name__ == '__main__':
  sys.exit(main())
