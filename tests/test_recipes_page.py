"""The committed table of recipes is that of their forms and configs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import recipe_tables

from configs import recipes

FOLDER = Path(__file__).parent.parent / 'experiments' / 'objectives'


@pytest.fixture(scope='module')
def page():
  sys.path.insert(0, str(FOLDER))
  try:
    return importlib.import_module('recipes')
  finally:
    sys.path.remove(str(FOLDER))


def paradigms_without_forms(page) -> list[str]:
  missing = []
  for paradigm in page.HARNESSES:
    try:
      recipe_tables.forms(paradigm)
    except ValueError:
      missing.append(paradigm)
  return missing


def test_committed_table_has_every_recipe_as_it_is(page):
  missing = paradigms_without_forms(page)
  if missing:
    pytest.skip(f'no page while these have no forms: {", ".join(missing)}')
  path = FOLDER / 'recipes.json'
  assert path.exists(), f'run {page.COMMAND}'
  content = json.loads(path.read_text('utf-8'))
  text = (FOLDER / 'recipes.md').read_text('utf-8')
  assert page.markdown(content) == text, f'run {page.COMMAND}'
  measured = ('value', 'gradient')
  rows = [
    {k: v for k, v in row.items() if k not in measured}
    for row in content['recipes']
  ]
  assert rows == page.described(), f'run {page.COMMAND}'
  for row in content['recipes']:
    assert row['value'] <= 1e-9 and row['gradient'] <= 1e-6, row


def test_the_page_tables_name_all_paradigms(page):
  assert set(page.HARNESSES) == set(recipes._ROWS)


def test_a_missing_paradigm_is_an_error(page, monkeypatch):
  def forms(paradigm):
    raise ValueError(f'no file tests/recipe_forms_{paradigm}*.py')

  monkeypatch.setattr(recipe_tables, 'forms', forms)
  with pytest.raises(ValueError, match=r'recipe_forms_sft\*'):
    page.measure()


def test_a_recipe_without_a_form_is_an_error(page, monkeypatch):
  table = dict(recipe_tables.forms('sft'))
  form = table.pop('dft')
  table['dfd'] = form
  monkeypatch.setattr(recipe_tables, 'forms', lambda paradigm: table)
  with pytest.raises(ValueError, match=r"no form of \['dft'\].*\['dfd'\]"):
    page.described()


def test_the_page_of_one_recipe(page, monkeypatch, tmp_path):
  monkeypatch.setattr(page, 'HARNESSES', {'sft': 'recipe_harness_rows'})
  page.main(['--only', 'sft/dft', '--out', str(tmp_path)])
  content = json.loads((tmp_path / 'recipes.json').read_text('utf-8'))
  (row,) = content['recipes']
  assert row['recipe'] == 'dft' and row['gradient'] < 1e-6
  text = (tmp_path / 'recipes.md').read_text('utf-8')
  assert '[`dft`](https://arxiv.org/abs/2508.05629)' in text
  assert '| equals it |' in text
