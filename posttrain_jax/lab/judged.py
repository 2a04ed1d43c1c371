"""The claims of a study, judged from what its arms measured."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.evals import statistics
from posttrain_jax.evals.statistics import Check, Claim, Entry

__all__ = ['claim_of', 'edges', 'judged', 'outcomes', 'packed']

# What an arm of results.json has: a measure's numbers by seed, what was tuned,
# and where they are kept a measure's numbers by seed and problem.
Arms = Mapping[str, Mapping[str, Any]]


def judged(claims: Sequence[Claim], arms: Arms) -> list[dict[str, Any]]:
  """The claims with their verdicts, as results.json keeps them.

  arms  as in results.json

  Raises:
    ValueError: a claim's arm or measure is not there; two claims have one name.
  """
  names = [claim.name for claim in claims]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'two claims are called "{name}"')
  entries = [_entry(claim, arms) for claim in claims]
  whole = [entry for entry in entries if entry is not None]
  verdicts = iter(statistics.judge_all(whole))
  found = []
  for claim, entry in zip(claims, entries):
    out = dataclasses.asdict(claim)
    out['checks'] = [_finite(check) for check in out['checks']]
    out['tuned'] = list(out['tuned'])
    if entry is None:
      gap = dict.fromkeys(
        ('difference', 'low', 'high', 'p_value', 'p_opposite', 'shown')
      )
      rule = 'a seed has no number for this measure'
      found.append({**out, **gap, 'outcome': 'undecided', 'rule': rule})
      continue
    verdict = next(verdicts)
    found.append(
      out
      | {
        'outcome': verdict.outcome,
        'difference': verdict.interval.mean,
        'low': verdict.interval.low,
        'high': verdict.interval.high,
        'p_value': verdict.p_value,
        'p_opposite': verdict.p_opposite,
        'shown': verdict.shown if math.isfinite(verdict.shown) else None,
        'rule': verdict.rule,
      }
    )
  return found


def _finite(check: Mapping[str, Any]) -> dict[str, Any]:
  """JSON has no infinity."""
  bounds = {
    key: check[key] if math.isfinite(check[key]) else None
    for key in ('least', 'most')
  }
  return {**check, 'arms': list(check['arms']), **bounds}


def claim_of(kept: Mapping[str, Any]) -> Claim:
  """The claim that an entry of results.json is a verdict on."""
  fields = {x.name for x in dataclasses.fields(Claim)}
  given = {key: value for key, value in kept.items() if key in fields}
  given['tuned'] = tuple(given.get('tuned', ()))
  given['checks'] = tuple(
    Check(
      **{
        key: tuple(value) if key == 'arms' else value
        for key, value in check.items()
        if value is not None
      }
    )
    for check in kept.get('checks', ())
  )
  return Claim(**given)


def _entry(claim: Claim, arms: Arms) -> Entry | None:
  """What a claim is judged by; None where a seed has no number."""

  def arm(key: str) -> Mapping[str, Any]:
    if key not in arms:
      raise ValueError(
        f'claim "{claim.name}": no arm "{key}".' + nearest(key, arms)
      )
    return arms[key]

  def values(key: str, measure: str) -> np.ndarray:
    own = arm(key)['values']
    if measure not in own:
      raise ValueError(
        f'claim "{claim.name}": arm "{key}" has no measure "{measure}".'
        + nearest(measure, own)
      )
    return np.array(
      [math.nan if x is None else x for x in own[measure]], np.float64
    )

  pair = claim.arm, claim.against
  a, b = (values(key, claim.measure) for key in pair)
  checked = {
    (key, check.measure): values(key, check.measure)
    for check in claim.all_checks
    for key in check.arms or pair
  }
  if not np.all(np.isfinite([*a, *b])):
    return None
  kept = [outcomes(arm(key), claim.measure) for key in pair]
  by_problem = None
  if all(x is not None for x in kept):
    by_problem = kept[0] - kept[1]
  return Entry(claim, a, b, checked, edges(claim, arms), by_problem)


def edges(claim: Claim, arms: Arms) -> list[str]:
  """A sentence for each tuned value of the claim's arms that is the first or
  the last of its grid: a better one may lie outside."""
  known = [
    what
    for key in (claim.arm, claim.against)
    for what in arms[key].get('tuned') or {}
  ]
  for what in claim.tuned:
    if what not in known:
      raise ValueError(
        f'claim "{claim.name}": its arms tune no "{what}".'
        + nearest(what, known)
      )
  found = []
  for key in (claim.arm, claim.against):
    own = arms[key].get('tuned') or {}
    for what in claim.tuned or own:
      if what not in own:
        continue  # the other arm's
      tuned = own[what]
      chosen, grid = tuned['chosen'], tuned['grid']
      if isinstance(chosen, Mapping):  # one for each measure
        chosen = chosen.get(claim.measure)
      numbers = [
        x for x in grid
        if isinstance(x, (int, float)) and not isinstance(x, bool)
      ]  # fmt: skip
      if len(numbers) < 2 or len(numbers) < len(grid) or chosen is None:
        continue
      if isinstance(chosen, str):  # it would never be seen at an edge
        raise ValueError(
          f'claim "{claim.name}": arm "{key}" took {what}="{chosen}", a text, '
          'of a grid of numbers; give the number, or one for each measure'
        )
      if chosen in (min(numbers), max(numbers)):
        found.append(
          f'{what}={chosen:g} of arm "{key}" is the edge of its grid '
          f'{min(numbers):g}..{max(numbers):g}'
        )
  return found


def packed(values: Any) -> list:
  """[S, N] numbers by seed and problem, as results.json keeps them: a text of
  0 and 1 a seed where all are, else lists."""
  array = np.asarray(values, np.float64)
  if array.ndim != 2:
    raise ValueError(
      f'outcomes are of seeds and problems [S, N], not {array.shape}'
    )
  if np.isin(array, (0.0, 1.0)).all():
    return [''.join('1' if x else '0' for x in row) for row in array]
  return array.tolist()


def outcomes(arm: Mapping[str, Any], measure: str) -> np.ndarray | None:
  """[S, N] of a measure by seed and problem, in the unit of the measure, where
  an arm of results.json has them."""
  kept = (arm.get('outcomes') or {}).get(measure)
  if kept is None:
    return None
  rows = [
    [float(x) for x in row] if isinstance(row, str) else row
    for row in kept['values']
  ]
  return kept['scale'] * np.array(rows, np.float64)
