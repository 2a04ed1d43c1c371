"""Every recipe of configs/preference.py is its paper's objective, as a whole.

Value and gradient, in float64, from problems, answers and rewards to one
number: `recipe_harness_preference` on one side, on the other a NumPy form that
was written from the source.
"""

import collections
import dataclasses

import numpy as np
import pytest
import recipe_answers
import recipe_harness_preference as harness

from configs import recipes
from posttrain_jax.losses import preference
from posttrain_jax.trainers import preference as trainer

VALUE, GRADIENT = 1e-9, 1e-6
Value = collections.namedtuple('Value', 'value')


def test_every_recipe_has_a_form():
  assert set(harness.FORMS) == set(recipes.PREFERENCE)
  for name, form in harness.FORMS.items():
    assert form.source.startswith('https://') and form.where, name
    assert not form.differs or form.differs.endswith('.'), name


@pytest.mark.parametrize('name', recipes.PREFERENCE)
def test_a_recipe_is_its_source(name):
  both = harness.held(name)
  gap = harness.measure(name)
  assert gap['value'] < VALUE, (both.value, both.form_value)
  assert gap['gradient'] < GRADIENT, gap
  moves = [np.abs(slope).max() for slope in both.form_gradient.values()]
  assert max(moves) > 1e-3, f'{name} has no gradient: it proves nothing'


def test_the_data_tell_what_they_have_to_tell():
  """Ragged answers, ties, and models that differ."""
  data = recipe_answers.make()
  answers = [a for p in data.problems for a in p.answers['ref']]
  assert len({a.tokens.size for a in answers}) == recipe_answers.WIDTH
  assert {p.prompt.size for p in data.problems} == {2, 3}
  live = recipe_answers.live()
  found = recipe_answers.pairs(live, live, data)
  assert 1 < len(found) < len(data.problems)
  assert any(w.p.size > l.p.size for w, l in found)
  assert any(w.p.size < l.p.size for w, l in found)
  own = recipe_answers.pairs(live, live, data, role='policy', size=2)
  assert {w.p.size for w, _ in own} and len(own) > 1
  rhos = [w.rho for w, _ in found]
  assert min(rhos) < 0 < max(rhos)


@pytest.mark.parametrize(
  'name, change',
  [
    ('sppo_hard', {'loss.beta': 0.1}),
    ('online_dpo', {'collect.sampler': 'ref'}),
    ('wpo', {'collect.sampler': 'ref'}),
    ('online_dpo', {'group_size': 8}),
    ('spin', {'collect.keep': 'wrong'}),
    ('kto', {'collect.threshold': 0.25}),
    ('rpo', {'nll_coef': 0.5}),
    ('reward_model_smoothed', {'loss.label_smoothing': 0.0}),
    ('reward_model_flip', {'flip_fraction': 0.4}),
    ('reward_model_flip', {'collect.noise': 0.0}),
    ('meta_rm', {'meta.rate': 0.2}),
    ('meta_rm', {'meta.answers': 3}),
  ],
)
def test_a_wrong_part_shows(name, change, monkeypatch):
  """What a recipe chooses is seen by its form."""
  load = harness.load

  def changed(recipe):
    return harness.config.with_values(load(recipe), change)

  monkeypatch.setattr(harness, 'load', changed)
  params, data = recipe_answers.live(), recipe_answers.make()
  value, _ = harness.objective_of(name, params, data)
  expected = harness.FORMS[name].value(params, params, data)
  assert abs(value / expected - 1) > 1e-6


def test_the_source_turns_the_pairs_round_that_the_forms_have():
  data = recipe_answers.make()
  rows = harness.load('reward_model_flip')
  with harness.tables():
    batch = harness._rows(rows.collect.to_json(), rows.group_size)
  scores = np.asarray(batch.extras['scores']).reshape(-1, 2)
  turned = np.flatnonzero(scores[:, 0] < scores[:, 1])
  assert tuple(turned) == recipe_answers.TURNED
  assert len(scores) == len(data.problems)


@pytest.mark.parametrize('answers', [3, 4])
@pytest.mark.parametrize('fraction', [0.4, 0.5])
def test_more_pairs_and_other_counts_are_their_forms_too(
  fraction, answers, monkeypatch
):
  """Of three pairs a fifth is none; an odd number of answers is laid out with
  one too many."""
  load, free = harness.load, harness.recipe_forms_preference_free
  params, data = recipe_answers.live(), recipe_answers.make()
  for name, change, form in (
    (
      'reward_model_flip_margin',
      {'flip_fraction': fraction},
      free.flipped(free.margin, fraction),
    ),
    ('meta_rm', {'meta.answers': answers}, free.meta_rm(0.1, answers)),
  ):

    def changed(recipe, change=change):
      return harness.config.with_values(load(recipe), change)

    monkeypatch.setattr(harness, 'load', changed)
    value, gradient = harness.objective_of(name, params, data)
    np.testing.assert_allclose(value, form(params, params, data), rtol=VALUE)
    slopes = harness._differences(Value(form), params, data)
    np.testing.assert_allclose(
      gradient['values'], slopes['values'], atol=GRADIENT
    )


def test_the_shift_of_bco_is_of_all_answers_so_far():
  """Other rewards in the past give another loss."""
  params, data = recipe_answers.live(), recipe_answers.make()
  fresh = dataclasses.replace(data, seen=(0.0, 0.0))
  form = harness.FORMS['bco'].value
  values = [harness.objective_of('bco', params, d)[0] for d in (data, fresh)]
  expected = [form(params, params, d) for d in (data, fresh)]
  np.testing.assert_allclose(values, expected, rtol=VALUE)
  assert abs(values[0] - values[1]) > 1e-3


@pytest.mark.parametrize('name', recipes.PREFERENCE)
def test_no_recipe_counts_its_nll_twice(name):
  loss = harness.load(name).loss.name
  both = harness.load(name).nll_coef and loss in preference.OWN_NLL
  assert not both


@pytest.mark.parametrize('name', preference.OWN_NLL)
def test_a_second_nll_is_refused(name):
  c = harness.load('dpo')
  harness.config.override(c, [('loss.name', name), ('nll_coef', '0.5')])
  with pytest.raises(ValueError, match=f'nll_coef=0.5: loss "{name}" has'):
    trainer.make_objective(c, harness.MODELS)
