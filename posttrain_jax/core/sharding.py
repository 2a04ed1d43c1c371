"""Meshes and shardings: axes data, fsdp and tensor.

Rows of a batch are split over data and fsdp; parameters and their optimizer
state over fsdp and tensor, as `transformer.param_table` says. On one device
every function here does nothing.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.types import PyTree

AXES = ('data', 'fsdp', 'tensor')
ROWS = P(('data', 'fsdp'))


def axis_sizes(config: Any, count: int | None = None) -> dict[str, int]:
  """{axis: size} of `config.data`, `.fsdp`, `.tensor`; one of them may be -1,
  which takes what the others leave.

  count  devices; by default those there are, which only a -1 asks for

  Raises:
    ValueError: the sizes do not make up the devices.
  """
  sizes = {axis: int(config[axis]) for axis in AXES}
  shown = shown_as(sizes)
  open_ = [axis for axis, size in sizes.items() if size == -1]
  if len(open_) > 1 or any(size == 0 or size < -1 for size in sizes.values()):
    raise ValueError(f'mesh {shown}: sizes are positive, at most one is -1')
  if open_:
    count = jax.device_count() if count is None else count
    known = -math.prod(sizes.values())
    if count % known:
      raise ValueError(
        f'mesh {shown}: {known} does not divide the {count} devices'
      )
    sizes[open_[0]] = count // known
  return sizes


def shown_as(sizes: Mapping[str, int]) -> str:
  """'data=1 x fsdp=8 x tensor=1'."""
  return ' x '.join(f'{axis}={size}' for axis, size in sizes.items())


def make_mesh(config: Any) -> Mesh:
  """The mesh of `axis_sizes(config)`.

  Raises:
    ValueError: the sizes do not make up the devices there are.
  """
  sizes, count = axis_sizes(config), jax.device_count()
  needed = math.prod(sizes.values())
  if needed > count:
    raise ValueError(
      f'mesh {shown_as(sizes)} needs {needed} devices; there are {count}. '
      'Use -1 for the axis that should take what there is.'
    )
  return jax.make_mesh(
    tuple(sizes.values()),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=jax.devices()[:needed],
  )


def _parts(
  spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> Iterator[tuple[int, Any, int]]:
  """(size, axes, number of parts) of each dimension."""
  for size, axes in zip(shape, tuple(spec) + (None,) * len(shape)):
    names = (axes,) if isinstance(axes, str) else tuple(axes or ())
    yield size, axes, math.prod(sizes[name] for name in names)


def fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
  """`spec` without the axes that do not divide their dimension; `unsplit`
  names those."""
  return P(*(
    axes if total > 1 and size % total == 0 else None
    for size, axes, total in _parts(spec, shape, mesh.shape)
  ))  # fmt: skip


def unsplit(
  spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> list[str]:
  """'tensor=2 over 3' for each dimension that `fit` leaves whole because its
  axes do not divide it.

  sizes  {axis: size}
  """
  named = lambda axes: '*'.join([axes] if isinstance(axes, str) else axes)
  return [
    f'{named(axes)}={total} over {size}'
    for size, axes, total in _parts(spec, shape, sizes)
    if total > 1 and size % total
  ]


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
