"""Where the parts of a weight lie on a mesh, and the whole where it is used."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.models.adapted import NF4, Adapted, Int8

__all__ = ['gathered', 'specs']


def specs(spec: P, inner: int, outer: int, nf4: bool = False) -> dict[str, P]:
  """{field: its PartitionSpec} of an Adapted weight in place of a matrix.

  spec  of the matrix [..., *I, *O] with `inner` axes I and `outer` ones O
  nf4   whether its base is one

  An adapter is split as its matrix is: A along the inputs, B along the outputs;
  nothing along the rank.
  """
  axes = tuple(spec)
  lead = len(axes) - inner - outer
  before, inside, outside = axes[:lead], axes[lead:-outer], axes[-outer:]
  return {
    'base': spec,
    'base/values': spec,
    'base/codes': spec,
    # Of Int8 a number an output, of NF4 one a block of inputs.
    'base/scale': spec if nf4 else P(*before, *outside),
    'a': P(*before, *inside, None),
    'b': P(*before, None, *outside),
    'magnitude': P(*before, *outside),
  }


def gathered(weight: Any, spec: P, dtype: Any) -> Any:
  """`sharding.gathered` of a layer's weight, an array or a `Weight`.

  spec   of the matrix
  dtype  of its products
  """
  if isinstance(weight, Adapted):
    own = specs(spec, weight.axes, weight.b.ndim - 1)
    # A magnitude asks for the length of columns in what the weights are in.
    plain = dtype if weight.magnitude is None else None
    parts = {'a': weight.a, 'b': weight.b, 'magnitude': weight.magnitude}
    whole = {
      name: x if x is None else sharding.gathered(x, own[name])
      for name, x in parts.items()
    }
    return weight.replace(base=gathered(weight.base, spec, plain), **whole)
  if isinstance(weight, Int8):
    outside = P(*tuple(spec)[-weight.scale.ndim :])
    return weight.replace(
      values=sharding.gathered(weight.values, spec),
      scale=sharding.gathered(weight.scale, outside),
    )
  if isinstance(weight, NF4):
    return weight.replace(
      codes=sharding.gathered(weight.codes, spec),
      scale=sharding.gathered(weight.scale, spec),
    )
  narrower = dtype is not None and (
    jnp.dtype(dtype).itemsize < weight.dtype.itemsize
  )
  return sharding.gathered(weight, spec, dtype if narrower else None)
