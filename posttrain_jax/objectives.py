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

from posttrain_jax.core import boundary, paths
from posttrain_jax.report.objectives import catalog as objectives_catalog
from posttrain_jax.report.objectives import page, tables

__all__ = ['COMMAND', 'files', 'main']

OUT = 'experiments/objectives'
COMMAND = f'python -m posttrain_jax.objectives --out {OUT}'


def files() -> dict[str, str]:
  """{file name: content} of the page as it would be made now."""
  catalog = objectives_catalog.load()
  return {
    'index.html': page.page(catalog),
    'README.md': tables.readme(catalog, COMMAND),
  }


@boundary.command
def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.objectives', description=__doc__
  )
  parser.add_argument('--out', type=Path, default=Path(OUT), help='folder')
  out = parser.parse_args(paths.words(arguments)).out
  out.mkdir(parents=True, exist_ok=True)
  for name, content in files().items():
    (out / name).write_text(content, encoding='utf-8')
    print(out / name)


if __name__ == '__main__':
  sys.exit(main())
