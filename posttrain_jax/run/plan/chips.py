"""What one device of each kind can do: memory, arithmetic, links.

Peaks, capacities and bandwidths are the vendors'. TPUs: the pages
docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in November 2026.
Their bidirectional interconnect bandwidth of a chip, over its ports and two
directions, is `ici`; data-center bandwidth is given by chip for v5p, v6e and
tpu7x, by pod of 256 for v5e (6.4 Tbit/s), and not for v4, which is taken to
have v5p's. GPUs: the data sheets of A100 SXM, H100 SXM and H200 SXM.

`hbm` of a TPU is what XLA lets a program have, less than the data sheet's: as
the compiler of libtpu 0.0.42 says when it refuses a larger one
(`tests/test_plan_topology.py` asks it). Of a GPU it is nine tenths of the data
sheet's: the rest is the driver's and the libraries'.
"""

import dataclasses

__all__ = ['CHIPS', 'Chip', 'GIB']

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device, as jax counts them.

  name       as a topology begins with
  backend    'tpu' or 'gpu'
  hbm        bytes that a program may use
  peak       bfloat16 FLOPs a second, dense
  bandwidth  bytes a second to and from that memory
  ici        bytes a second over one link, in one direction
  dcn        bytes a second to other slices or hosts, in one direction
  ndim       dimensions of a torus of them; 0: all are linked by a switch, and
             `ici` is a device's share of that
  wraps      a dimension of so many chips, or of a multiple of it, is a ring
  sizes      shapes of slices that can be asked for
  """

  name: str
  backend: str
  hbm: int
  peak: float
  bandwidth: float
  ici: float
  dcn: float
  ndim: int = 0
  wraps: int = 0
  sizes: tuple[str, ...] = ()


_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = (
  '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8',
  '8x8x16', '8x16x16', '16x16x16',
)  # fmt: skip

CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 'tpu', round(30.75 * GIB), 275e12, 1200e9, 50e9, 6.25e9, 3, 4,
         _CUBES),
    Chip('v5e', 'tpu', round(15.75 * GIB), 197e12, 819e9, 50e9, 3.125e9, 2, 16,
         _FLAT),
    Chip('v5p', 'tpu', round(95.74 * GIB), 459e12, 2765e9, 100e9, 6.25e9, 3, 4,
         _CUBES),
    Chip('v6e', 'tpu', round(31.25 * GIB), 918e12, 1638e9, 100e9, 12.5e9, 2, 16,
         _FLAT),
    # A chip is two devices, with a half of it each.
    Chip('tpu7x', 'tpu', round(94.75 * GIB), 1153.5e12, 3690e9, 50e9, 6.25e9, 3,
         4, _CUBES),
    Chip('a100', 'gpu', round(0.9 * 80e9), 312e12, 2039e9, 300e9, 25e9),
    Chip('h100', 'gpu', round(0.9 * 80e9), 989e12, 3350e9, 450e9, 50e9),
    Chip('h200', 'gpu', round(0.9 * 141e9), 989e12, 4800e9, 450e9, 50e9),
  )
}  # fmt: skip
