r"""How far every recipe is from its paper, and what it does otherwise.

  python experiments/objectives/recipes.py

Each recipe of configs/recipes has a form in tests/recipe_forms_*.py: its whole
objective in NumPy, written from the paper or the authors' code. The recipe's
own objective is built from its config and compared with the form in float64,
value and gradient. Writes recipes.json and recipes.md beside this file, or
under --out.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # whether it is run by its path or its name

import shared_tables as shared  # noqa: E402

COMMAND = 'python experiments/objectives/recipes.py'
# Paradigm -> the module in tests/ whose `measure(recipe)` compares one.
HARNESSES = {
  'sft': 'recipe_harness_rows',
  'preference': 'recipe_harness_preference',
  'rl': 'recipe_harness_rl',
  'distill': 'recipe_harness_rows',
}
PLAIN = 'equals it'


def described() -> list[dict[str, str]]:
  """What the forms say of every recipe, in the order of the config tables.

  Raises:
    ValueError: a paradigm without forms, a recipe without one, or a form
      without a recipe.
  """
  import recipe_tables

  from configs import recipes

  rows = []
  for paradigm in HARNESSES:
    table, forms = recipes.rows(paradigm), recipe_tables.forms(paradigm)
    missing, left = set(table) - set(forms), set(forms) - set(table)
    if missing or left:
      raise ValueError(
        f'configs/recipes/{paradigm}.py: no form of {sorted(missing)} in '
        f'tests/recipe_forms_{paradigm}*.py, and no recipe of {sorted(left)}'
      )
    rows += [
      {
        'paradigm': paradigm,
        'recipe': name,
        'paper': table[name]['reference'],
        'source': forms[name].source,
        'where': forms[name].where,
        'differs': forms[name].differs,
      }
      for name in table
    ]
  return rows


def measure(only: str = '') -> list[dict[str, Any]]:
  """The rows of `described`, each with its largest differences.

  Args:
    only: recipes whose 'paradigm/name' contains this; '' takes all.

  Raises:
    ValueError: as `described`, or a harness that cannot measure a recipe.
  """
  rows = []
  for row in described():
    name = f'{row["paradigm"]}/{row["recipe"]}'
    if only not in name:
      continue
    harness = importlib.import_module(HARNESSES[row['paradigm']])
    if not hasattr(harness, 'measure'):
      raise ValueError(f'tests/{harness.__name__}.py has no measure(recipe)')
    found = harness.measure(row['recipe'])
    rows.append(row | {key: found[key] for key in ('value', 'gradient')})
    print(f'{len(rows):4} {name}', flush=True)
  return rows


def _summary(rows: list[dict[str, Any]]) -> str:
  largest = lambda key: shared.number(shared.largest([r[key] for r in rows]))
  other = sum(bool(row['differs']) for row in rows)
  return (
    f'{len(rows)} recipes. From the form that was written for it no value '
    f'differs by more than {largest("value")}, no gradient by more than '
    f'{largest("gradient")} (central differences of the form, in units of its '
    f'largest number). {len(rows) - other} of them are what the source has; '
    f'{other} differ from it as the last column says, and so does their form.'
  )


def _line(row: dict[str, Any]) -> list[str]:
  return [
    row['paradigm'],
    f'[`{row["recipe"]}`]({row["paper"]})',
    f'[{row["where"]}]({row["source"]})',
    shared.number(row['value']),
    shared.number(row['gradient']),
    row['differs'] or PLAIN,
  ]


def markdown(content: dict[str, Any]) -> str:
  """The text of recipes.md from the content of recipes.json."""
  versions = ', '.join(f'{k} {v}' for k, v in content['versions'].items())
  columns = ['paradigm', 'recipe', 'source', 'value', 'gradient']
  parts = [
    '# Recipes against their papers',
    _summary(content['recipes']),
    f'Made by `{content["command"]}` on {content["date"]}, commit '
    f'{content["commit"]}, {content["machine"]}; {versions}. Numbers of this '
    'run: [recipes.json](recipes.json).',
    "A recipe's link is its paper, the source's link is what its form was "
    'written from. Problems, answers and verdicts are fixed, ragged, right and '
    'wrong; models are tables of logits; all else is the run that the config '
    'builds.',
    shared.table(
      [*columns, 'what differs from the source'],
      [_line(row) for row in content['recipes']],
    ),
  ]
  return '\n\n'.join(parts) + '\n'


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
  parser.add_argument('--only', default='', help='recipes whose name has it')
  parser.add_argument('--out', type=Path, default=HERE, help='folder')
  args = parser.parse_args(arguments)
  content = shared.provenance(COMMAND)
  content['recipes'] = measure(args.only)
  args.out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(content, indent=1)
  (args.out / 'recipes.json').write_text(text + '\n', encoding='utf-8')
  path = args.out / 'recipes.md'
  path.write_text(markdown(content), encoding='utf-8')
  print(path)


if __name__ == '__main__':
  main()
