"""Meshes and shardings: axes data, fsdp, tensor, sequence and expert.

Rows of a batch are split over data, fsdp and expert, positions of a row over
sequence; parameters and their optimizer state over fsdp, sequence, expert and
tensor, as `transformer.param_table` says. Layers gather their weights where
they are used (`gathered`), and activations keep their rows (`constrain`). On
one device every function here does nothing, or what changes nothing.
"""

from posttrain_jax.core.sharding.inside import (
  GATHERED,
  apart,
  as_declared,
  at_hand,
  comes_apart,
  constrain,
  constrain_first,
  copies,
  divides,
  gathered,
  held,
  keep_all_but_gathered,
  laid_out,
  lies,
  over,
  placed,
  rows,
  size,
  split,
  together,
)
from posttrain_jax.core.sharding.mesh import (
  AXES,
  EXPERT_SHARDS,
  FIRST,
  LOGICAL,
  ROWS,
  SHARDS,
  axis_sizes,
  make_mesh,
  row_parts,
  shown_as,
)
from posttrain_jax.core.sharding.specs import (
  by_path,
  fit,
  names_of,
  state_shardings,
  unsplit,
)

__all__ = [
  'AXES', 'EXPERT_SHARDS', 'FIRST', 'GATHERED', 'LOGICAL', 'ROWS', 'SHARDS',
  'apart', 'as_declared', 'at_hand', 'axis_sizes', 'by_path', 'comes_apart',
  'constrain', 'constrain_first', 'copies', 'divides', 'fit', 'gathered',
  'held', 'keep_all_but_gathered', 'laid_out', 'lies', 'make_mesh', 'names_of',
  'over', 'placed', 'row_parts', 'rows', 'shown_as', 'size', 'split',
  'state_shardings', 'together', 'unsplit',
]  # fmt: skip
