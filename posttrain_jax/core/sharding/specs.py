"""How the arrays of a run are split over a mesh, by their declared specs."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.types import PyTree


def names_of(axes: Any) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _parts(
  spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> Iterator[tuple[int, tuple[str, ...], int]]:
  """(size, axes that the mesh has, number of parts) of each dimension."""
  for size, axes in zip(shape, tuple(spec) + (None,) * len(shape)):
    names = tuple(name for name in names_of(axes) if name in sizes)
    yield size, names, math.prod(sizes[name] for name in names)


def fit(spec: P, shape: tuple[int, ...], mesh: Any) -> P:
  """`spec` without the axes that do not divide their dimension; `unsplit`
  names those."""
  return P(*(
    (names if len(names) > 1 else names[0])
    if total > 1 and size % total == 0 else None
    for size, names, total in _parts(spec, shape, mesh.shape)
  ))  # fmt: skip


def unsplit(
  spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> list[str]:
  """'tensor=2 over 3' for each dimension that `fit` leaves whole because its
  axes do not divide it.

  sizes  {axis: size}
  """
  return [
    f'{"*".join(name for name in names if sizes[name] > 1)}={total} over {size}'
    for size, names, total in _parts(spec, shape, sizes)
    if total > 1 and size % total
  ]


def by_path(specs: PyTree) -> Callable[[str, tuple[int, ...]], P | None]:
  """(path, shape) -> the spec of the parameter whose path that path ends in:
  moments of the optimizer and the reference policy follow the parameters."""
  known = {
    trees.path_name(path): spec
    for path, spec in jax.tree_util.tree_leaves_with_path(
      specs, is_leaf=lambda x: isinstance(x, P)
    )
  }

  def find(path: str, shape: tuple[int, ...]) -> P | None:
    parts = path.split('/')
    for start in range(len(parts)):
      spec = known.get('/'.join(parts[start:]))
      if spec is not None and len(spec) <= len(shape):
        return spec
    return None

  return find


def state_shardings(state: PyTree, specs: PyTree, mesh: Mesh) -> PyTree:
  """A sharding for every leaf of a (shape-only) train state, by `by_path`."""
  find = by_path(specs)

  def shard(path: str, leaf) -> NamedSharding:
    spec = find(path, leaf.shape)
    return NamedSharding(
      mesh, P() if spec is None else fit(spec, leaf.shape, mesh)
    )

  return trees.map_by_path(shard, state)
