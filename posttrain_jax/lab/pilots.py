"""What a pilot prints: numbers seed by seed, and how claims' gaps spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.evals.statistics import Claim

__all__ = ['gaps', 'row']


def row(values: Any) -> str:
  """'  12.3   45.6' of the numbers of seeds, [S] or one."""
  return ' '.join(f'{x:6.1f}' for x in np.atleast_1d(values))


def gaps(
  claims: Sequence[Claim], found: Mapping[str, Mapping[str, Any]]
) -> list[str]:
  """A line for each claim: how far its arm is above the one that it is compared
  with, seed by seed, their mean and their spread, which is what the claim's
  `spread` takes (a sample's standard deviation).

  found  {arm: {measure: [S]}}, in the units of the study; claims of which
         something is not there are left out
  """
  width = max((len(claim.name) for claim in claims), default=0)
  lines = []
  for claim in claims:
    sides = [
      found.get(arm, {}).get(claim.measure)
      for arm in (claim.arm, claim.against)
    ]
    if any(side is None for side in sides):
      continue
    above, below = (np.asarray(side, np.float64) for side in sides)
    gap = above - below
    spread = f'{np.std(gap, ddof=1):.3g}' if gap.size > 1 else 'one seed'
    lines.append(
      f'{claim.name:{width}} {np.mean(gap):8.3g} | spread {spread:>8} |'
      f'{row(gap)}'
    )
  return lines
