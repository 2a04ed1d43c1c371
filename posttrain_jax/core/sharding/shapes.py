"""Arrays of a run that are not there, for programs that are only compiled."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from posttrain_jax.core.sharding.mesh import ROWS
from posttrain_jax.core.sharding.specs import fit
from posttrain_jax.core.types import PyTree

__all__ = ['row_shapes']


def row_shapes(tree: PyTree, mesh: Mesh) -> PyTree:
  """Shapes, dtypes and shardings of arrays as a run has them on its devices,
  split by rows; of arrays, or of their shapes."""

  def shape(x: Any) -> jax.ShapeDtypeStruct:
    place = NamedSharding(mesh, fit(ROWS, x.shape, mesh))
    kind = jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.ShapeDtypeStruct(x.shape, kind, sharding=place)

  return jax.tree.map(shape, tree)
