"""The rule for claims: by hand, and at its boundaries."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from posttrain_jax.evals.statistics import (
  Check,
  Claim,
  Entry,
  judge,
  judge_all,
  paired,
  resampled,
  smallest_shown,
)


def claim(direction='greater', margin=0.0):
  return Claim(
    'c', 'p', 'SFT forgets', 'accuracy', 'rl', 'sft', direction, margin
  )


def outcome(differences, direction='greater', margin=0.0):
  """The verdict on an arm that is `differences` above another, by seed."""
  base = np.linspace(0.25, 0.5, len(differences))
  return judge(claim(direction, margin), base + differences, base).outcome


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
