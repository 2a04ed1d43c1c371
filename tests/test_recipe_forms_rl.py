"""Every recipe of configs/rl.py is its paper: value and gradient, in float64.

The forms are in tests/recipe_forms_rl_*.py, what they are compared with in
tests/recipe_harness_rl.py, which says how to write one.
"""

import numpy as np
import pytest
import recipe_harness_rl as harness

from configs import recipes

FORMS = harness.collected('FORMS')
SETTINGS = harness.collected('SETTINGS')


@pytest.mark.parametrize('name', recipes.RL)
def test_a_recipe_is_its_form(name):
  assert name in FORMS, (
    f'recipe "{name}" has no form in tests/recipe_forms_rl_*'
  )
  real = harness.run(name, SETTINGS.get(name, harness.Setting()))
  harness.compare(FORMS[name], real)


def test_no_form_is_of_another_recipe():
  assert set(FORMS) <= set(recipes.RL)
  assert set(SETTINGS) <= set(FORMS)


@pytest.mark.parametrize('name', FORMS)
def test_a_form_says_where_it_is_from(name):
  form = FORMS[name]
  assert form.source.startswith(('https://', 'http://')) and form.where


def test_the_answers_are_awkward():
  live, data = harness.world()
  own = data.rows()
  size = data.mask[own].sum(axis=-1)
  assert size.min() == 0 and size.max() == harness.WIDTH
  assert len(np.unique(size)) == harness.WIDTH + 1
  finished = data.finished[own]
  assert finished[size == 0] == 0 and np.any((size > 0) & (finished == 0))
  rewards = data.rewards['own']
  means = rewards.mean(axis=1)
  assert {0.0, 1.0} < set(means) and len(set(means)) == 5
  ratio = np.exp(harness.logps(live, data) - data.old_logps)[own]
  counted = data.mask[own] > 0
  right = np.broadcast_to(rewards[..., None] > 0, ratio.shape)
  spread = np.broadcast_to(
    (rewards.std(axis=1) > 0)[:, None, None], ratio.shape
  )
  # What a clip, a cap or a second clip bounds, on either side.
  for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.2), (1.28, 3), (5, 99)):
    for answers in (right, ~right):
      there = counted & spread & answers & (ratio > low) & (ratio < high)
      assert there.any(), (low, high)
  # A wrong answer of a mixed group that the policy has left, and others.
  away = -np.log(ratio).sum(axis=-1) / np.maximum(size, 1)
  mixed = (rewards.std(axis=1) > 0)[:, None] & (rewards == 0)
  assert away[mixed].max() > 0.5 > away[mixed].min()
  reference = harness.logps(data.ref, data)
  assert np.abs(reference - harness.logps(live, data)).max() > 1


def test_a_wrong_form_is_found():
  real = harness.run('grpo')
  form = FORMS['grpo']

  def without_a_row(live, frozen, data):
    mask = data.mask.copy()
    mask[data.rows()[3, 1]] = 0
    changed = harness.dataclasses.replace(data, mask=mask)
    return form.value(live, frozen, changed)

  def detached(live, frozen, data):
    value = form.value(frozen, frozen, data)
    return value + 0.999 * (form.value(live, frozen, data) - value)

  for wrong in (without_a_row, detached):
    with pytest.raises(AssertionError):
      changed = harness.dataclasses.replace(form, value=wrong)
      harness.compare(changed, real)
