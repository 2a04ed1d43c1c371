"""Meshes and shardings: axes data, fsdp, tensor, sequence and expert.

Rows of a batch are split over data, fsdp and expert, positions of a row over
sequence; parameters and their optimizer state over fsdp, sequence, expert and
tensor, as `transformer.param_table` says. Layers gather their weights where
they are used (`gathered`), and activations keep their rows (`constrain`). On
one device every function here does nothing, or what changes nothing.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import trees
from posttrain_jax.core.types import Array, PyTree

AXES = ('data', 'fsdp', 'tensor', 'sequence', 'expert')
# Axes that every mesh has. A mesh of one device, and so its programs, are what
# they were before there were others.
FIRST = AXES[:3]
# What a dimension of an activation is split over, by what it counts.
LOGICAL: dict[str, tuple[str, ...]] = {
  'rows': ('data', 'fsdp', 'expert'),
  'length': ('sequence',),
  'heads': ('tensor',),
  'mlp': ('tensor',),
  'vocab': ('tensor',),
  'experts': ('expert',),
}
ROWS = P(LOGICAL['rows'])
# What the width of a weight is split over: all devices that would have it
# whole, but those of `data`. Of the weights of experts it is EXPERT_SHARDS.
SHARDS = ('fsdp', 'sequence', 'expert')
EXPERT_SHARDS = ('fsdp', 'sequence')
GATHERED = 'gathered'  # name of what a backward pass gathers anew


def axis_sizes(config: Any, count: int | None = None) -> dict[str, int]:
  """{axis: size} of `config`, 1 where it has none; one of them may be -1, which
  takes what the others leave.

  count  devices; by default those there are, which only a -1 asks for

  Raises:
    ValueError: the sizes do not make up the devices.
  """
  sizes = {axis: int(config.get(axis, 1)) for axis in AXES}
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
  """'data=1 x fsdp=8 x tensor=1', and the other axes that are not 1."""
  return ' x '.join(
    f'{axis}={size}'
    for axis, size in sizes.items()
    if axis in FIRST or size != 1
  )


def row_parts(sizes: Mapping[str, int]) -> int:
  """How many parts the rows of a batch are split into."""
  return math.prod(sizes.get(axis, 1) for axis in LOGICAL['rows'])


def make_mesh(config: Any, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of `axis_sizes(config)`.

  config   its `slices` say how many groups of devices there are, fast within
           (ICI) and slow between (DCN); data, or else fsdp, goes over them
  devices  by default those there are; or a topology's

  Raises:
    ValueError: the sizes do not make up the devices, or the slices, there are.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = axis_sizes(config, len(devices))
  needed = math.prod(sizes.values())
  if needed > len(devices):
    raise ValueError(
      f'mesh {shown_as(sizes)} needs {needed} devices; there are '
      f'{len(devices)}. Use -1 for the axis that should take what there is.'
    )
  sizes = {a: size for a, size in sizes.items() if a in FIRST or size > 1}
  used = devices[:needed]
  slices = int(config.get('slices', 1))
  found = len({getattr(device, 'slice_index', 0) for device in used})
  if found != slices:
    raise ValueError(
      f'mesh.slices={slices}: the {needed} devices of the mesh '
      f'{shown_as(sizes)} lie in {found} of them; nearest valid: {found}'
    )
  if slices > 1:
    arranged = _over_slices(sizes, slices, used)
  else:
    arranged = _arranged(sizes, used)
  return Mesh(arranged, tuple(sizes), axis_types=_auto(sizes))


def _auto(sizes: Mapping[str, int]) -> tuple[AxisType, ...]:
  return (AxisType.Auto,) * len(sizes)


def _arranged(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
  shape = tuple(sizes.values())
  try:
    mesh = jax.make_mesh(
      shape, tuple(sizes), axis_types=_auto(sizes), devices=devices
    )
  except NotImplementedError:  # an axis that is no product of the torus's own
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  return mesh.devices


def _over_slices(
  sizes: Mapping[str, int], slices: int, devices: Sequence[Any]
) -> np.ndarray:
  outer = next((a for a in ('data', 'fsdp') if sizes[a] % slices == 0), None)
  if outer is None:
    raise ValueError(
      f'mesh.slices={slices} divides neither data={sizes["data"]} nor '
      f'fsdp={sizes["fsdp"]}, one of which goes over them'
    )
  across = {axis: slices if axis == outer else 1 for axis in sizes}
  within = [size // across[axis] for axis, size in sizes.items()]
  return mesh_utils.create_hybrid_device_mesh(
    within, list(across.values()), devices, allow_split_physical_axes=True
  )


def _names(axes: Any) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _parts(
  spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> Iterator[tuple[int, tuple[str, ...], int]]:
  """(size, axes that the mesh has, number of parts) of each dimension."""
  for size, axes in zip(shape, tuple(spec) + (None,) * len(shape)):
    names = tuple(name for name in _names(axes) if name in sizes)
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


# ---- Inside a program.


class _Sizes(dict):
  """{axis: size} of the axes that may be named here."""

  @property
  def shape(self) -> Mapping[str, int]:
    return self


def _here() -> _Sizes:
  """The axes of the mesh of the context (`jax.set_mesh`); none without one, or
  where the devices have a run each (`sweep`). Inside `shard_map` those are left
  out that it has taken."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or 'data' not in mesh.shape:
    return _Sizes()
  taken = mesh.manual_axes
  return _Sizes({a: n for a, n in mesh.shape.items() if a not in taken})


def size(*names: str) -> int:
  """How many parts axes of the mesh here have together; 1 without a mesh."""
  here = _here()
  return math.prod(here.get(name, 1) for name in names)


def split() -> bool:
  """Whether there is a mesh here of more than one device."""
  return math.prod(_here().values()) > 1


def rows(tree: PyTree) -> PyTree:
  """Constrains every array's leading axis to be split as `ROWS` says.

  Without a mesh, or where rows do not divide, arrays stay as they are.
  """
  here = _here()
  if not here:
    return tree
  parts = row_parts(here)
  spec = P(tuple(axis for axis in LOGICAL['rows'] if axis in here))
  place = lambda x: (
    jax.lax.with_sharding_constraint(x, spec)
    if x.ndim > 0 and x.shape[0] % parts == 0
    else x
  )
  return jax.tree.map(place, tree)


def constrain(x: Array, *names: str | None) -> Array:
  """x with each dimension split as its name in LOGICAL says.

  names  one a dimension; None, and where the axes do not divide the dimension
         (`unsplit`, which `run.notes` tells): whole. Dimensions beyond are
         whole
  """
  if not split():
    return x
  spec = P(*(LOGICAL[name] if name else None for name in names))
  return jax.lax.with_sharding_constraint(x, fit(spec, x.shape, _here()))


def as_declared(tree: PyTree, specs: PyTree) -> PyTree:
  """Gradients, moments or parameters, split as the parameters are (`by_path`);
  what is none of a parameter stays as it is."""
  if not split():
    return tree
  find, here = by_path(specs), _here()

  def place(path: str, leaf: Array) -> Array:
    spec = find(path, leaf.shape)
    if spec is None:
      return leaf
    return jax.lax.with_sharding_constraint(leaf, fit(spec, leaf.shape, here))

  return trees.map_by_path(place, tree)


def _whole(spec: P) -> P:
  """`spec` without the dimensions that are split for storage alone."""
  return P(*(None if 'fsdp' in _names(axes) else axes for axes in spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(weight: Array, stored: P, used: P, was: str, dtype: str) -> Array:
  del was
  # Converted where it is stored: what travels is in the dtype of its use.
  own = jax.lax.with_sharding_constraint(weight.astype(dtype), stored)
  own = jax.lax.with_sharding_constraint(own, used)
  return checkpoint_name(own, GATHERED)


def _gather_forward(weight, stored, used, was, dtype):
  return _gather(weight, stored, used, was, dtype), None


def _gather_back(stored, used, was, dtype, _, gradient):
  # Each device's own rows have given a part of the sum: it is scattered.
  own = jax.lax.with_sharding_constraint(gradient, stored)
  return (own.astype(was),)


_gather.defvjp(_gather_forward, _gather_back)


def gathered(weight: Array, spec: P, dtype: Any = None) -> Array:
  """A weight as a product needs it: whole but for axes tensor and expert.

  spec   of the weight as it is stored
  dtype  of the products that read it, in which it travels; None: its own

  Its gradient is reduced straight into the shards that are stored. Under
  `jax.checkpoint` (`keep_all_but_gathered`) the backward pass gathers anew.
  """
  here = _here()
  stored = fit(spec, weight.shape, here)
  used = _whole(stored)
  if stored == used:
    return weight
  if not jnp.issubdtype(weight.dtype, jnp.floating):
    weight = jax.lax.with_sharding_constraint(weight, used)
    return checkpoint_name(weight, GATHERED)
  was = str(weight.dtype)
  to = was if dtype is None else str(jnp.dtype(dtype))
  return _gather(weight, stored, used, was, to)


def keep_all_but_gathered(primitive: Any, *_: Any, **params: Any) -> bool:
  """A policy of `jax.checkpoint`: what a layer computes is kept for the
  backward pass, the weights that it gathered are not."""
  if str(primitive) == 'name':
    return params['name'] != GATHERED
  return str(primitive) != 'sharding_constraint'
