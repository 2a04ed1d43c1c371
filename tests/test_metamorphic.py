"""What must hold between the results of related batches, for every function.

Masks, padding, the order of rows and groups, splits and packing: which rows and
columns stand where says nothing about a token, unless the case's traits say so.
"""

import hypothesis.strategies as st
import metamorphic as mm
import numpy as np
import objective_cases
import pytest
from hypothesis import given

CASES = objective_cases.first_cases()
SEED = st.integers(0, 10_000)


def cases(keep):
  return pytest.mark.parametrize(
    'case', [case for case in CASES if keep(case)], ids=lambda case: case.id
  )


def has_mask(case):
  return bool(case.masks)


@cases(has_mask)
@mm.few
@given(seed=SEED)
def test_what_is_masked_has_no_effect(case, seed):
  x = mm.draw(case, seed)
  poisons = (np.nan, np.inf, -1e30)
  plain, *dirty = mm.together(
    case, x, *(mm.spoiled(case, x, poison) for poison in poisons)
  )
  for poison, (outputs, gradient) in zip(poisons, dirty):
    mm.same(outputs, plain[0], f'{poison} under the mask')
    mm.same(gradient, plain[1], f'gradient with {poison} under the mask')
  for outputs, gradient in (plain, *dirty):
    if case.out == 'BT':
      mask = x[case.masks['T']]
      for name, array in outputs.items():
        assert not array[mask == 0].any(), f'{name} is not 0 under the mask'
    for name, array in gradient.items():
      here = mm.hidden(case, x, name)
      if here is not None:
        assert not array[here].any(), f'gradient of {name} under the mask'


@cases(has_mask)
@mm.few
@given(seed=SEED)
def test_a_batch_of_nothing_is_zero(case, seed):
  x = mm.without_rows(case, mm.draw(case, seed), slice(None))
  for outputs, gradient in mm.together(case, x, mm.spoiled(case, x, np.nan)):
    for name, array in (outputs | gradient).items():
      assert not array.any(), f'{name} of a fully masked batch\n{array}'


@cases(lambda case: case.detached)
@mm.few
@given(seed=SEED)
def test_detached_inputs_have_no_gradient(case, seed):
  (_, gradient), *_ = mm.together(case, mm.draw(case, seed))
  for name in case.detached:
    assert not gradient[name].any(), name


@cases(lambda case: mm.has_rows(case) and not case.has('random'))
@mm.few
@given(seed=SEED, order=st.permutations(range(mm.ROWS)))
def test_permuting_rows_permutes_the_result(case, seed, order):
  order = np.array(order)
  if case.has('per_group'):
    # Within their groups of three, and the groups.
    order = np.concatenate([order[order >= 3], order[order < 3]])
  x = mm.draw(case, seed)
  plain, moved = mm.together(case, x, mm.take_rows(case, x, order))
  pick = lambda results, name: (
    results if case.has('sorted') and name == 'out' else results[order]
  )
  outputs = plain[0]
  if case.out.startswith('B'):
    outputs = {name: pick(array, name) for name, array in outputs.items()}
  mm.same(moved[0], outputs, 'permuted rows')
  mm.same(moved[1], mm.rows_of(plain[1], order), 'gradient of permuted rows')


def is_row_local(case):
  return case.out.startswith('B') and not (
    {'whole_batch', 'random'} & case.traits
  )


@cases(is_row_local)
@mm.few
@given(seed=SEED)
def test_a_row_does_not_see_the_others(case, seed):
  x = mm.draw(case, seed)
  twice = mm.take_rows(case, x, np.array([0, 1, 2, 0, 1, 2]))
  plain, doubled = mm.together(case, x, twice)
  first, second = slice(0, 3), slice(3, 6)
  for before, after in zip(plain, doubled):
    expected = mm.rows_of(before, first)
    mm.same(mm.rows_of(after, first), expected, 'beside copies')
    mm.same(mm.rows_of(after, second), expected, 'copies')


@cases(lambda case: case.has('whole_batch'))
def test_whole_batch_is_said_only_where_it_holds(case):
  for seed in range(40):
    x, other = mm.draw(case, seed), mm.draw(case, seed + 1000)
    mixed = {name: x[name].copy() for name in x}
    for name in x:
      mixed[name][3:] = other[name][3:]
    plain, changed = (result[0]['out'][:3] for result in
                      mm.together(case, x, mixed))  # fmt: skip
    if np.abs(plain - changed).max() > 1e-3:
      return
  raise AssertionError('no row ever noticed that others changed')


# Some count over the batch: copies of all rows leave their means alone. A
# rank breaks ties by position, and a Bessel correction counts rows.
def keeps_means(case):
  return case.masks and case.out.startswith('B') and not (
    {'random', 'discontinuous'} & case.traits
  )  # fmt: skip


@cases(keeps_means)
@mm.few
@given(seed=SEED)
def test_copies_of_the_batch_leave_its_mean(case, seed):
  x = mm.draw(case, seed)
  half = mm.without_rows(case, x, slice(3, None))
  twice = mm.take_rows(case, x, np.array([0, 1, 2, 0, 1, 2]))
  once, doubled = (out['out'] for out, _ in mm.together(case, half, twice))
  np.testing.assert_allclose(doubled.sum(), 2 * once.sum(), rtol=1e-4,
                             atol=1e-4)  # fmt: skip


@cases(
  lambda case: has_mask(case) and not {'random', 'reads_width'} & case.traits
)
@mm.few
@given(seed=SEED)
def test_padding_and_micro_batches(case, seed):
  """Half of the rows, with eight empty columns, one after the other."""
  x = mm.draw(case, seed)
  halves = [slice(0, 3), slice(3, 6)]
  pieces = [
    mm.padded(case, mm.take_rows(case, x, np.arange(mm.ROWS)[half]))
    for half in halves
  ]
  whole, first, second = mm.together(
    case,
    x,
    mm.without_rows(case, x, halves[1]),
    mm.without_rows(case, x, halves[0]),
  )
  found = mm.in_turn(case, *pieces)
  for half, expected, piece in zip(halves, (first, second), found):
    if case.out == 'S':
      mm.same(piece[0], expected[0], 'a padded half')
      continue
    # Sorted entries: those of empty rows come last, whatever their place.
    at = slice(0, 3) if case.has('sorted') else half
    own = {
      name: array[at if name == 'out' else half]
      for name, array in expected[0].items()
    }
    for name, array in piece[0].items():
      if case.out == 'BT':
        assert not array[:, mm.TOKENS :].any(), name
        piece[0][name] = array[:, : mm.TOKENS]
    mm.same(piece[0], own, 'a padded half')
    cut = {name: array[:, : expected[1][name].shape[1]] if array.ndim > 1
           else array for name, array in piece[1].items()}  # fmt: skip
    mm.same(cut, mm.rows_of(expected[1], half), 'gradient of a padded half')
  parts = sum(piece[0]['out'].sum(keepdims=case.out != 'S') for piece in found)
  if case.out == 'S':
    # Numerator and denominator add up over micro-batches.
    parts = found[0][0]['out'] + found[1][0]['out']
    np.testing.assert_allclose(parts, whole[0]['out'], rtol=1e-5, atol=1e-5)
  elif not case.has('whole_batch'):
    total = whole[0]['out'].sum()
    np.testing.assert_allclose(parts.sum(), total, rtol=1e-4, atol=1e-4)


@cases(lambda case: 'tokens' in case.axes)
@mm.few
@given(seed=SEED, pad=st.integers(0, 4))
def test_the_pad_id_never_matters(case, seed, pad):
  x = mm.draw(case, seed)
  # Columns after a row's last counted token.
  after = np.cumsum(x['mask'][:, ::-1], axis=1)[:, ::-1] == 0
  same_id = x | {'tokens': np.where(after, pad, x['tokens'])}
  plain, other = mm.together(case, x, same_id)
  mm.same(other[0], plain[0], f'pad id {pad}')
  mm.same(other[1], plain[1], f'gradient with pad id {pad}')


# Packing: two rows in one. What is given per row cannot be packed.
def can_be_packed(case):
  return case.out == 'BT' and not case.has('random') and all(
    axes.startswith('BT') for axes in case.axes.values()
  )  # fmt: skip


def packing_gap(case, seed):
  x = mm.draw(case, seed)
  (plain, _), *_ = mm.together(case, x)
  (packed, _), *_ = mm.in_turn(case, *[mm.packed(case, x)] * 2)
  packed = packed['out'][:, : 2 * mm.TOKENS].reshape(mm.ROWS, mm.TOKENS)
  scale = max(np.abs(plain['out']).max(), 1.0)
  return np.abs(packed - plain['out']).max() / scale


@cases(lambda case: can_be_packed(case) and not case.has('needs_whole_rows'))
@mm.few
@given(seed=SEED)
def test_packing_leaves_a_token_level_loss(case, seed):
  assert packing_gap(case, seed) < 2e-5


@cases(lambda case: can_be_packed(case) and case.has('needs_whole_rows'))
def test_needs_whole_rows_is_said_only_where_it_holds(case):
  assert max(packing_gap(case, seed) for seed in range(40)) > 1e-3


# Groups and rewards

is_advantage = lambda case: case.room == 'advantages' and case.out == 'BG'


@cases(lambda case: case.out == 'BG')
@mm.few
@given(seed=SEED, order=st.permutations(range(4)))
def test_permuting_a_group_permutes_what_its_answers_have(case, seed, order):
  x = mm.draw(case, seed)
  if case.has('label_last'):  # it stays where it is
    order = [*(i for i in order if i != 3), 3]
  moved = {
    name: array[:, np.array(order)] if case.axes[name] == 'BG' else array
    for name, array in x.items()
  }
  plain, other = mm.together(case, x, moved)
  expected = {'out': plain[0]['out'][:, np.array(order)]}
  mm.same(other[0], expected, 'permuted completions')


@cases(is_advantage)
@mm.few
@given(
  seed=SEED,
  shift=st.floats(-8.0, 8.0, width=16),
  scale=st.floats(0.25, 16.0, width=16),
)
def test_rewards_shifted_and_scaled(case, seed, shift, scale):
  x = mm.draw(case, seed)
  change = lambda f: {
    name: f(x[name]).astype(np.float32) for name in x
  }  # greedy rewards are rewards, too
  plain, shifted, scaled = (
    result[0]
    for result in mm.together(
      case, x, change(lambda r: r + shift), change(lambda r: r * scale)
    )
  )
  if case.has('reward_shift_invariant'):
    mm.same(shifted, plain, f'rewards + {shift}', 1e-4)
  if case.has('reward_scale_invariant'):
    # epsilon is 1e-4 beside a standard deviation near 1.
    mm.same(scaled, plain, f'rewards * {scale}', 2e-3)
  if case.has('reward_scale_equivariant'):
    expected = {name: array * scale for name, array in plain.items()}
    mm.same(scaled, expected, f'rewards * {scale}', 1e-5)
