"""Attention over keys: plain, by kernels, over a shared prefix, over a mesh.

plain    the definition, in blocks of queries where asked; what CPUs run
seen     what a token may see, as masks or by structure; whole rows and groups
kernels  attention by structure: over a mesh, by the kernel that is chosen
splash   on TPU   cudnn  on GPU
"""

from posttrain_jax.models.attention.kernels import Sight, attend_ids, lacks
from posttrain_jax.models.attention.plain import (
  MASKED,
  Scores,
  attend,
  attend_causal,
  attend_causal_with_prefix,
  attend_with_prefix,
  scores_of,
  softmax,
)
from posttrain_jax.models.attention.seen import (
  Groups,
  Rows,
  Structure,
  by_structure,
  over_groups,
  over_rows,
)

__all__ = [
  'MASKED',
  'Groups',
  'Rows',
  'Scores',
  'Sight',
  'Structure',
  'attend',
  'attend_causal',
  'attend_causal_with_prefix',
  'attend_ids',
  'attend_with_prefix',
  'by_structure',
  'lacks',
  'over_groups',
  'over_rows',
  'scores_of',
  'softmax',
]
