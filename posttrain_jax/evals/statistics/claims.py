"""What a paper claims, and the fixed rule that judges it.

  verdict = judge(claim, {0: 0.61, 1: 0.58, ...}, {0: 0.40, 1: 0.43, ...})
  verdicts = judge_all(claims, {arm: {measure: one number a seed}})

The rule, fixed before any run. d is, seed by seed, the arm's value minus the
other's, with its sign turned so that the claim says d > 0; m is the claim's
margin. A bound is passed where the paired t-test shows it at 5% (and, where
outcomes are kept by problem, the bootstrap over seeds and problems too), after
Holm's adjustment over all claims of the study that were written before the run,
for each of the two questions.

  greater, less
    reproduced    d > m is shown
    contradicted  d < -m is shown by the same test
    not seen      else, the upper end of the 95% t-interval lies below m: what
                  the paper claims is excluded, its opposite is not shown
  equal
    reproduced    -m < d < m is shown (both ends at 5%)
    contradicted  d > m or d < -m is shown (each at 2.5%)
  undecided       all other cases, and fewer than 5 seeds
  not testable here   a check of the claim fails: the setting can show neither
                  answer (an arm that learned nothing, a base without the
                  ability, a ceiling, a tuned value at the edge of its grid)

A claim that was added after the run (`Claim.when`) is adjusted for all, and
counts for nothing: pages show it in a table of its own.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals.statistics import tests_of_means
from posttrain_jax.evals.statistics.comparisons import (
  Comparison,
  Interval,
  Values,
  holm,
  paired,
)

ALPHA = 0.05
MIN_SEEDS = 5
DIRECTIONS = ('greater', 'less', 'equal')
WHEN = ('before', 'after')
OUTCOMES = (
  'reproduced',
  'contradicted',
  'not seen',
  'undecided',
  'not testable here',
)


@dataclasses.dataclass(frozen=True)
class Check:
  """What has to hold for a claim to be testable at all: a bound on a mean.

  what     in words: 'the base has some ability', 'no ceiling'
  measure  whose mean over seeds is looked at
  arms     of which arms; () = both of the claim
  least, most  it lies from `least` to `most`
  """

  what: str
  measure: str
  arms: tuple[str, ...] = ()
  least: float = -math.inf
  most: float = math.inf

  def __post_init__(self):
    if math.isinf(self.least) and math.isinf(self.most):
      raise ValueError(f'check "{self.what}": give `least` or `most`')
    if not self.least <= self.most:
      raise ValueError(
        f'check "{self.what}": least={self.least} is not up to most={self.most}'
      )


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
  checks     further ones
  spread     standard deviation over seeds of the difference, as a pilot found
             it: what the seeds can show is told from it; 0 = no pilot
  when       'before' the run, or 'after' it
  tuned      what was tuned that the claim rests on: keys of its arms' grids
             that must not end at their edge; () = all of them

  Raises:
    ValueError: unknown direction or time, a negative margin or spread, 'equal'
      without a margin; `moved` without a finite `at_least` above 0, or this
      without it.
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
  checks: tuple[Check, ...] = ()
  spread: float = 0.0
  when: str = 'before'
  tuned: tuple[str, ...] = ()

  def __post_init__(self):
    for what, value, known in (
      ('direction', self.direction, DIRECTIONS),
      ('time', self.when, WHEN),
    ):
      if value not in known:
        raise ValueError(
          f'claim "{self.name}": no {what} "{value}".' + nearest(value, known)
        )
    for key in ('margin', 'spread'):
      value = getattr(self, key)
      if not (math.isfinite(value) and value >= 0):
        raise ValueError(
          f'claim "{self.name}": {key}={value} is no finite number >= 0'
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

  @property
  def all_checks(self) -> tuple[Check, ...]:
    """`checks`, and that of `moved`."""
    if not self.moved:
      return self.checks
    came = Check('both arms moved', self.moved, least=self.at_least)
    return (came, *self.checks)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One of OUTCOMES, from what, and why.

  comparison  a against b, whatever the direction
  interval    95% t-interval of their difference
  p_value     that the outcome 'reproduced' rests on, adjusted
  p_opposite  that 'contradicted' rests on, adjusted
  shown       the smallest difference beyond the margin that these seeds would
              show in four of five studies, from the spread of the pilot, or
              without one from that which was seen
  """

  outcome: str
  comparison: Comparison
  interval: Interval
  p_value: float
  p_opposite: float
  shown: float
  rule: str


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a claim is judged by.

  a, b      the measure of `arm` and `against`, as in `paired`
  checked   {(arm, measure): values} that its checks ask for
  edges     sentences, one for each tuned value at the edge of its grid
  outcomes  d by seed and problem [S, N], where they are kept
  """

  claim: Claim
  a: Values
  b: Values
  checked: Mapping[tuple[str, str], Sequence[float]] = dataclasses.field(
    default_factory=dict
  )
  edges: Sequence[str] = ()
  outcomes: np.ndarray | None = None


def judge(
  claim: Claim, a: Values, b: Values, moved: Sequence[Sequence[float]] = ()
) -> Verdict:
  """The verdict on one claim by the rule at the top, as a study's only one.

  Args:
    claim: what is claimed.
    a: the measure of `claim.arm`, as in `paired`.
    b: the measure of `claim.against`, of the same seeds.
    moved: the measure `claim.moved` of both arms, one number a seed; needed
      where the claim names it.

  Raises:
    ValueError: as `paired`; no two lists in `moved` where the claim asks.
  """
  checked = {}
  if claim.moved:
    if len(moved) != 2:
      raise ValueError(
        f'claim "{claim.name}" asks how far both arms moved '
        f'("{claim.moved}"); moved has {len(moved)} lists, not 2'
      )
    checked = {
      (arm, claim.moved): values
      for arm, values in zip((claim.arm, claim.against), moved)
    }
  return judge_all([Entry(claim, a, b, checked)])[0]


def judge_all(entries: Sequence[Entry]) -> list[Verdict]:
  """The verdicts on a study's claims, by the rule at the top of this file.

  Raises:
    ValueError: as `paired`; a check whose values are not in `checked`.
  """
  found = [paired(x.a, x.b) for x in entries]
  both = [_p_values(x, y) for x, y in zip(entries, found)]
  first = [i for i, x in enumerate(entries) if x.claim.when == 'before']
  adjusted = np.ones((len(entries), 2))
  for side in (0, 1):
    p = [pair[side] for pair in both]
    # Claims added later are adjusted for all that was asked in the end.
    adjusted[:, side] = holm(p)
    adjusted[first, side] = holm([p[i] for i in first])
  counts = [
    len(first) if x.claim.when == 'before' else len(entries) for x in entries
  ]
  return [
    _verdict(entry, comparison, *map(float, p), count)
    for entry, comparison, p, count in zip(entries, found, adjusted, counts)
  ]


def _differences(entry: Entry) -> tuple[np.ndarray, np.ndarray | None]:
  """d by seed, and by seed and problem, turned so that the claim says d > 0."""
  if isinstance(entry.a, Mapping) and isinstance(entry.b, Mapping):
    d = np.array([entry.a[s] - entry.b[s] for s in sorted(entry.a)], float)
  else:
    d = np.asarray(list(entry.a), float) - np.asarray(list(entry.b), float)
  sign = -1.0 if entry.claim.direction == 'less' else 1.0
  kept = entry.outcomes
  return sign * d, None if kept is None else sign * np.asarray(kept, float)


def _p_values(entry: Entry, comparison: Comparison) -> tuple[float, float]:
  """(of 'reproduced', of 'contradicted'), not adjusted."""
  if comparison.count < 2:
    return 1.0, 1.0
  d, kept = _differences(entry)
  margin = entry.claim.margin
  # Drawn once: every bound is held against the same means.
  means = None if kept is None else tests_of_means.hierarchical_means(kept)

  def above(sign: float, bound: float) -> float:
    p = tests_of_means.one_sided(sign * d, bound)
    if means is None:
      return p
    return max(p, tests_of_means.share_at_most(sign * means, bound))

  if entry.claim.direction == 'equal':
    inside = max(above(1.0, -margin), above(-1.0, -margin))
    outside = min(above(1.0, margin), above(-1.0, margin))
    return inside, min(1.0, 2.0 * outside)
  return above(1.0, margin), above(-1.0, margin)


def _failed(entry: Entry) -> str:
  """Why the claim is not testable, or ''."""
  claim, why = entry.claim, []
  for check in claim.all_checks:
    for arm in check.arms or (claim.arm, claim.against):
      if (arm, check.measure) not in entry.checked:
        raise ValueError(
          f'claim "{claim.name}", check "{check.what}": no values of '
          f'"{check.measure}" of arm "{arm}"'
        )
      mean = float(np.mean(list(entry.checked[arm, check.measure])))
      if not check.least <= mean <= check.most:  # nan is neither
        bounds = [
          f'{word} {bound:g}'
          for word, bound in (
            ('at least', check.least),
            ('at most', check.most),
          )
          if math.isfinite(bound)
        ]
        why.append(
          f'{check.what}: "{check.measure}" of "{arm}" is {mean:.4g} on '
          f'average, and has to be {" and ".join(bounds)}'
        )
  return '; '.join([*why, *entry.edges])


def _verdict(
  entry: Entry,
  comparison: Comparison,
  p: float,
  opposite: float,
  count: int,
) -> Verdict:
  claim = entry.claim
  d, _ = _differences(entry)
  turned = tests_of_means.t_interval(d)
  spread = claim.spread
  if not spread and d.size > 1:
    spread = float(np.std(d, ddof=1))
  shown = tests_of_means.smallest_shown(spread, d.size, ALPHA / max(1, count))
  interval = turned
  if claim.direction == 'less':
    interval = Interval(-turned.mean, -turned.high, -turned.low, turned.count)
  made = lambda outcome, rule: Verdict(
    outcome, comparison, interval, p, opposite, shown, rule
  )
  if d.size < MIN_SEEDS:
    rule = f'{d.size} seeds; fewer than {MIN_SEEDS} decide nothing'
    return made('undecided', rule)
  if why := _failed(entry):
    return made('not testable here', why)
  outcome, rule = _judged(claim, turned, p, opposite)
  many = f', adjusted for {count} claims' if count > 1 else ''
  return made(
    outcome,
    f'{claim.direction}: difference {interval} over {d.size} seeds; {rule}'
    f'{many}',
  )


def _judged(
  claim: Claim, turned: Interval, p: float, opposite: float
) -> tuple[str, str]:
  m = f'{claim.margin:g}'
  if claim.direction == 'equal':
    if p <= ALPHA:
      return 'reproduced', f'within +-{m} is shown (p={p:.4g})'
    if opposite <= ALPHA:
      return 'contradicted', f'outside +-{m} is shown (p={opposite:.4g})'
    return 'undecided', (
      f'neither within +-{m} (p={p:.4g}) nor outside of it (p={opposite:.4g}) '
      'is shown'
    )
  if p <= ALPHA:
    return 'reproduced', f'beyond the margin of {m} (p={p:.4g})'
  if opposite <= ALPHA:
    return (
      'contradicted',
      f'beyond {m} in the other direction (p={opposite:.4g})',
    )
  # Decimals: an interval that ends at the margin does not exclude it.
  if turned.high < claim.margin - 1e-9 * claim.margin:
    return 'not seen', (
      f'an effect of {m} is excluded, the opposite is not shown '
      f'(p={opposite:.4g})'
    )
  return 'undecided', (
    f'an effect beyond {m} is neither shown (p={p:.4g}) nor excluded'
  )
