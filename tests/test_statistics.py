"""Intervals and tests of means: by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from posttrain_jax.evals.statistics import (
  hierarchical_means,
  holm,
  interval,
  one_sided,
  paired,
  resampled,
  smallest_shown,
  t_interval,
  unpaired,
)

ROW = [0.1, 0.2, 0.3, 0.4, 0.6]


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


# --- tests of means


def test_one_sided_is_the_t_test_of_scipy():
  d = np.array([0.1, 0.3, -0.05, 0.2, 0.15])
  for bound in (-0.2, 0.0, 0.1, 0.4):
    expected = stats.ttest_1samp(d, bound, alternative='greater').pvalue
    assert one_sided(d, bound) == pytest.approx(expected, rel=1e-12)
  found = t_interval(d)
  low, high = stats.ttest_1samp(d, 0.0).confidence_interval(0.95)
  assert (found.low, found.high) == pytest.approx((low, high))
  # By hand: mean 0.14, deviation 0.12942, so t = 2.4189 with 4 degrees.
  assert one_sided(d, 0.0) == pytest.approx(stats.t.sf(2.41887, 4), rel=1e-4)


def test_no_spread_is_no_proof_beyond_the_signs():
  assert one_sided([0.2] * 5, 0.1) == 1 / 32
  assert one_sided([0.6 - 0.5] * 5, 0.1) == 1.0  # 0.09999999999999998
  assert one_sided([0.1] * 5, 0.2) == 1.0
  assert math.isnan(t_interval([1.0]).low)
  with pytest.raises(ValueError, match='1 seeds have no spread'):
    one_sided([1.0], 0.0)


def test_seeds_and_problems_are_drawn_anew():
  rng = np.random.default_rng(0)
  apart = rng.normal(0.0, 0.3, (6, 1)) + rng.normal(0.0, 1.0, (6, 50))
  means = hierarchical_means(apart, 20_000)
  # Variance of a resampled mean: of the seeds' means over S, and of a seed's
  # problems over S * N (Davison & Hinkley, section 3.8).
  between = np.var(apart.mean(1)) / 6
  within = np.mean(np.var(apart, axis=1)) / (6 * 50)
  assert np.std(means) == pytest.approx(math.sqrt(between + within), rel=0.03)
  assert np.mean(means) == pytest.approx(apart.mean(), abs=0.01)
  assert resampled(apart + 5.0, 0.0, 999) == 1 / 1000
  assert resampled(apart - 5.0, 0.0, 999) == 1.0
  with pytest.raises(ValueError, match='seeds and problems'):
    hierarchical_means(apart[0])


def test_what_seeds_can_show_is_shown_four_times_in_five():
  far = smallest_shown(2.0, 8, 0.05)
  rng = np.random.default_rng(0)
  d = rng.normal(far, 2.0, (4000, 8))
  t = d.mean(1) / (d.std(1, ddof=1) / math.sqrt(8))
  share = np.mean(stats.t.sf(t, 7) <= 0.05)
  assert share == pytest.approx(0.8, abs=0.02)
  assert smallest_shown(2.0, 8, 0.05 / 8) > far  # Holm's first step
  assert smallest_shown(2.0, 16, 0.05) < far
  assert smallest_shown(4.0, 8, 0.05) == pytest.approx(2 * far)
  assert smallest_shown(1.0, 1, 0.05) == math.inf
  assert smallest_shown(0.0, 5, 0.05) == 0.0
  with pytest.raises(ValueError, match='spread=-1'):
    smallest_shown(-1.0, 5, 0.05)
