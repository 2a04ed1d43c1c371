"""What a paper claims, and the fixed rule that judges it.

  verdict = judge(claim, {0: 0.61, 1: 0.58, ...}, {0: 0.40, 1: 0.43, ...})

The rule, fixed before any run. d is, seed by seed, the arm's value minus the
other's, with its sign turned so that the claim says d > 0; the interval is the
95% bootstrap interval of its mean; p is that of the exact one-sided sign-flip
test (Monte Carlo above 14 seeds). Ends count as inside.

  greater, less
    reproduced    mean d >= margin, interval above 0, p <= 0.05
    contradicted  else, with margin > 0: the interval lies below margin (any
                  effect is smaller than what counts);
                  with margin = 0: the interval lies below 0 and p of the
                  opposite direction <= 0.05
  equal
    reproduced    the interval lies within [-margin, margin]
    contradicted  the interval lies outside of it
  undecided       all other cases, whenever there are fewer than 5 seeds, and
                  where an arm did not move (`Claim.moved`)

With 5 seeds the smallest one-sided p is 1/32: a claim of a direction is then
reproduced only if all seeds agree. A bootstrap interval of 5 seeds is too
narrow (it covers a mean in about four of five cases), which is why the test has
to agree, and why more seeds are needed for "equal". Where a study judges
several claims, `holm` adjusts their p-values.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals.statistics.comparisons import (
  Comparison,
  Interval,
  Values,
  paired,
)

ALPHA = 0.05
MIN_SEEDS = 5
DIRECTIONS = ('greater', 'less', 'equal')


@dataclasses.dataclass(frozen=True)
class Claim:
  """What a paper says, as something that a study can find to be wrong.

  name       short, unique in its study
  paper      id in the catalogue of papers
  statement  the claim in a sentence
  measure    name of the number that is compared
  arm        the arm that the claim is about
  against    the arm that it is compared with
  direction  'greater', 'less' or 'equal': of arm's measure to against's
  margin     smallest difference that counts, in the unit of the measure
  moved      a measure of how far an arm came, whose mean has to be `at_least`
             in both arms: two arms that learned nothing are equal too, and
             that says nothing about a paper
  at_least   in the unit of `moved`

  Raises:
    ValueError: unknown direction, a negative margin, 'equal' without one;
      `moved` without a finite `at_least` above 0, or this without it.
  """

  name: str
  paper: str
  statement: str
  measure: str
  arm: str
  against: str
  direction: str
  margin: float = 0.0
  moved: str = ''
  at_least: float = 0.0

  def __post_init__(self):
    if self.direction not in DIRECTIONS:
      raise ValueError(
        f'claim "{self.name}": no direction "{self.direction}".'
        + nearest(self.direction, DIRECTIONS)
      )
    if not (math.isfinite(self.margin) and self.margin >= 0):
      raise ValueError(
        f'claim "{self.name}": margin={self.margin} is no finite number >= 0'
      )
    if self.direction == 'equal' and self.margin == 0:
      raise ValueError(
        f'claim "{self.name}": margin=0, but no two arms are exactly equal; '
        'give the largest difference that does not count'
      )
    asked = math.isfinite(self.at_least) and self.at_least > 0
    if bool(self.moved) != asked:
      raise ValueError(
        f'claim "{self.name}": moved="{self.moved}", at_least={self.at_least}: '
        'give a measure and a finite number above 0, or neither'
      )


@dataclasses.dataclass(frozen=True)
class Verdict:
  """'reproduced', 'contradicted' or 'undecided', from what, and why."""

  outcome: str
  comparison: Comparison
  rule: str


def judge(
  claim: Claim, a: Values, b: Values, moved: Sequence[Sequence[float]] = ()
) -> Verdict:
  """The verdict on a claim by the rule at the top of this file.

  Args:
    claim: what is claimed.
    a: the measure of `claim.arm`, as in `paired`.
    b: the measure of `claim.against`, of the same seeds.
    moved: the measure `claim.moved` of both arms, one number a seed; needed
      where the claim names it.

  Returns:
    The verdict; its comparison is a against b, whatever the direction.

  Raises:
    ValueError: as `paired`; no two lists in `moved` where the claim asks.
  """
  comparison = paired(a, b)
  found = comparison.difference
  if comparison.count < MIN_SEEDS:
    rule = f'{comparison.count} seeds; fewer than {MIN_SEEDS} decide nothing'
    return Verdict('undecided', comparison, rule)
  if claim.moved:
    if len(moved) != 2:
      raise ValueError(
        f'claim "{claim.name}" asks how far both arms moved '
        f'("{claim.moved}"); moved has {len(moved)} lists, not 2'
      )
    came = [float(np.mean(list(values))) for values in moved]
    if not all(mean >= claim.at_least for mean in came):
      rule = (
        f'"{claim.moved}" is {came[0]:.4g} and {came[1]:.4g} on average; both '
        f'arms need {claim.at_least:g} for the comparison to say anything'
      )
      return Verdict('undecided', comparison, rule)
  # The margin is a decimal and so are the values: 0.6 - 0.5 has to reach 0.1.
  slack = 1e-9 * claim.margin
  if claim.direction == 'equal':
    outcome, rule = _judge_equal(found, claim.margin, slack)
  else:
    if claim.direction == 'less':
      found = Interval(-found.mean, -found.high, -found.low, found.count)
      p, p_opposite = comparison.p_less, comparison.p_greater
    else:
      p, p_opposite = comparison.p_greater, comparison.p_less
    outcome, rule = _judge_direction(found, p, p_opposite, claim.margin, slack)
  seen = f'{claim.direction}: difference {found} over {found.count} seeds'
  return Verdict(outcome, comparison, f'{seen}; {rule}')


def _judge_direction(
  found: Interval, p: float, p_opposite: float, margin: float, slack: float
) -> tuple[str, str]:
  if found.mean >= margin - slack and found.low > 0 and p <= ALPHA:
    return 'reproduced', (
      f'mean >= {margin:g}, interval above 0, one-sided p={p:.4g} <= {ALPHA}'
    )
  if margin > 0 and found.high < margin - slack:
    return (
      'contradicted',
      f'interval below {margin:g}, the smallest that counts',
    )
  if margin == 0 and found.high < 0 and p_opposite <= ALPHA:
    return 'contradicted', (
      f'interval below 0, opposite one-sided p={p_opposite:.4g} <= {ALPHA}'
    )
  return 'undecided', (
    f'mean >= {margin:g}, interval above 0 and one-sided p <= {ALPHA} do not '
    f'all hold (p={p:.4g}), and the opposite is not shown'
  )


def _judge_equal(
  found: Interval, margin: float, slack: float
) -> tuple[str, str]:
  if max(-found.low, found.high) <= margin + slack:
    return 'reproduced', f'interval within +-{margin:g}'
  if max(found.low, -found.high) > margin + slack:
    return 'contradicted', f'interval outside +-{margin:g}'
  return 'undecided', f'interval partly within +-{margin:g}'
