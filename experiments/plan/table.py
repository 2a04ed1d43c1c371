r"""Plans of known models on known slices, a file each, and their table.

python -m experiments.plan.table [--only TEXT ...] [--tries N] [--again]
python -m experiments.plan.table --arithmetic [--only TEXT ...]
python -m experiments.plan.table --write

The first form compiles every cell that has no compiled result in results/,
those first whose names have the first TEXT (minutes for each; it may be
stopped, and goes on where it was). The second plans those that have no result
at all by arithmetic, in seconds. The last writes the README's table from the
files.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.plan.cells import CELLS, TWICE, Cell

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results'
GIB = 2**30
BEGIN, END = '<!-- table -->', '<!-- /table -->'
SENT = 1.2  # asked: bytes over those of the formula


def commit() -> str:
  """The last commit that changed what a result depends on; '+' where that has
  changed since."""
  git = lambda *words: subprocess.run(
    ['git', *words], cwd=ROOT, capture_output=True, text=True
  ).stdout.strip()
  own = [f'experiments/plan/{name}.py' for name in ('cell', 'cells', 'choose')]
  code = ('posttrain_jax', 'configs', *own)
  changed = git('status', '--porcelain', '--', *code)
  last = git('log', '-1', '--format=%h', '--', *code) or 'unknown'
  return last + '+' * bool(changed)


def plan(
  planned: Sequence[Cell], tries: int, arithmetic: bool = False
) -> Iterator[dict[str, Any]]:
  """What the planner says of some cells, as it says it.

  Raises:
    RuntimeError: it says nothing more; with its last words.
  """
  words = [sys.executable, '-m', 'experiments.plan.cell', '--tries', str(tries)]
  words += ['--arithmetic'] * arithmetic + [cell.name for cell in planned]
  now = {'date': datetime.date.today().isoformat(), 'commit': commit()}
  with tempfile.TemporaryFile('w+') as told:
    with subprocess.Popen(
      words, cwd=ROOT, stdout=subprocess.PIPE, stderr=told, text=True
    ) as process:
      assert process.stdout is not None
      for line in process.stdout:
        yield {**json.loads(line), **now}
    told.seek(0)
    if process.returncode:
      last = (told.read().strip() or 'no word').splitlines()[-1]
      raise RuntimeError(f'status {process.returncode}: {last}')


def sent(found: dict[str, Any]) -> float | None:
  """Bytes of an update's collectives over those of the formula; None where
  XLA refused a program, or was not asked."""
  if found['method'] != 'compiled':
    return None
  parts = [x for name, x in found['programs'].items() if name != 'rollout']
  if any('refused' in part for part in parts):
    return None
  total = lambda key: sum(sum(part[key].values()) for part in parts)
  return total('collective_bytes') / total('formula_bytes')


def _fitting(found: dict[str, Any]) -> str:
  """What fits in place of a cell that does not."""
  each = [
    ', '.join(f'{key}={x}' for key, x in changes.items())
    for changes in found['fitting']
  ]
  if not each:
    return 'nothing tried fits'
  return ' or '.join(f'`{text}`' for text in each)


def _verdict(found: dict[str, Any]) -> str:
  over = f'{found["over_bytes"] / GIB:.1f} GiB over'
  if found['method'] != 'compiled':
    told = 'should fit' if found['fits'] else over
    return f'{told}, by arithmetic; not compiled'
  if not found['fits']:
    return f'{over}; {_fitting(found)}'
  left = found['hbm_bytes']['limit'] - found['hbm_bytes']['total']
  return f'fits, {left / GIB:.1f} GiB left'


def _settings(result: dict[str, Any]) -> str:
  """What a cell chose."""
  values = result['values']
  told = [str(values['model.remat'])]
  if values.get('slots'):
    told.append(f'slots {values["slots"]}')
  return ', '.join(told)


def row(result: dict[str, Any]) -> str:
  """A line of the table."""
  found, said = result['plan'], result['plan']['sizes']
  hbm, part = found['hbm_bytes'], lambda key: found['hbm_bytes'].get(key, 0)
  frozen = sum(
    size for key, size in hbm.items()
    if key in ('reference', 'teacher', 'critic')
  )  # fmt: skip
  fits = _verdict(found)
  shown = [part('parameters'), part('moments'), frozen, part('gradients'),
           part('kv_cache'), part('activations'), hbm['total']]  # fmt: skip
  seconds, share = found['step_seconds'], sent(found)
  return '| ' + ' | '.join([
    result['method'], result['model'], found['topology'],
    f'{said["weights"]}, {said["moments"]}, {said["computation"]}',
    f'{said["rows"]} x {said["row_tokens"]:,}, {said["microbatch_rows"]}',
    _settings(result),
    *(f'{size / GIB:.2f}' for size in shown),
    f'{found["flops"]["recomputed"]:.0%}',
    '' if share is None else f'{share:.2f}',
    '' if seconds is None else f'{found["collective_seconds"]:.2f}',
    '' if seconds is None else f'{seconds:.2f}',
    fits, f'{result["cpu_seconds"]:.0f}', result['commit'],
  ]) + ' |'  # fmt: skip


HEAD = [
  'method', 'model', 'slice', 'weights, moments, computation',
  'rows x tokens, micro-batch', 'keeps', 'parameters', 'moments', 'frozen',
  'gradients', 'cache', 'the rest', 'all', 'twice', 'sent', 'links, s',
  'step, s', 'verdict', 'CPU, s', 'commit',
]  # fmt: skip


def missing(cell: Cell) -> str:
  """The line of a cell that has no result."""
  empty = [''] * (len(HEAD) - 6)
  told = [
    cell.method,
    cell.model,
    cell.topology,
    *empty,
    'not computed',
    '',
    '',
  ]
  return '| ' + ' | '.join(told) + ' |'


def read(folder: Path = RESULTS) -> dict[str, dict[str, Any] | None]:
  """{cell: result, or None} in the order of the cells."""
  paths = {cell.name: folder / f'{cell.name}.json' for cell in CELLS}
  return {
    name: json.loads(path.read_text()) if path.exists() else None
    for name, path in paths.items()
  }


def table(folder: Path = RESULTS) -> str:
  """All cells; those without a result say so."""
  lines = ['| ' + ' | '.join(HEAD) + ' |', '|' + ' --- |' * len(HEAD)]
  found = read(folder)
  for cell in CELLS:
    result = found[cell.name]
    lines.append(missing(cell) if result is None else row(result))
  return '\n'.join(lines)


def _name(result: dict[str, Any]) -> str:
  found = result['plan']
  return f'{result["method"]}, {result["model"]}, {found["topology"]}'


def beyond(result: dict[str, Any]) -> list[str]:
  """What of a cell is not as asked, and why: lines of a list."""
  found, lines = result['plan'], []
  share = sent(found)
  if share is not None and share > SENT:
    every = [
      one
      for name, part in found['programs'].items()
      if name != 'rollout'
      for one in part['largest_collectives']
    ]
    every.sort(key=lambda one: -one['bytes'])
    told = '; '.join(
      f'{one["bytes"] / GIB:.2f} GiB {one["kind"]} `{one["array"]}` '
      f'x{one["times"]} of `{one["source"] or "no name"}`'
      for one in every[:3]
    )
    lines.append(f'- {_name(result)}: sends {share:.2f} of the formula: {told}')
  twice = found['flops']['recomputed']
  if twice > TWICE:
    level = result['values']['model.remat']
    tried = [
      f'`{one["values"]["model.remat"]}` asks for {one["total"] / GIB:.1f} GiB'
      for one in result['plans']
      if not one['fits']
    ]
    why = '; '.join(tried) or 'by arithmetic what keeps more does not fit'
    lines.append(
      f'- {_name(result)}: computes {twice:.0%} twice under `{level}`: {why}'
    )
  return lines


def page(folder: Path = RESULTS) -> str:
  """The table, and below it what is not as asked."""
  found = [x for x in read(folder).values() if x is not None]
  lines = [line for result in found for line in beyond(result)]
  compiled = sum(x['plan']['method'] == 'compiled' for x in found)
  done = (
    f'Of {len(CELLS)} cells {compiled} are compiled, {len(found) - compiled} '
    f'planned by arithmetic alone, {len(CELLS) - len(found)} not computed.'
  )
  told = '\n'.join(lines) or '- nothing'
  return f'{done}\n\n{table(folder)}\n\nNot as asked:\n\n{told}'


def write_page() -> None:
  readme = HERE / 'README.md'
  before, rest = readme.read_text().split(BEGIN)
  after = rest.split(END)[1]
  readme.write_text(f'{before}{BEGIN}\n\n{page()}\n\n{END}{after}')


def _order(only: Sequence[str]) -> list[Cell]:
  """The cells that have one of the words, by the first that they have."""
  place = lambda cell: [word in cell.name for word in only].index(True)
  named = [cell for cell in CELLS if any(word in cell.name for word in only)]
  return sorted(named, key=place)


def _wanted(flags: argparse.Namespace) -> list[Cell]:
  """Cells without a result of the kind that is asked for."""
  known = read()

  def lacks(cell: Cell) -> bool:
    found = known[cell.name]
    if found is None or flags.again:
      return True
    return not flags.arithmetic and found['plan']['method'] != 'compiled'

  return [cell for cell in _order(flags.only) if lacks(cell)]


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--only',
    nargs='+',
    default=[''],
    help='cells whose names have one of these',
  )
  parser.add_argument('--tries', type=int, default=4)
  parser.add_argument('--again', action='store_true', help='known cells too')
  parser.add_argument('--arithmetic', action='store_true', help='in seconds')
  parser.add_argument('--write', action='store_true', help='the table alone')
  flags = parser.parse_args(argv)
  RESULTS.mkdir(exist_ok=True)
  failed = 0
  wanted = [] if flags.write else _wanted(flags)
  # Compiling has a process for each cell, whose memory it gives back.
  size = max(len(wanted), 1) if flags.arithmetic else 1
  for first in range(0, len(wanted), size):
    some = wanted[first : first + size]
    print(some[0].name, flush=True)
    try:
      for found in plan(some, flags.tries, flags.arithmetic):
        path = RESULTS / f'{found["cell"]}.json'
        path.write_text(json.dumps(found, indent=1) + '\n')
        print(f'  {found["cell"]}: {_verdict(found["plan"])}', flush=True)
        write_page()
    except RuntimeError as error:
      print(f'  {error}', file=sys.stderr, flush=True)
      failed += 1
  write_page()
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
