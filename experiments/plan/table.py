r"""Plans of known models on known slices, a file each, and their table.

python -m experiments.plan.table [--only TEXT] [--tries N] [--again]
python -m experiments.plan.table --write

The first form plans every cell that has no file in results/ (compiling takes
minutes for each; it may be stopped, and goes on where it was); the second
writes the README's table from the files.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.plan.cells import CELLS, Cell

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results'
GIB = 2**30
BEGIN, END = '<!-- table -->', '<!-- /table -->'

# Records that make the programs' shapes; what they say does not matter.
RECORDS = {
  'rows.jsonl': {'prompt': 'One?', 'completion': 'One.'},
  'pairs.jsonl': {'prompt': 'One?', 'chosen': 'One.', 'rejected': 'Two.'},
  'prompts.jsonl': {'prompt': 'x' * 1000, 'answer': 'x'},
}


def write_records(folder: Path) -> None:
  """The files that cells name."""
  for name, record in RECORDS.items():
    # Each with a number of its own: equal prompts would be one.
    rows = [
      {**record, 'prompt': f'{number} {record["prompt"]}'}
      for number in range(1024)
    ]
    (folder / name).write_text('\n'.join(map(json.dumps, rows)))


def command(cell: Cell, folder: Path, tries: int) -> list[str]:
  """The command of a cell."""
  values = dict(cell.values)
  values['data.path'] = folder / values['data.path']
  return [
    sys.executable, '-m', 'posttrain_jax.plan', '--config', cell.config,
    *(f'--config.{key}={value}' for key, value in values.items()),
    '--topology', cell.topology, '--tries', str(tries), '--json',
  ]  # fmt: skip


def commit() -> str:
  done = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  return done.stdout.strip() or 'unknown'


def plan(cell: Cell, tries: int) -> dict[str, Any]:
  """What the planner says of a cell.

  Raises:
    RuntimeError: it says nothing; with its last words.
  """
  with tempfile.TemporaryDirectory() as folder:
    write_records(Path(folder))
    words = command(cell, Path(folder), tries)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  if done.returncode not in (0, 1):
    last = (done.stderr.strip() or 'no word').splitlines()[-1]
    raise RuntimeError(f'{cell.name}: {last}')
  return {
    'cell': cell.name,
    'method': cell.method,
    'model': cell.model,
    'config': cell.config,
    'values': cell.values,
    'date': datetime.date.today().isoformat(),
    'commit': commit(),
    'plan': json.loads(done.stdout.splitlines()[-1]),
  }


def _fitting(found: dict[str, Any]) -> str:
  """What fits in place of a cell that does not."""
  each = [
    ', '.join(f'{key}={x}' for key, x in changes.items())
    for changes in found['fitting']
  ]
  if not each:
    return 'nothing tried fits'
  return ' or '.join(f'`{text}`' for text in each)


def row(result: dict[str, Any]) -> str:
  """A line of the table."""
  found, said = result['plan'], result['plan']['sizes']
  hbm, part = found['hbm_bytes'], lambda key: found['hbm_bytes'].get(key, 0)
  frozen = sum(
    size for key, size in hbm.items()
    if key in ('reference', 'teacher', 'critic')
  )  # fmt: skip
  fits = (
    'fits' if found['fits']
    else f'{found["over_bytes"] / GIB:.1f} GiB over; {_fitting(found)}'
  )  # fmt: skip
  shown = [part('parameters'), part('moments'), frozen, part('gradients'),
           part('kv_cache'), part('activations'), hbm['total']]  # fmt: skip
  seconds = found['step_seconds']
  return '| ' + ' | '.join([
    result['method'], result['model'], found['topology'],
    f'{said["weights"]}, {said["moments"]}, {said["computation"]}',
    f'{said["rows"]} x {said["row_tokens"]:,}, {said["microbatch_rows"]}',
    *(f'{size / GIB:.2f}' for size in shown),
    f'{found["flops"]["recomputed"]:.0%}',
    '' if seconds is None else f'{found["collective_seconds"]:.2f}',
    '' if seconds is None else f'{seconds:.2f}',
    fits, result['commit'],
  ]) + ' |'  # fmt: skip


HEAD = [
  'method', 'model', 'slice', 'weights, moments, computation',
  'rows x tokens, micro-batch', 'parameters', 'moments', 'frozen', 'gradients',
  'cache', 'the rest', 'all', 'twice', 'links, s', 'step, s', 'verdict',
  'commit',
]  # fmt: skip


def table(folder: Path = RESULTS) -> str:
  """All results, in the order of the cells."""
  lines = ['| ' + ' | '.join(HEAD) + ' |', '|' + ' --- |' * len(HEAD)]
  for cell in CELLS:
    path = folder / f'{cell.name}.json'
    if path.exists():
      lines.append(row(json.loads(path.read_text())))
  return '\n'.join(lines)


def write_table() -> None:
  page = HERE / 'README.md'
  before, rest = page.read_text().split(BEGIN)
  after = rest.split(END)[1]
  page.write_text(f'{before}{BEGIN}\n\n{table()}\n\n{END}{after}')


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--only', default='', help='cells whose name has this')
  parser.add_argument('--tries', type=int, default=6)
  parser.add_argument('--again', action='store_true', help='known cells too')
  parser.add_argument('--write', action='store_true', help='the table alone')
  flags = parser.parse_args(argv)
  RESULTS.mkdir(exist_ok=True)
  failed = 0
  for cell in [] if flags.write else CELLS:
    path = RESULTS / f'{cell.name}.json'
    if flags.only not in cell.name or (path.exists() and not flags.again):
      continue
    print(cell.name, flush=True)
    try:
      found = plan(cell, flags.tries)
    except RuntimeError as error:
      print(f'  {error}', file=sys.stderr)
      failed += 1
      continue
    path.write_text(json.dumps(found, indent=1) + '\n')
  write_table()
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
