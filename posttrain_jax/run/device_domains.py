"""What keys of the mesh and of its memory may be (`run.domains`)."""

from posttrain_jax.core import sharding
from posttrain_jax.core.domain import Flag, Whole

__all__ = ['DEVICES']

DEVICES = {
  **{f'mesh.{axis}': Whole(1, also=(-1,)) for axis in sharding.AXES},
  'mesh.slices': Whole(1),
  'offload.moments': Flag(),
  'offload.ref': Flag(),
}
