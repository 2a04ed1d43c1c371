"""Intervals, tests and the rule for claims: by hand and at its boundaries."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from posttrain_jax.evals.statistics import (
  Claim,
  holm,
  interval,
  judge,
  paired,
  unpaired,
)

ROW = [0.1, 0.2, 0.3, 0.4, 0.6]


def claim(direction='greater', margin=0.0):
  return Claim(
    'c', 'p', 'SFT forgets', 'accuracy', 'rl', 'sft', direction, margin
  )


def outcome(differences, direction='greater', margin=0.0):
  """The verdict on an arm that is `differences` above another, by seed."""
  base = np.linspace(0.25, 0.5, len(differences))
  return judge(claim(direction, margin), base + differences, base).outcome


# --- intervals


def test_interval_is_the_bca_of_scipy_and_follows_the_data():
  found = interval(ROW)
  expected = stats.bootstrap(
    (ROW,), np.mean, n_resamples=10_000, method='BCa',
    rng=np.random.default_rng(0),
  ).confidence_interval  # fmt: skip
  assert found.mean == pytest.approx(0.32) and found.count == 5
  assert (found.low, found.high) == pytest.approx(tuple(expected))
  assert interval(ROW) == found
  wider = interval(ROW, confidence=0.99)
  assert wider.low < found.low < found.mean < found.high < wider.high
  # Shift, scale and order go through, up to the next of the few means that
  # five values can have.
  moved = interval([1 + 2 * x for x in ROW])
  assert moved.low == pytest.approx(1 + 2 * found.low, abs=0.05)
  back = interval(ROW[::-1])
  assert back.high == pytest.approx(found.high, abs=0.02)


def test_interval_of_equal_values_and_of_one():
  flat = interval([0.7] * 4)
  assert (flat.low, flat.high) == (flat.mean, flat.mean)
  assert flat.mean == pytest.approx(0.7)
  one = interval([0.7])
  assert one.mean == 0.7 and math.isnan(one.low) and math.isnan(one.high)


def test_interval_where_bca_is_not_defined_is_the_percentile_one():
  # One resample, so its quantile is 0 or 1 and the correction is infinite.
  found = interval(ROW, resamples=1)
  assert found.low == found.high and math.isfinite(found.low)


@pytest.mark.parametrize(
  'values, message',
  [([], 'non-empty'), ([[1.0]], r'\(1, 1\)'), ([0.0, math.nan], 'seed 1')],
)
def test_interval_of_nonsense(values, message):
  with pytest.raises(ValueError, match=message):
    interval(values)


def test_confidence_is_a_fraction():
  with pytest.raises(ValueError, match='0.95 is 95%'):
    interval(ROW, confidence=95)


# --- paired


def test_sign_flips_by_hand():
  # d = (1, 2, -4): the mean is -1/3. Of the 8 sums 7 5 3 1 -1 -3 -5 -7, -1 is
  # reached from above by 5, from below by 4, and 8 are as far from 0.
  found = paired([2.0, 4.0, 0.0], [1.0, 2.0, 4.0])
  assert found.difference.mean == pytest.approx(-1 / 3)
  assert (found.p_greater, found.p_less, found.p_value) == (5 / 8, 4 / 8, 1)
  # Deviations 4/3, 7/3, -11/3: squares sum to 186/9, over 2, root.
  assert found.effect_size == pytest.approx(-1 / 3 / math.sqrt(186 / 18))
  assert (found.wins, found.count) == (2, 3)


def test_five_seeds_that_agree_have_p_of_one_in_32():
  found = paired(np.array(ROW) + [0.1, 0.2, 0.05, 0.3, 0.1], ROW)
  assert (found.p_greater, found.p_value) == (1 / 32, 2 / 32)
  assert found.p_less == 1.0


@pytest.mark.parametrize('shape', [(6,), (14,), (15,), (40,)])
def test_sign_flips_against_scipy(shape):
  rng = np.random.default_rng(3)
  a, b = rng.normal(0.3, 1, shape), rng.normal(0, 1, shape)
  found = paired(a, b, resamples=4000)
  mean = lambda x, axis: np.mean(x, axis=axis)
  for name, side in (
    ('p_value', 'two-sided'), ('p_greater', 'greater'), ('p_less', 'less'),
  ):  # fmt: skip
    expected = stats.permutation_test(
      (a - b,), mean, permutation_type='samples', alternative=side,
      n_resamples=4000 if shape[0] > 14 else math.inf,
      rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    # Two Monte Carlo estimates differ by a few standard errors.
    slack = 0.04 if shape[0] > 14 else 1e-12
    assert getattr(found, name) == pytest.approx(expected, abs=slack), name


def test_monte_carlo_never_says_zero():
  found = paired(np.arange(20) + 5.0, np.arange(20.0), resamples=999)
  assert found.p_greater == 1 / 1000


def test_swapping_the_arms_swaps_the_sides():
  a, b = np.array(ROW), np.array([0.2, 0.1, 0.2, 0.2, 0.5])
  found, back = paired(a, b), paired(b, a)
  assert found.p_greater == back.p_less and found.p_value == back.p_value
  assert found.effect_size == -back.effect_size
  assert found.wins + back.wins == 5


def test_rounding_is_no_difference():
  a = np.array(ROW)
  found = paired(a * (1 + 1e-7), a)
  assert found.difference.mean == 0 and found.effect_size == 0
  assert found.wins == 0 and found.p_greater == 1


def test_effect_size_without_spread():
  # 0.7 - 0.6 is not exactly 0.4 - 0.3.
  assert paired([0.4, 0.7], [0.3, 0.6]).effect_size == math.inf
  assert paired([0.3, 0.6], [0.4, 0.7]).effect_size == -math.inf
  assert math.isnan(paired([0.4], [0.3]).effect_size)


def test_named_seeds_are_matched_and_missing_ones_named():
  a, b = {7: 1.0, 3: 2.0}, {3: 0.5, 7: 0.25}
  assert paired(a, b) == paired([2.0, 1.0], [0.5, 0.25])
  with pytest.raises(ValueError, match='seed 9 is missing in arm b'):
    paired({**a, 9: 0.0}, b)
  with pytest.raises(ValueError, match='arm b of seed 3 is nan'):
    paired(a, {**b, 3: math.nan})
  with pytest.raises(ValueError, match='names its seeds'):
    paired(a, [1.0, 2.0])


def test_lists_that_do_not_match():
  with pytest.raises(ValueError, match='3 and 2 values: seed 2 .* arm b'):
    paired([1.0, 2.0, 3.0], [1.0, 2.0])
  with pytest.raises(ValueError, match='arm a of seed 1 is inf'):
    paired([1.0, math.inf], [1.0, 2.0])


# --- unpaired


def test_unpaired_by_hand():
  # Of the 20 splits only the one observed puts the larger three together.
  found = unpaired([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
  assert (found.p_greater, found.p_value, found.p_less) == (0.05, 0.1, 1.0)
  assert found.difference.mean == 3 and found.effect_size == 3
  assert (found.wins, found.count, found.difference.count) == (9, 9, 3)


def test_unpaired_against_scipys_welch():
  rng = np.random.default_rng(1)
  a, b = rng.normal(0.5, 1, 6), rng.normal(0, 2, 8)
  found = unpaired(a, b)
  welch = lambda x, y, axis: (
    stats.ttest_ind(x, y, axis=axis, equal_var=False).statistic
  )
  for name, side in (('p_greater', 'greater'), ('p_less', 'less')):
    expected = stats.permutation_test(
      (a, b), welch, vectorized=True, alternative=side, n_resamples=math.inf
    ).pvalue
    assert getattr(found, name) == pytest.approx(expected), name
  assert found.difference.low < a.mean() - b.mean() < found.difference.high


def test_unpaired_monte_carlo_and_flat_arms():
  rng = np.random.default_rng(2)
  many = unpaired(rng.normal(3, 1, 12), rng.normal(0, 1, 12), resamples=999)
  assert many.p_greater == 1 / 1000 and many.p_less == 1.0
  flat = unpaired([0.5] * 4, [0.5] * 4)
  assert flat.p_value == 1 and flat.effect_size == 0
  apart = unpaired([0.6] * 4, [0.5] * 4)
  assert apart.p_greater == pytest.approx(1 / 70)
  with pytest.raises(ValueError, match='1 and 2 seeds'):
    unpaired([1.0], [1.0, 2.0])


# --- several


def test_holm_by_hand():
  assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
  assert holm([0.9, 0.8]) == [1.0, 1.0]
  assert holm([]) == []
  with pytest.raises(ValueError, match=r'p_values\[1\]=1.5'):
    holm([0.5, 1.5])


def test_holm_never_turns_an_order_around():
  p = np.random.default_rng(0).uniform(size=9) ** 3
  adjusted = holm(p)
  assert all(x >= y for x, y in zip(adjusted, p))
  order = np.argsort(p)
  assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
  shuffled = holm(p[::-1])[::-1]
  assert shuffled == pytest.approx(adjusted)


# --- claims


def test_all_seeds_agree():
  d = [0.1, 0.2, 0.05, 0.3, 0.1]
  assert outcome(d) == 'reproduced'
  assert outcome(np.negative(d)) == 'contradicted'
  assert outcome(d, 'less') == 'contradicted'
  assert outcome(np.negative(d), 'less') == 'reproduced'


def test_one_of_five_seeds_disagrees():
  # The interval is above 0 and the p-value 2/32 is not small enough.
  d = [0.1, 0.2, 0.15, 0.3, -0.001]
  verdict = judge(claim(), np.array(d) + 1, np.ones(5))
  assert verdict.comparison.difference.low > 0
  assert verdict.comparison.p_greater == 2 / 32
  assert verdict.outcome == 'undecided'
  # With six it is.
  assert outcome([*d, 0.2]) == 'reproduced'


def test_a_small_p_is_not_enough():
  # One seed is far below; the interval, not the p-value of 9/256, sees it.
  d = [-1.5, 1.0, 1.3, 1.0, 1.4, 0.9, 0.8, 1.0]
  verdict = judge(claim(), np.array(d) + 1, np.ones(8))
  assert verdict.comparison.p_greater == 9 / 256
  assert verdict.comparison.difference.low < 0
  assert verdict.outcome == 'undecided'


def test_four_seeds_decide_nothing():
  for direction in ('greater', 'less', 'equal'):
    assert outcome([0.1] * 4, direction, 0.05) == 'undecided'
    assert outcome([0.1] * 5, direction, 0.05) != 'undecided'


def test_margin_is_reached_at_its_end():
  # 0.6 - 0.5 is below 0.1 in floating point.
  a, b = [0.6] * 5, [0.5] * 5
  assert 0.6 - 0.5 < 0.1
  assert judge(claim(margin=0.1), a, b).outcome == 'reproduced'
  assert judge(claim(margin=0.1), b, a).outcome == 'contradicted'
  assert judge(claim(margin=0.1001), a, b).outcome == 'contradicted'
  assert judge(claim('equal', 0.1), a, b).outcome == 'reproduced'
  assert judge(claim('equal', 0.0999), a, b).outcome == 'contradicted'


def test_smaller_than_what_counts():
  d = [0.010, 0.012, 0.008, 0.011, 0.009]  # above 0 in all seeds
  assert outcome(d, margin=0.0) == 'reproduced'
  assert outcome(d, margin=0.01) == 'reproduced'  # the mean is 0.01
  assert outcome(d, margin=0.0105) == 'undecided'  # within the interval
  assert outcome(d, margin=0.02) == 'contradicted'  # above it
  assert outcome(d, 'equal', 0.02) == 'reproduced'
  assert outcome(d, 'equal', 0.010) == 'undecided'
  assert outcome(d, 'equal', 0.005) == 'contradicted'
  assert outcome(np.negative(d), 'equal', 0.005) == 'contradicted'


def test_no_difference_at_all():
  assert outcome([0.0] * 6) == 'undecided'
  assert outcome([0.0] * 6, margin=0.01) == 'contradicted'
  assert outcome([0.0] * 6, 'equal', 0.01) == 'reproduced'


def test_below_zero_but_not_surely():
  d = [-0.1, -0.2, -0.15, -0.3, 0.001]  # opposite p is 2/32
  assert outcome(d) == 'undecided'
  assert outcome(d, margin=0.01) == 'contradicted'  # the interval decides


def test_less_is_greater_of_the_swapped_arms():
  rng = np.random.default_rng(0)
  seen = set()
  for shift, margin in itertools.product((-1, 0, 0.5, 1), (0.0, 0.4)):
    a, b = rng.normal(shift, 0.5, 6), rng.normal(0, 0.5, 6)
    less = judge(claim('less', margin), a, b)
    greater = judge(claim('greater', margin), b, a)
    assert less.outcome == greater.outcome
    seen.add(less.outcome)
    assert less.comparison == paired(a, b)
  assert seen == {'reproduced', 'contradicted', 'undecided'}


def test_arms_that_stood_still_are_not_called_equal():
  asked = dataclasses.replace(claim('equal', 1.0), moved='gain', at_least=5.0)
  a, b = [1.0, 1.1, 0.9, 1.0, 1.0], [1.0] * 5
  verdict = judge(asked, a, b, [[5.0] * 5, [0.1] * 5])
  assert verdict.outcome == 'undecided'
  assert '"gain" is 5 and 0.1 on average; both arms need 5' in verdict.rule
  assert judge(asked, a, b, [[5.0] * 5, [6.0] * 5]).outcome == 'reproduced'
  # A missing number is no sign of having moved.
  gone = [[5.0] * 5, [math.nan] + [6.0] * 4]
  assert judge(asked, a, b, gone).outcome == 'undecided'
  with pytest.raises(ValueError, match='moved has 0 lists'):
    judge(asked, a, b)


@pytest.mark.parametrize('moved, least', [('gain', 0.0), ('', 1.0)])
def test_how_far_and_of_what_go_together(moved, least):
  with pytest.raises(ValueError, match='give a measure and a finite number'):
    dataclasses.replace(claim(), moved=moved, at_least=least)


def test_a_verdict_says_why():
  verdict = judge(claim(), [0.6] * 5, [0.5] * 5)
  assert verdict.rule == (
    'greater: difference 0.1 [0.1, 0.1] over 5 seeds; mean >= 0, interval '
    'above 0, one-sided p=0.03125 <= 0.05'
  )
  few = judge(claim(), [0.6] * 3, [0.5] * 3)
  assert few.rule == '3 seeds; fewer than 5 decide nothing'


@pytest.mark.parametrize(
  'direction, margin, message',
  [
    ('greatr', 0.0, 'Did you mean "greater"'),
    ('less', -0.1, 'margin=-0.1'),
    ('less', math.nan, 'margin=nan'),
    ('equal', 0.0, 'no two arms are exactly equal'),
  ],
)
def test_bad_claims(direction, margin, message):
  with pytest.raises(ValueError, match=message):
    claim(direction, margin)
