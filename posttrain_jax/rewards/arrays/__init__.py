"""Rewards of answers from arrays: of verdicts and lengths, in-graph or not.

  rewards, metrics = reward(parts, facts, **hparams)

  parts    {name: [B, G]} what was found of each answer so far: the parts of a
           task's verifier, and the entries of `config.rewards` before this one;
           nan where one does not apply
  facts    `Facts` of the answers
  rewards  [B, G]; nan: it does not apply
  metrics  {name: scalar}

Nothing here reads text; rewards that do stand in `texts`. `as_texts` gives
one of these TRL's signature.

  audits.py   of features whose weights are looked into between stages
  common.py   facts, and what the functions share
  counted.py  of sets, calls and actions, by their parts
  lengths.py  of lengths, alone or beside a verdict
  parts.py    of what was found: which parts count, and for how much
"""

from posttrain_jax.core import shapes
from posttrain_jax.rewards.arrays.audits import audit as audit
from posttrain_jax.rewards.arrays.audits import audited
from posttrain_jax.rewards.arrays.common import Facts as Facts
from posttrain_jax.rewards.arrays.common import as_texts as as_texts
from posttrain_jax.rewards.arrays.common import namespace as namespace
from posttrain_jax.rewards.arrays.counted import (
  f_beta,
  hierarchical,
  matched_calls,
)
from posttrain_jax.rewards.arrays.lengths import (
  cosine_length,
  length,
  relative_length,
  soft_overlong,
)
from posttrain_jax.rewards.arrays.parts import (
  adversary,
  cosine_tolerance,
  gated,
  staged,
  ternary,
  tiered,
  weighted,
)

__all__ = [
  'adversary',
  'audited',
  'cosine_length',
  'cosine_tolerance',
  'f_beta',
  'gated',
  'hierarchical',
  'length',
  'matched_calls',
  'relative_length',
  'soft_overlong',
  'staged',
  'ternary',
  'tiered',
  'weighted',
]

# Functions that compare with other entries: the hyperparameters that name them.
# '' names the first verdict.
READS = {
  'adversary': ('of',),
  'audited': ('of',),
  'cosine_length': ('of',),
  'cosine_tolerance': ('of',),
  'f_beta': ('matched', 'said', 'wanted', 'by'),
  'gated': ('of', 'by'),
  'hierarchical': ('of',),
  'matched_calls': ('names', 'points', 'most', 'by'),
  'relative_length': ('of',),
  'staged': ('of',),
  'ternary': ('of', 'abstained'),
  'tiered': ('of',),
  'weighted': ('of',),
}
# That ask how much of the run is done (`Facts.done`), where this hyperparameter
# of theirs says so.
TIMED = {'staged': 'turn', 'weighted': 'last'}
# That compare the answers of one problem with each other.
GROUPED = ('relative_length',)

shapes.checked(
  globals(),
  __all__,
  parts={shapes.ANY: 'BG'},
  facts={'lengths': 'BG', 'finished': 'BG'},
)
