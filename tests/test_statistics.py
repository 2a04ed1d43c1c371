"""Intervals, tests and the rule for claims: by hand and at its boundaries."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from posttrain_jax.evals.statistics import (
  Check,
  Claim,
  Entry,
  hierarchical_means,
  holm,
  interval,
  judge,
  judge_all,
  one_sided,
  paired,
  resampled,
  smallest_shown,
  t_interval,
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


# --- claims

D = np.array([0.10, 0.12, 0.08, 0.11, 0.09])


def test_four_verdicts_around_a_margin():
  assert outcome(D, margin=0.0) == 'reproduced'
  assert outcome(D, margin=0.05) == 'reproduced'
  # The mean of 0.1 is beyond 0.09, but not surely.
  assert outcome(D, margin=0.09) == 'undecided'
  assert outcome(D, margin=0.2) == 'not seen'
  assert outcome(-D, margin=0.2) == 'not seen'
  assert outcome(-D, margin=0.05) == 'contradicted'
  assert outcome(-D, margin=0.0) == 'contradicted'
  # Excluding what is claimed does not contradict it.
  assert outcome(D - 0.1, margin=0.05) == 'not seen'


def test_contradicted_asks_for_as_much_as_reproduced():
  rng = np.random.default_rng(1)
  seen = set()
  for _ in range(40):
    d, margin = rng.normal(rng.uniform(-2, 2), 1.0, 6), rng.uniform(0, 0.5)
    forward, back = outcome(d, margin=margin), outcome(-d, margin=margin)
    assert (forward == 'contradicted') == (back == 'reproduced')
    seen.add(forward)
  assert seen == {'reproduced', 'contradicted', 'not seen', 'undecided'}


def test_equal_is_shown_at_both_ends():
  assert outcome(D, 'equal', 0.2) == 'reproduced'
  assert outcome(D, 'equal', 0.11) == 'undecided'
  assert outcome(D, 'equal', 0.05) == 'contradicted'
  assert outcome(-D, 'equal', 0.05) == 'contradicted'
  assert outcome([0.0] * 6, 'equal', 0.01) == 'reproduced'


def test_nothing_is_below_five_seeds():
  for direction in ('greater', 'less', 'equal'):
    assert outcome([0.1] * 4, direction, 0.05) == 'undecided'
    assert outcome([0.1] * 6, direction, 0.05) != 'undecided'


def test_a_margin_that_is_just_met_is_not_passed():
  a, b = [0.6] * 5, [0.5] * 5  # 0.6 - 0.5 is below 0.1 in floating point
  assert judge(claim(margin=0.1), a, b).outcome == 'undecided'
  assert judge(claim(margin=0.09), a, b).outcome == 'reproduced'
  assert judge(claim(margin=0.1001), a, b).outcome == 'not seen'


def test_less_is_greater_of_the_swapped_arms():
  rng = np.random.default_rng(0)
  seen = set()
  for shift, margin in itertools.product((-2, 0, 0.5, 2), (0.0, 0.8)):
    a, b = rng.normal(shift, 0.5, 6), rng.normal(0, 0.5, 6)
    less = judge(claim('less', margin), a, b)
    greater = judge(claim('greater', margin), b, a)
    assert less.outcome == greater.outcome
    assert less.p_value == greater.p_value
    seen.add(less.outcome)
    assert less.comparison == paired(a, b)
    assert less.interval.mean == pytest.approx(np.mean(a - b))
    assert less.interval.low <= less.interval.mean <= less.interval.high
  assert {'reproduced', 'contradicted'} <= seen


def entry(differences, name='c', **keys):
  base = np.linspace(0.25, 0.5, len(differences))
  asked = dataclasses.replace(claim(), name=name, **keys)
  return Entry(asked, base + np.asarray(differences), base)


def test_holm_is_over_the_claims_that_were_written_before():
  # One alone is shown at 5%; among ten that say nothing it is not.
  d = [0.1, 0.25, 0.05, 0.3, 0.02]
  (alone,) = judge_all([entry(d)])
  assert alone.outcome == 'reproduced' and 0.005 < alone.p_value <= 0.05
  noise = [entry([0.1, -0.1, 0.05, -0.2, 0.1], f'n{i}') for i in range(9)]
  among = judge_all([entry(d), *noise])[0]
  assert among.outcome == 'undecided'
  assert among.p_value == pytest.approx(min(1.0, 10 * alone.p_value))
  assert 'adjusted for 10 claims' in among.rule
  # Later ones take nothing from it, and are adjusted for all themselves.
  later = [
    dataclasses.replace(x, claim=dataclasses.replace(x.claim, when='after'))
    for x in noise
  ]
  verdicts = judge_all([entry(d), *later])
  assert verdicts[0].p_value == alone.p_value
  sure = entry([1.0, 1.1, 0.9, 1.0, 1.1])
  after = judge_all([sure, entry(d, 'd', when='after')])[1]
  assert after.p_value == pytest.approx(alone.p_value)  # the larger of two
  two = judge_all([entry([0.0, 1, -1, 0, 1]), entry(d, 'd', when='after')])[1]
  assert two.p_value == pytest.approx(2 * alone.p_value)


def test_problems_have_to_agree_where_they_are_kept():
  # Seeds agree closely by chance; their few problems are far apart.
  rng = np.random.default_rng(3)
  problems = rng.choice([-1.0, 1.0], (5, 8))
  problems += D[:, None] - problems.mean(1, keepdims=True)
  whole = Entry(claim(), D + 1, np.ones(5))
  assert judge_all([whole])[0].outcome == 'reproduced'
  kept = dataclasses.replace(whole, outcomes=problems)
  found = judge_all([kept])[0]
  assert found.outcome == 'undecided' and found.p_value > 0.05
  assert found.p_value == resampled(problems, 0.0)


def test_a_check_that_fails_says_what_is_wrong():
  none = Check('the base knows some', 'accuracy', ('base',), least=5.0)
  top = Check('no ceiling', 'accuracy', most=95.0)
  asked = dataclasses.replace(claim(), checks=(none, top))
  fine = {('base', 'accuracy'): [10.0] * 5}
  fine |= {(arm, 'accuracy'): [50.0] * 5 for arm in ('rl', 'sft')}
  given = Entry(asked, D + 1, np.ones(5), fine)
  assert judge_all([given])[0].outcome == 'reproduced'
  low = {
    **fine,
    ('base', 'accuracy'): [1.0] * 5,
    ('sft', 'accuracy'): [99.0] * 5,
  }
  (found,) = judge_all([dataclasses.replace(given, checked=low)])
  assert found.outcome == 'not testable here'
  assert 'the base knows some: "accuracy" of "base" is 1 on' in found.rule
  assert 'no ceiling: "accuracy" of "sft" is 99' in found.rule
  (found,) = judge_all([dataclasses.replace(given, edges=['lr=1 is the edge'])])
  assert (found.outcome, found.rule) == (
    'not testable here',
    'lr=1 is the edge',
  )
  with pytest.raises(ValueError, match='no values of "accuracy" of arm "base"'):
    judge_all([dataclasses.replace(given, checked={})])
  with pytest.raises(ValueError, match='give `least` or `most`'):
    Check('nothing', 'accuracy')


def test_arms_that_stood_still_are_not_called_equal():
  asked = dataclasses.replace(claim('equal', 1.0), moved='gain', at_least=5.0)
  a, b = [1.0, 1.1, 0.9, 1.0, 1.0], [1.0] * 5
  verdict = judge(asked, a, b, [[5.0] * 5, [0.1] * 5])
  assert verdict.outcome == 'not testable here'
  assert '"gain" of "sft" is 0.1 on average, and has to be' in verdict.rule
  assert judge(asked, a, b, [[5.0] * 5, [6.0] * 5]).outcome == 'reproduced'
  # A missing number is no sign of having moved.
  gone = [[5.0] * 5, [math.nan] + [6.0] * 4]
  assert judge(asked, a, b, gone).outcome == 'not testable here'
  with pytest.raises(ValueError, match='moved has 0 lists'):
    judge(asked, a, b)


@pytest.mark.parametrize('moved, least', [('gain', 0.0), ('', 1.0)])
def test_how_far_and_of_what_go_together(moved, least):
  with pytest.raises(ValueError, match='give a measure and a finite number'):
    dataclasses.replace(claim(), moved=moved, at_least=least)


def test_a_verdict_says_why():
  verdict = judge(claim(), [0.6] * 5, [0.5] * 5)
  assert verdict.rule == (
    'greater: difference 0.1 [0.1, 0.1] over 5 seeds; beyond the margin of 0 '
    '(p=0.03125)'
  )
  few = judge(claim(), [0.6] * 3, [0.5] * 3)
  assert few.rule == '3 seeds; fewer than 5 decide nothing'
  # The pilot's spread, where there is one, says what seeds can show.
  by_pilot = dataclasses.replace(claim(), spread=0.2)
  assert judge(by_pilot, D + 1, np.ones(5)).shown == pytest.approx(
    smallest_shown(0.2, 5, 0.05)
  )


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
