"""How sure a comparison of two arms is, and the fixed rule that judges a claim.

  comparisons.py  interval, paired, unpaired, holm: one number a seed in
  claims.py       Claim, judge, and the rule in words

The values are one number a seed (an accuracy, a KL). Two arms that share a seed
share data, order and start, so they are compared seed by seed (`paired`);
`unpaired` is for arms that do not.
"""

from posttrain_jax.evals.statistics.claims import Claim, Verdict, judge
from posttrain_jax.evals.statistics.comparisons import (
  Comparison,
  Interval,
  holm,
  interval,
  paired,
  unpaired,
)

__all__ = [
  'Claim',
  'Comparison',
  'Interval',
  'Verdict',
  'holm',
  'interval',
  'judge',
  'paired',
  'unpaired',
]
