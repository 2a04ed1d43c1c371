"""How sure a comparison of two arms is, and the fixed rule that judges a claim.

  comparisons.py     interval, paired, unpaired, holm: one number a seed in
  tests_of_means.py  paired t, seeds and problems drawn anew, power
  claims.py          Claim, Check, judge, judge_all, and the rule in words

The values are one number a seed (an accuracy, a KL). Two arms that share a seed
share data, order and start, so they are compared seed by seed (`paired`);
`unpaired` is for arms that do not.
"""

from posttrain_jax.evals.statistics.claims import (
  OUTCOMES,
  Check,
  Claim,
  Entry,
  Verdict,
  judge,
  judge_all,
)
from posttrain_jax.evals.statistics.comparisons import (
  Comparison,
  Interval,
  holm,
  interval,
  paired,
  unpaired,
)
from posttrain_jax.evals.statistics.tests_of_means import (
  hierarchical_means,
  one_sided,
  resampled,
  smallest_shown,
  t_interval,
)

__all__ = [
  'OUTCOMES',
  'Check',
  'Claim',
  'Comparison',
  'Entry',
  'Interval',
  'Verdict',
  'hierarchical_means',
  'holm',
  'interval',
  'judge',
  'judge_all',
  'one_sided',
  'paired',
  'resampled',
  'smallest_shown',
  't_interval',
  'unpaired',
]
