r"""How far every objective is from independent implementations of it.

  python experiments/objectives/agreement.py
  python -m experiments.objectives.agreement --seeds 1 --only preference

Each case of tests/objective_cases.py is compared, in float64, with a formula
in NumPy: value and gradient. tests/goldens/trl/differences.json, where it is,
adds how far the same functions are from TRL's trainers through a whole model.
Writes agreement.json and agreement.md beside this file, or under --out.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TRL = ROOT / 'tests' / 'goldens' / 'trl'
COMMAND = 'python experiments/objectives/agreement.py'

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# What the test suite has compiled is not compiled again.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
# A clone works without being installed.
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

HOW = {
  'hand': 'derivative written by hand',
  'finite differences': 'finite differences of the formula',
  'zero': 'all inputs detached: 0',
  'none': 'nothing differentiable',
}


def measure(seeds: int, only: str = '') -> list[dict[str, Any]]:
  """One row per case: the largest differences over the seeds.

  Args:
    seeds: random batches of each case.
    only: cases whose id contains this; '' takes all.
  """
  import objective_cases

  rows = []
  for case in objective_cases.all_cases():
    if only not in case.id:
      continue
    row = {
      'objective': f'{case.room}.{case.name}',
      'case': case.id,
      'float32': case.has('float32_inside'),
    }
    if case.twin is None:
      rows.append({**row, 'value': None, 'gradient': None, 'gradient_by': ''})
      continue
    found = [objective_cases.compare_with_twin(case, s) for s in range(seeds)]
    gradients = [x['gradient'] for x in found if x['gradient'] is not None]
    rows.append(
      {
        **row,
        'value': max(x['value'] for x in found),
        'gradient': max(gradients, default=None),
        'gradient_by': found[0]['gradient_by'],
      }
    )
    print(f'{len(rows):4} {case.id}', flush=True)
  return rows


def trl_entries(folder: Path = TRL) -> dict[str, dict] | None:
  """TRL's entries by name, or None where they are not in this checkout."""
  path = folder / 'differences.json'
  return json.loads(path.read_text()) if path.exists() else None


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ['git', '-C', str(ROOT), *arguments], capture_output=True, text=True
  )
  return done.stdout.strip()


def provenance(seeds: int) -> dict[str, Any]:
  """What the numbers were made with."""
  import jax
  import jaxlib
  import numpy

  versions = {
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'numpy': numpy.__version__,
  }
  expected = TRL / 'expected.json'
  if expected.exists():
    theirs = json.loads(expected.read_text()).get('versions', {})
    versions |= {k: v for k, v in theirs.items() if k != 'python'}
  try:
    commit = _git('rev-parse', 'HEAD') or 'unknown'
    changed = _git('status', '--porcelain', '--', 'posttrain_jax', 'tests')
  except OSError:
    commit, changed = 'unknown', ''
  return {
    'command': COMMAND,
    'commit': commit + (' and uncommitted changes' if changed else ''),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'machine': f'{platform.machine()} CPU',
    'seeds': seeds,
    'versions': versions,
  }


# Markdown


def _number(x: float | None) -> str:
  return '–' if x is None else '0' if x == 0 else f'{x:.0e}'


def _largest(values: list[float | None]) -> float | None:
  return max((x for x in values if x is not None), default=None)


def _table(columns: list[str], rows: list[list[str]]) -> str:
  cells = [columns, ['---'] * len(columns), *rows]
  escape = lambda text: text.replace('|', '\\|')
  return '\n'.join(f'| {" | ".join(map(escape, row))} |' for row in cells)


def _main_rows(cases: list[dict], entries: dict[str, dict]) -> list[list[str]]:
  by_objective: dict[str, list[dict]] = {}
  for case in cases:
    by_objective.setdefault(case['objective'], []).append(case)
  rows = []
  for objective, own in sorted(by_objective.items()):
    theirs = {
      name: entry
      for name, entry in entries.items()
      if objective in entry['objective'].split(' + ')
    }
    first, *more = [entry['trl'] for entry in theirs.values()] or ['–']
    how = sorted({HOW.get(c['gradient_by'], '') for c in own} - {''})
    how += ['computes in float32'] if any(c['float32'] for c in own) else []
    rows.append(
      [
        f'`{objective}`',
        str(len(own)),
        _number(_largest([c['value'] for c in own])),
        _number(_largest([c['gradient'] for c in own])),
        '; '.join(how) or 'no formula',
        first + (f' and {len(more)} more' if more else ''),
        _number(_largest([e['loss'] for e in theirs.values()])),
        _number(_largest([e['grad_norm'] for e in theirs.values()])),
      ]
    )
  return rows


def _summary(cases: list[dict], entries: dict[str, dict] | None) -> str:
  objectives = {case['objective'] for case in cases}
  single = [case for case in cases if case['float32']]
  cases = [case for case in cases if not case['float32']]
  lines = [
    f'{len(objectives)} objectives in {len(cases) + len(single)} cases. '
    'Against NumPy the largest difference in value is '
    f'{_number(_largest([c["value"] for c in cases]))}, in gradient '
  ]
  parts = []
  for by, words in HOW.items():
    own = [c['gradient'] for c in cases if c['gradient_by'] == by]
    if by in ('hand', 'finite differences') and own:
      parts.append(f'{_number(_largest(own))} ({words}, {len(own)} cases)')
  lines.append(' and '.join(parts) + '.')
  if single:
    largest = _largest([c[k] for c in single for k in ('value', 'gradient')])
    names = sorted({f'`{case["objective"]}`' for case in single})
    lines.append(
      f' Apart from these, {_number(largest)} where float32 is used whatever '
      f'is given: {", ".join(names)}.'
    )
  if entries is None:
    lines.append(
      '\n\n**The comparison with TRL is absent**: this checkout has no '
      'tests/goldens/trl/differences.json.'
    )
  else:
    losses = _largest([e['loss'] for e in entries.values()])
    norms = _largest([e['grad_norm'] for e in entries.values()])
    lines.append(
      f" Against TRL's own trainers, {len(entries)} entries, the largest "
      f'relative difference of the loss is {_number(losses)} and of a '
      f"gradient's norm {_number(norms)}."
    )
  return ''.join(lines)


def markdown(content: dict[str, Any]) -> str:
  """The tables of agreement.md from the content of agreement.json."""
  cases, entries = content['numpy'], content['trl']
  versions = ', '.join(f'{k} {v}' for k, v in content['versions'].items())
  parts = [
    '# Objective against reference',
    _summary(cases, entries),
    f'Made by `{content["command"]}` on {content["date"]}, commit '
    f'{content["commit"]}, {content["machine"]}, {content["seeds"]} random '
    f'ragged batches a case; {versions}. Numbers of this run: '
    '[agreement.json](agreement.json).',
    'NumPy: the largest difference over all cases of a function, in float64, '
    'in units of the largest expected number or 1. Finite differences are '
    'themselves right to about 1e-8. TRL: float32, through a whole model; '
    'relative difference of the loss, and the largest relative difference of '
    'gradient norms (of all parameters, and of single tensors). The loss of a '
    'policy gradient is a small sum of terms that nearly cancel, so rounding '
    'shows more in it than in its gradient. A dash: no such comparison.',
    _table(
      [
        'objective', 'cases', 'NumPy: value', 'gradient', 'gradient checked by',
        'TRL entry', 'loss', 'gradient norm',
      ],
      _main_rows(cases, entries or {}),
    ),
  ]  # fmt: skip
  if entries:
    parts += [
      '## All TRL entries',
      'How: the trainer itself, or the function of TRL that it calls.',
      _table(
        ['TRL', 'ours', 'how', 'loss', 'gradient norm', 'note'],
        [
          [
            entry['trl'],
            f'`{entry["objective"]}`',
            entry['how'],
            _number(entry['loss']),
            _number(entry['grad_norm']),
            entry['note'],
          ]
          for _, entry in sorted(entries.items())
        ],
      ),
    ]
  return '\n\n'.join(parts) + '\n'


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
  parser.add_argument('--seeds', type=int, default=3, help='batches a case')
  parser.add_argument('--only', default='', help='cases whose id contains it')
  parser.add_argument('--out', type=Path, default=HERE, help='folder')
  args = parser.parse_args(arguments)
  content = provenance(args.seeds)
  content['numpy'] = measure(args.seeds, args.only)
  content['trl'] = trl_entries()
  args.out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(content, indent=1)
  (args.out / 'agreement.json').write_text(text + '\n', encoding='utf-8')
  path = args.out / 'agreement.md'
  path.write_text(markdown(content), encoding='utf-8')
  print(path)


if __name__ == '__main__':
  main()
