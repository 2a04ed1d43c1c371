"""The committed triples: what is said of them follows from their numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.quickstart import ten, triples
from posttrain_jax.quickstart import statements
from posttrain_jax.report.generated import filled

FOLDER = Path(__file__).parent.parent / 'experiments' / 'quickstart'
KEPT = json.loads((FOLDER / 'ten.json').read_text())
some = pytest.mark.skipif(not KEPT, reason='no triple was run to its end yet')


def judged(one):
  """The statements again, from the numbers by seed."""
  percent = lambda x, key: 100.0 * np.asarray(x[f'{key}_seeds'])
  pairs = lambda x: list(zip(percent(x, 'accuracy'), percent(x, 'retention')))
  base = one['arms']['base']
  fronts = {
    name: [
      [tuple(pairs(x)[seed]) for x in (base, *rates)]
      for seed in range(len(one['seeds']))
    ]
    for name, rates in one['frontiers'].items()
  }
  accuracy = {
    name: percent(arm, 'accuracy')
    for name, arm in one['arms'].items()
    if name != 'base'
  }
  return statements.statements(percent(base, 'accuracy'), accuracy, fronts)


@pytest.mark.parametrize('one', KEPT, ids=lambda x: str(x['seeds'][0]))
def test_statements_follow_from_the_numbers(one):
  assert tuple(one['seeds']) in triples.TRIPLES
  again = judged(one)
  assert [x.text for x in again] == [x['text'] for x in one['statements']]
  for new, old in zip(again, one['statements']):
    assert new.holds == old['holds']
    for key in ('low', 'high'):
      assert getattr(new.difference, key) == pytest.approx(old[key], abs=1e-6)
  for name, rates in one['frontiers'].items():
    best = statements.chosen(
      {x['rate']: np.array(x['validation_seeds']) for x in rates}
    )
    assert best == one['arms'][name]['rate']


@pytest.mark.parametrize('one', KEPT, ids=lambda x: str(x['seeds'][0]))
def test_enough_different_problems_were_asked(one):
  new = one['problems']['new']
  assert new['test'] >= 100 and new['validation'] >= 100
  assert new['shared'] == 0


@some
def test_the_readme_has_the_table():
  text = (FOLDER / 'README.md').read_text()
  assert filled(text, 'ten', ten.table(KEPT), 'README.md') == text


@some
def test_the_readmes_show_the_first_triple():
  one = json.loads((FOLDER / 'summary.json').read_text())
  assert one['seeds'] == list(triples.TRIPLES[0])
  assert one['arms'] == KEPT[0]['arms']
  for readme in (FOLDER / 'README.md', FOLDER.parent.parent / 'README.md'):
    text = readme.read_text()
    assert filled(text, 'quickstart', ten.single(one), str(readme)) == text


def test_what_was_read_again_says_so():
  one = {'wall_seconds': 9.0, 'cpu_seconds': 8.0, 'stage_seconds': 300.0}
  assert ten.took(one).startswith('5:00 of training and measuring')
  one['wall_seconds'] = 330.0
  assert ten.took(one) == '5:30 and 8 CPU seconds after installation'


def test_the_first_triples_were_run_in_their_order():
  ran = [tuple(x['seeds']) for x in KEPT]
  assert ran == list(triples.TRIPLES[: len(ran)])
