"""The forms of all recipes, found by file name."""

import functools
import importlib
from pathlib import Path

from recipe_form import Form

__all__ = ['forms']

HERE = Path(__file__).parent


@functools.cache
def forms(paradigm: str) -> dict[str, Form]:
  """{recipe: its form} of every file `recipe_forms_PARADIGM*.py` here.

  Each of them has a dict FORMS.

  Raises:
    ValueError: no such file, or a recipe with two forms.
  """
  files = sorted(HERE.glob(f'recipe_forms_{paradigm}*.py'))
  if not files:
    raise ValueError(
      f'no file tests/recipe_forms_{paradigm}*.py: the forms of the recipes of '
      f'configs/{paradigm}.py are not in this checkout'
    )
  found: dict[str, Form] = {}
  for file in files:
    for name, form in importlib.import_module(file.stem).FORMS.items():
      if name in found:
        raise ValueError(f'{file.name}: recipe "{name}" has a second form')
      found[name] = form
  return found
