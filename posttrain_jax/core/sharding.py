"""Meshes and shardings: axes data, fsdp and tensor.

Rows of a batch are split over data and fsdp; parameters and their optimizer
state over fsdp and tensor, as `transformer.param_table` says. On one device
every function here does nothing.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.types import PyTree

AXES = ('data', 'fsdp', 'tensor')
ROWS = P(('data', 'fsdp'))


def make_mesh(config: Any) -> Mesh:
  """The mesh of `config.data`, `.fsdp`, `.tensor`; one of them may be -1.

  Raises:
    ValueError: the sizes do not make up the devices there are.
  """
  sizes = [int(config[axis]) for axis in AXES]
  count = jax.device_count()
  shown = ' x '.join(f'{axis}={size}' for axis, size in zip(AXES, sizes))
  if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
    raise ValueError(f'mesh {shown}: sizes are positive, at most one is -1')
  known = 1
  for size in sizes:
    known *= size if size > 0 else 1
  if -1 in sizes:
    if count % known:
      raise ValueError(
        f'mesh {shown}: {known} does not divide the {count} devices'
      )
    sizes[sizes.index(-1)] = count // known
    known = count
  if known > count:
    raise ValueError(
      f'mesh {shown} needs {known} devices; there are {count}. '
      'Use -1 for the axis that should take what there is.'
    )
  return jax.make_mesh(
    tuple(sizes),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=jax.devices()[:known],
  )


def fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
  """`spec` without the axes that do not divide their dimension."""
  kept = []
  for size, axes in zip(shape, tuple(spec) + (None,) * len(shape)):
    names = (axes,) if isinstance(axes, str) else tuple(axes or ())
    total = 1
    for name in names:
      total *= mesh.shape[name]
    kept.append(axes if total > 1 and size % total == 0 else None)
  return P(*kept)


def state_shardings(state: PyTree, specs: PyTree, mesh: Mesh) -> PyTree:
  """A sharding for every leaf of a (shape-only) train state.

  A leaf whose path ends in a parameter's path is split as that parameter:
  moments of the optimizer and the reference policy follow the parameters.
  """
  is_spec = lambda x: isinstance(x, P)
  by_path = {
    trees.path_name(path): spec
    for path, spec in jax.tree_util.tree_leaves_with_path(
      specs, is_leaf=is_spec
    )
  }

  def shard(path: str, leaf) -> NamedSharding:
    parts = path.split('/')
    for start in range(len(parts)):
      spec = by_path.get('/'.join(parts[start:]))
      if spec is not None and len(spec) <= len(leaf.shape):
        return NamedSharding(mesh, fit(spec, leaf.shape, mesh))
    return NamedSharding(mesh, P())

  return trees.map_by_path(shard, state)


def rows(tree: PyTree) -> PyTree:
  """Constrains every array's leading axis to be split over data and fsdp.

  Reads the mesh from the context (`jax.set_mesh`); without one, or where the
  devices have a run each (`sweep`), arrays stay as they are.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or 'data' not in mesh.shape:
    return tree
  size = mesh.shape['data'] * mesh.shape['fsdp']
  split = lambda x: (
    jax.lax.with_sharding_constraint(x, ROWS)
    if x.ndim > 0 and x.shape[0] % size == 0
    else x
  )
  return jax.tree.map(split, tree)
