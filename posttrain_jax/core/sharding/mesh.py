"""Meshes: the axes of a config, and the devices that make them up."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import target

AXES = ('data', 'fsdp', 'tensor', 'sequence', 'expert')
# Axes that every mesh has. A mesh of one device, and so its programs, are what
# they were before there were others.
FIRST = AXES[:3]
# What a dimension of an activation is split over, by what it counts.
LOGICAL: dict[str, tuple[str, ...]] = {
  'rows': ('data', 'fsdp', 'expert'),
  'length': ('sequence',),
  'parts': ('data', 'fsdp', 'expert', 'sequence'),  # of `apart`
  'heads': ('tensor',),
  'mlp': ('tensor',),
  'vocab': ('tensor',),
  'experts': ('expert',),
  # Of keys and values that are kept while decoding.
  'cache_rows': ('data', 'fsdp', 'expert'),
  'cache_heads': ('tensor',),
  # Of weights where they are used: what splits heads, columns and vocabulary.
  'weights': ('tensor',),
  # Rows are not split where the width is.
  'copies': ('data',),
  'width': ('fsdp', 'expert', 'sequence'),
  'row_width': ('fsdp', 'expert'),  # and rows
}
ROWS = P(LOGICAL['rows'])
# What the width of a weight is split over: all devices that would have it
# whole, but those of `data`. Of the weights of experts it is EXPERT_SHARDS.
SHARDS = LOGICAL['width']
EXPERT_SHARDS = ('fsdp', 'sequence')


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
    count = target.device_count() if count is None else count
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
  devices = target.devices() if devices is None else list(devices)
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
