r"""How far every objective is from independent implementations of it.

  python experiments/objectives/agreement.py
  python -m experiments.objectives.agreement --seeds 1 --only preference \
      --out FOLDER

Each case of tests/objective_cases.py is compared, in float64, with a formula
in NumPy: value and gradient. tests/goldens/trl/differences.json, where it is,
adds how far the same functions are from TRL's trainers through a whole model.
Writes agreement.json and agreement.md beside this file, or under --out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # whether it is run by its path or its name

import shared_tables as shared  # noqa: E402

TRL = shared.ROOT / 'tests' / 'goldens' / 'trl'
COMMAND = 'python experiments/objectives/agreement.py'

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


def _ids() -> list[str]:
  """Of all cases."""
  import objective_cases

  return [case.id for case in objective_cases.all_cases()]


def trl_entries(folder: Path = TRL) -> dict[str, dict] | None:
  """TRL's entries by name, or None where they are not in this checkout."""
  path = folder / 'differences.json'
  return json.loads(path.read_text()) if path.exists() else None


def provenance(seeds: int) -> dict[str, Any]:
  """What the numbers were made with."""
  content = shared.provenance(COMMAND)
  expected = TRL / 'expected.json'
  if expected.exists():
    theirs = json.loads(expected.read_text()).get('versions', {})
    content['versions'] |= {k: v for k, v in theirs.items() if k != 'python'}
  return content | {'seeds': seeds}


# Markdown


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
        shared.number(shared.largest([c['value'] for c in own])),
        shared.number(shared.largest([c['gradient'] for c in own])),
        '; '.join(how) or 'no formula',
        first + (f' and {len(more)} more' if more else ''),
        shared.number(shared.largest([e['loss'] for e in theirs.values()])),
        shared.number(
          shared.largest([e['grad_norm'] for e in theirs.values()])
        ),
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
    f'{shared.number(shared.largest([c["value"] for c in cases]))}, in '
    'gradient '
  ]
  parts = []
  for by, words in HOW.items():
    own = [c['gradient'] for c in cases if c['gradient_by'] == by]
    if by in ('hand', 'finite differences') and own:
      parts.append(
        f'{shared.number(shared.largest(own))} ({words}, {len(own)} cases)'
      )
  lines.append(' and '.join(parts) + '.')
  if single:
    largest = shared.largest(
      [c[k] for c in single for k in ('value', 'gradient')]
    )
    names = sorted({f'`{case["objective"]}`' for case in single})
    lines.append(
      f' Apart from these, {shared.number(largest)} where float32 is used '
      f'whatever is given: {", ".join(names)}.'
    )
  if entries is None:
    lines.append(
      '\n\n**The comparison with TRL is absent**: this checkout has no '
      'tests/goldens/trl/differences.json.'
    )
  else:
    losses = shared.largest([e['loss'] for e in entries.values()])
    norms = shared.largest([e['grad_norm'] for e in entries.values()])
    lines.append(
      f" Against TRL's own trainers, {len(entries)} entries, the largest "
      f'relative difference of the loss is {shared.number(losses)} and of a '
      f"gradient's norm {shared.number(norms)}."
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
    shared.table(
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
      shared.table(
        ['TRL', 'ours', 'how', 'loss', 'gradient norm', 'note'],
        [
          [
            entry['trl'],
            f'`{entry["objective"]}`',
            entry['how'],
            shared.number(entry['loss']),
            shared.number(entry['grad_norm']),
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
  if args.only and args.out.resolve() == HERE:
    parser.error(
      f'--only "{args.only}" is a part of the table, and would replace all of '
      'it: give another folder with --out'
    )
  if args.only and not any(args.only in name for name in _ids()):
    parser.error(f'no case has "{args.only}" in its id')
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
