"""Names of machines, and their devices without the machines."""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.target import Target
from posttrain_jax.run.plan.chips import CHIPS, Chip

__all__ = ['MOST_GPUS', 'Machine', 'names', 'parse', 'targets']

# GPUs of one machine, which NVLink joins.
MOST_GPUS = 8
# Devices of a chip, where they are several.
PER_CHIP = {'tpu7x': 2}

_MISSING = (
  'planning for "{name}" compiles with libtpu, which is not installed (no TPU '
  "is needed): pip install 'posttrain_jax[tpu]'"
)


@dataclasses.dataclass(frozen=True)
class Machine:
  """What a topology names.

  name   as given: 'v5e:16x16', 'h100x8', '2*v5e:16x16' (two slices)
  chip   its devices
  shape  chips of a slice along each dimension; of GPUs, how many
  slices  that the data-center network joins
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def count(self) -> int:
    """Devices of all slices."""
    total = self.slices * PER_CHIP.get(self.chip.name, 1)
    for size in self.shape:
      total *= size
    return total


def names() -> list[str]:
  """Topologies that can be asked for, one slice each."""
  tpus = [f'{c.name}:{size}' for c in CHIPS.values() for size in c.sizes]
  gpus = [
    f'{c.name}x{count}'
    for c in CHIPS.values()
    if c.backend == 'gpu'
    for count in range(1, MOST_GPUS + 1)
  ]
  return tpus + gpus


def _close(text: str) -> list[str]:
  """Valid names for a message: of the same chip, where that is known."""
  chips = sorted(CHIPS, key=len, reverse=True)
  kind = next((chip for chip in chips if text.startswith(chip)), '')
  same = [x for x in names() if kind and x.startswith(kind)]
  return same or names()


def parse(name: str) -> Machine:
  """The machine of a name.

  Raises:
    ValueError: no such machine, with the nearest names that there are.
  """
  text = name.strip().lower()
  found = re.fullmatch(r'(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+)*)', text)
  if found and found[2] in CHIPS and CHIPS[found[2]].backend == 'tpu':
    chip, shape = CHIPS[found[2]], tuple(map(int, found[3].split('x')))
    slices = int(found[1] or 1)
    if slices > 0 and _is_slice(chip, shape):
      return Machine(name, chip, shape, slices)
  found = re.fullmatch(r'([a-z0-9]+?)x(\d+)', text)
  if found and found[1] in CHIPS and CHIPS[found[1]].backend == 'gpu':
    count = int(found[2])
    if 1 <= count <= MOST_GPUS:
      return Machine(name, CHIPS[found[1]], (count,))
  close, count = _close(text), re.search(r'\d+(x\d+)*$', text)
  told = nearest(text, close)
  if count and len(close) < len(names()):  # a chip's: by how many there are
    asked = _product(count[0])
    best = min(close, key=lambda x: abs(math.log(_product(x) / asked)))
    told = f' Did you mean "{best}"? Valid: {", ".join(sorted(close))}'
  raise ValueError(
    f'unknown topology "{name}".{told}. Several slices are written 2*v5e:16x16'
  )


def _product(text: str) -> int:
  """Chips of 'v5e:4x8', 'h100x8' or '4x8'; 1 where it says 0."""
  shape = re.search(r'\d+(?:x\d+)*$', text)
  return max(1, math.prod(map(int, shape[0].split('x')))) if shape else 1


def _is_slice(chip: Chip, shape: Sequence[int]) -> bool:
  """Whether a slice of this shape can be asked for."""
  if 'x'.join(map(str, shape)) in chip.sizes:
    return True
  # Cubes of four chips a side join freely.
  cubes = chip.ndim == 3 and len(shape) == 3
  return cubes and all(size > 0 and size % 4 == 0 for size in shape)


def targets(machine: Machine) -> Target:
  """The machine's devices: libtpu's, for a TPU; a mere number, for GPUs.

  Raises:
    ImportError: libtpu is not installed; says how to install it.
    ValueError: libtpu knows no such slice.
  """
  if machine.chip.backend == 'gpu':
    return Target('gpu', machine.count)
  devices = tuple(_tpu_devices(machine))
  if len(devices) != machine.count:
    raise ValueError(
      f'libtpu gives {len(devices)} devices for "{machine.name}", not '
      f'{machine.count}'
    )
  return Target('tpu', machine.count, devices)


# What libtpu else asks the machine for, which is none of its own.
_ALONE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  # No chip is opened: others may plan, or train, at the same time.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# Two cores of a chip that work as one device.
_MEGACORE = ('v4',)
# As a pod of each generation is called.
_TYPES = {
  'v4': 'v4-8',
  'v5e': 'v5litepod-8',
  'v5p': 'v5p-8',
  'v6e': 'v6e-8',
  'tpu7x': 'tpu7x-8',
}


def _tpu_devices(machine: Machine) -> Iterator[Any]:
  try:
    import libtpu  # noqa: F401, PLC0415
  except ImportError:
    raise ImportError(_MISSING.format(name=machine.name)) from None
  from jax.experimental import topologies  # noqa: PLC0415

  for key, value in _ALONE.items():
    os.environ.setdefault(key, value)
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', _TYPES[machine.chip.name])
  shape = 'x'.join(map(str, machine.shape))
  more: dict[str, Any] = {}
  if machine.slices > 1:
    more['num_slices'] = machine.slices
  if machine.chip.name in _MEGACORE:
    more['chip_config_name'] = 'megacore'
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=f'{machine.chip.name}:{shape}', **more
    )
  except jax.errors.JaxRuntimeError as error:
    first = str(error).splitlines()[0]
    raise ValueError(f'libtpu knows no "{machine.name}": {first}') from None
  return iter(found.devices)


def abstract_mesh(sizes: dict[str, int]) -> AbstractMesh:
  """A mesh without devices, whose shapes can be asked for."""
  return AbstractMesh(tuple(sizes.values()), tuple(sizes))
