"""python -m posttrain_jax.report WORKDIR: make the page of a workdir again."""

import argparse
import sys

from posttrain_jax.report.comparison import regenerate


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m posttrain_jax.report', description=__doc__
  )
  parser.add_argument('workdir', help='folder with summary.json and the runs')
  workdir = parser.parse_args(arguments).workdir
  try:
    print(regenerate(workdir))
  except (OSError, ValueError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
