"""Recipes of SFT and distillation against their papers, as a whole.

Value and gradient of what an update minimises, with rows, marks, weights,
average and coefficients, equal a form that was written from the source.
"""

import numpy as np
import pytest
import recipe_answers_rows
import recipe_harness_rows as harness
import recipe_tables

NAMES = harness.names()


@pytest.mark.parametrize('paradigm, name', NAMES)
def test_a_recipe_is_its_paper(paradigm, name):
  assert name in recipe_tables.forms(paradigm), (
    f'recipe "{name}" has no form: write its whole objective from its paper '
    f'into a file tests/recipe_forms_{paradigm}*.py'
  )
  found = harness.measure(name)
  assert found['value'] <= 1e-9 and found['gradient'] <= 1e-6, found


@pytest.mark.parametrize('paradigm', harness.PARADIGMS)
def test_every_form_is_of_a_recipe_and_says_where_it_is_from(paradigm):
  own = {name for p, name in NAMES if p == paradigm}
  table = recipe_tables.forms(paradigm)
  assert set(table) == own
  for name, form in table.items():
    assert form.source.startswith('https://'), name
    assert form.where, name
    assert not form.differs or form.differs.endswith('.'), name


CHANGES = [
  ('ift', ('reduce.name', 'token_mean')),
  ('ift', ('own_inputs', '0.0')),
  ('poft', ('loss.gamma', '0.1')),
  ('rho1', ('weights.fraction', '0.7')),
  ('rejection_sampling', ('collect.dedup', 'False')),
  ('raft', ('collect.threshold', '-1.0')),
  ('faft', ('collect.oracle', 'False')),
]


@pytest.mark.parametrize('name, change', CHANGES)
def test_a_changed_recipe_is_told(name, change):
  """Average, coefficient, choice of tokens, and of rows."""
  found = harness.evaluate('sft', name, change)
  gap = harness.compare(found, recipe_tables.forms('sft')[name])
  assert gap['value'] > 1e-4 and gap['gradient'] > 1e-3, gap


def test_answers_are_of_every_kind():
  """Groups without spread, without credit, with repeats; ragged rows."""
  data = recipe_answers_rows.make(4, 8, 6, harness.EOS, harness.SEED)
  mixed, wrong, right, twice = data.own['policy']
  rewards = lambda group: [a.reward for a in group]
  assert 0 < np.mean([r >= 1 for r in rewards(mixed)]) < 0.5
  assert max(rewards(wrong)) == 0 and min(rewards(right)) == 1
  tokens = [a.tokens for a in twice]
  assert len(set(tokens)) < len(tokens)
  lengths = {len(a.tokens) for group in data.own['policy'] for a in group}
  assert lengths == {1, 2, 3, 4, 5}
  partial = [a.reward for group in data.own['policy'] for a in group]
  assert 0.25 in partial
