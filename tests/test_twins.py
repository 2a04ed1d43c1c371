"""Every public function against an independent form in NumPy, in float64."""

import importlib

import numpy as np
import objective_cases
import pytest

CASES = objective_cases.all_cases()


def test_every_public_function_has_a_case():
  missing = objective_cases.uncovered()
  assert not missing, (
    f'no case for {", ".join(missing)}: add a `Case` to the list CASES of the '
    'fitting tests/objective_cases_*.py (a new file is found by its name), '
    'with a twin, its form in NumPy'
  )


def test_every_case_is_of_a_public_function():
  for case in CASES:
    assert case.name in objective_cases.public_names(case.room), case.id


@pytest.mark.parametrize(
  'room, key, trait',
  [
    (room, key, trait)
    for room in objective_cases.rooms()
    for key, trait in (
      ('WHOLE_BATCH', 'whole_batch'),
      ('WHOLE_ROWS', 'needs_whole_rows'),
    )
    if hasattr(importlib.import_module(f'posttrain_jax.{room}'), key)
  ],
)
def test_what_a_room_says_of_its_functions_is_what_was_measured(
  room, key, trait
):
  """With any of its hyperparameters; `test_metamorphic` measures traits."""
  module = importlib.import_module(f'posttrain_jax.{room}')
  own = [case for case in CASES if case.room == room]
  measured = {case.name for case in own if case.has(trait)}
  assert set(getattr(module, key)) == measured, (
    f'{room}.{key} and the trait {trait} of its cases differ'
  )


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
  'case', [c for c in CASES if c.twin], ids=lambda case: case.id
)
def test_value_and_gradient_equal_the_twins(case, seed):
  found = objective_cases.compare_with_twin(case, seed)
  assert found['value'] <= (1e-6 if case.has('float32_inside') else 1e-10)
  if found['gradient_by'] == 'none':
    return
  limit = 1e-6 if found['gradient_by'] == 'finite differences' else 1e-10
  if case.has('float32_inside'):
    limit = 1e-6
  assert found['gradient'] <= limit, found


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)
def test_inputs_are_ragged_and_complete(case):
  inputs = case.make(np.random.default_rng(0), 4, 5)
  assert inputs.keys() == case.axes.keys()
  for name, axes in case.axes.items():
    assert inputs[name].ndim == len(axes), name
  for mask in case.masks.values():
    if mask == 'wrong_marks':
      continue
    lengths = inputs[mask].sum(1)
    assert lengths[0] == inputs[mask].shape[1] and lengths[-1] == 0
