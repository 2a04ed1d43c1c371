"""Which devices a collective of a compiled program goes between."""

import math
import re

import numpy as np

__all__ = ['first']

_IOTA = re.compile(
  r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)
# Axes of a mesh, or '3:(2)4', the part of size 4 of axis 3 with 2 outside it.
# Its devices are counted up, unless it says in which order they stand.
_MESH = re.compile(
  r'replica_groups=mesh\[([^\]]*)\]'
  r'(?:,?\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}'
)
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
_LISTED = re.compile(r'replica_groups=\{(?:\{([\d,]*)\})?')


def _numbers(text: str) -> list[int]:
  return [int(x) for x in text.split(',')]


def _counted(shape: str, order: str) -> np.ndarray:
  """Devices 0, 1, ... as an array [32,8], its axes then in an order '1,0'."""
  sizes = _numbers(shape)
  ids = np.arange(math.prod(sizes)).reshape(sizes)
  return ids.transpose(_numbers(order)) if order else ids


def _of_mesh(mesh: str, shape: str, order: str, axes: str) -> tuple[int, ...]:
  """The first group of devices of a mesh "'a'=2,'b'=4" along axes "'b'".

  shape, order  of the devices (`_counted`) that fill the mesh; '': 0, 1, ...
  """
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
  count = math.prod(sizes.values())
  ids = _counted(shape or str(count), order).reshape(tuple(sizes.values()))
  # Of places in the mesh: they go along axes, whatever device is there.
  places = np.arange(count).reshape(ids.shape)
  group = np.zeros((), int)
  for name, outside, part in _AXIS.findall(axes):
    along = np.moveaxis(places, list(sizes).index(name), 0)
    steps = along.reshape(len(along), -1)[:, 0]
    if part:
      inside = len(steps) // int(outside) // int(part)
      steps = steps[: inside * int(part) : inside]
    group = group[..., None] + steps
  return tuple(int(x) for x in np.sort(ids.flat[group.reshape(-1)]))


def first(rest: str, devices: int) -> tuple[int, ...]:
  """The first group of an instruction.

  rest     what stands after its operands
  devices  of the program: the group where it names none

  Raises:
    ValueError: groups of a mesh in a form that is not known.
  """
  iota = _IOTA.search(rest)
  if iota:
    ids = _counted(iota[2], iota[3] or '')
    width = _numbers(iota[1])[-1]
    return tuple(int(x) for x in ids.reshape(-1, width)[0])
  named = _MESH.search(rest)
  if named:
    return _of_mesh(named[1], named[2] or '', named[3] or '', named[4])
  if 'replica_groups=mesh' in rest:
    raise ValueError(f'devices in a form that is not known: {rest[:200]}')
  listed = _LISTED.search(rest)
  if listed and listed[1]:
    return tuple(int(x) for x in listed[1].split(','))
  return tuple(range(devices))
