"""What a program sends between chips, and how long the links need for it.

A ring over a group uses the links of every dimension of the torus that the
group spans: two directions where the dimension closes to a ring, else one.
Between slices, and between machines of GPUs, it is the data-center network.
Bytes are those that a chip sends (`hlo.Collective.sent`).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain_jax.run import hlo
from posttrain_jax.run.hlo import Collective
from posttrain_jax.run.plan.topology import Machine

__all__ = ['Moved', 'bandwidth', 'less', 'of_collectives', 'of_text']


@dataclasses.dataclass(frozen=True)
class Moved:
  """What a chip sends in one run of a program.

  sent     {kind: bytes}
  seconds  that the links need for it
  """

  sent: dict[str, float]
  seconds: float


def of_text(text: str, machine: Machine, mesh: Any, unknown: int = 1) -> Moved:
  """Of a compiled program.

  mesh     its devices, in their order
  unknown  turns of a loop that does not say how many
  """
  if not text:
    return Moved({}, 0.0)
  devices = list(mesh.devices.flat)
  return of_collectives(hlo.collectives(text, unknown), machine, devices)


def of_collectives(
  found: Iterable[Collective], machine: Machine, devices: Sequence[Any]
) -> Moved:
  """Of the collectives of a program; `devices` are those it numbers."""
  found = list(found)
  seconds = sum(
    one.total / bandwidth(machine, [devices[i] for i in one.group])
    for one in found
    if one.total
  )
  return Moved(hlo.bytes_by_kind(found), seconds)


def less(whole: Moved, part: Moved) -> Moved:
  """A program without another that it contains."""
  sent = {
    kind: max(size - part.sent.get(kind, 0.0), 0.0)
    for kind, size in whole.sent.items()
  }
  seconds = max(whole.seconds - part.seconds, 0.0)
  return Moved({k: x for k, x in sent.items() if x}, seconds)


def bandwidth(machine: Machine, group: Sequence[Any]) -> float:
  """Bytes a second that a chip of a group sends to the others, on a ring.

  group  devices of a topology
  """
  chip = machine.chip
  if len({getattr(x, 'slice_index', 0) for x in group}) > 1:
    return chip.dcn
  if not chip.ndim:
    return chip.ici
  links = 0
  for axis, size in enumerate(machine.shape):
    if len({device.coords[axis] for device in group}) > 1:
      ring = chip.wraps and size % chip.wraps == 0
      links += 2 if ring else 1
  # The two devices of one chip are joined at least as well.
  return chip.ici * max(links, 1)
