"""The objectives page in Markdown: a table per room, and one of recipes."""

from collections.abc import Iterable

from posttrain_jax.report.objectives.catalog import Catalog, Recipe
from posttrain_jax.report.objectives.docs import short_url
from posttrain_jax.report.objectives.page import TITLE, assigned, by_table

__all__ = ['readme']


def _cell(words: str) -> str:
  return words.replace('|', '\\|')


def _markdown_table(columns: list[str], rows: list[list[str]]) -> str:
  cells = [columns, ['---'] * len(columns), *rows]
  return '\n'.join(f'| {" | ".join(map(_cell, row))} |' for row in cells)


def _sources(urls: Iterable[str]) -> str:
  return ', '.join(f'[{short_url(url)}]({url})' for url in urls)


def readme(catalog: Catalog, command: str) -> str:
  """The same in Markdown: a table per room, and one of recipes.

  Args:
    command: what makes the files.
  """
  parts = [
    f'# {TITLE}',
    f'{len(catalog.functions())} functions in {len(catalog.rooms)} rooms and '
    f'{len(catalog.recipes)} recipes. [index.html](index.html) is the same '
    'with formulas, notes, search and filters: save it and open it in a '
    'browser. [agreement.md](agreement.md) says how far each objective is '
    'from independent implementations.',
    f'Made by `{command}`; do not edit.',
  ]
  for room in catalog.rooms:
    rows = [
      [
        f'`{f.name}`',
        f.doc.summary,
        ', '.join(f'`{x}`' for x in assigned(f.hparams)),
        ', '.join([*f.needs, *[f'`{x}`' for x in f.arrays]]),
        _sources(f.doc.urls),
      ]
      for f in room.functions
    ]
    columns = ['function', 'what it is', 'hyperparameters', 'needs', 'source']
    parts += [
      f'## {room.name}',
      room.summary,
      _markdown_table(columns, rows),
    ]
  parts.append('## Recipes')
  for name, recipes in by_table(catalog).items():
    config = recipes[0].config
    parts += [
      f'### {name}',
      f'`python -m posttrain_jax.train --config {config}:recipe=NAME --workdir '
      'runs/NAME`',
      _markdown_table(
        ['recipe', 'parts', 'differs from the defaults', 'reference'],
        [
          [
            f'`{r.name}`',
            ', '.join(f'{p.key} `{p.function.name}`' for p in r.parts),
            ', '.join(f'`{x}`' for x in _differences(r)),
            _sources(r.urls),
          ]
          for r in recipes
        ],
      ),
    ]
  return '\n\n'.join(parts) + '\n'


def _differences(recipe: Recipe) -> list[str]:
  found = []
  for part in recipe.parts:
    values = {name: value for name, (value, _) in part.changed.items()}
    values |= part.more
    found += [f'{part.key}.{item}' for item in assigned(values)]
  return found + assigned(recipe.settings)
