"""What an update has to send between chips, by arithmetic: FSDP x TP.

  S shards (fsdp, sequence, expert)   t tensor   d data   m micro-batches
  a bytes of a number that is computed in   n tokens of a micro-batch on a chip

  gathers     each layer's weights twice a micro-batch, in `a`: before its
              forward pass, and anew before its backward pass, which a layer
              that is computed again shares. A table of tokens likewise
  scatters    each gradient once a micro-batch, in `a`
  copies      the stored shard of the gradient is summed over data once a step
  tensor      n x width numbers are summed over tensor twice a layer forward,
              twice backward, and once more where the layer is computed again

A ring sends 1 - 1/S of what it gathers or scatters, and twice 1 - 1/t of what
it sums. `tests/test_plan_traffic.py` holds compiled programs to 1.2 times this.
"""

import math
from typing import Any

import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.run.build import Run

__all__ = ['gathers', 'sent']


def _places(mesh: Any) -> tuple[int, int, int]:
  """(shards of a stored weight, tensor, data)."""
  sizes = dict(mesh.shape)
  shards = math.prod(sizes.get(axis, 1) for axis in sharding.SHARDS)
  return shards, sizes.get('tensor', 1), sizes.get('data', 1)


def _stored(run: Run) -> tuple[float, float]:
  """(numbers of the layers' matrices, of the tables of tokens)."""
  table = transformer.param_table(run.model)
  layers = tables = 0.0
  for path, param in table.items():
    size = float(math.prod(param.shape))
    if path.startswith('layers/') and any(param.spec):
      layers += size
    elif path in ('embed/tokens', 'unembed'):
      tables += size
  return layers, tables


def _micro(run: Run) -> tuple[int, int]:
  """(micro-batches of a step, rows of one)."""
  sizes = run.sizes
  rows = sizes.microbatch_rows or sizes.minibatch_rows
  passes = sizes.rows * sizes.updates_per_rollout
  return passes // rows, rows


def _wide(run: Run) -> int:
  """Bytes of a number as it travels."""
  kinds = (run.model.dtype, run.model.param_dtype)
  return min(jnp.dtype(kind).itemsize for kind in kinds)


def gathers(run: Run, mesh: Any, times: float) -> dict[str, float]:
  """{kind: bytes} of all weights gathered so often."""
  shards, tensor, _ = _places(mesh)
  numbers = sum(_stored(run)) / tensor
  size = times * numbers * _wide(run) * (1 - 1 / shards)
  return {'all-gather': size} if size else {}


def sent(run: Run, mesh: Any) -> dict[str, float]:
  """{kind: bytes} that a chip sends in the updates of a step."""
  model, wide = run.model, _wide(run)
  shards, tensor, copies = _places(mesh)
  layers, tables = (x / tensor for x in _stored(run))
  count, rows = _micro(run)
  parts = sharding.row_parts(mesh.shape) * dict(mesh.shape).get('sequence', 1)
  stream = rows * run.sizes.row_tokens / parts * model.width
  stream *= jnp.dtype(model.dtype).itemsize
  sums = 2 + 2 + (model.remat not in (False, 'none'))
  reduced = count * sums * model.num_layers * stream * 2 * (1 - 1 / tensor)
  reduced += (layers + tables) / shards * wide * 2 * (1 - 1 / copies)
  out = gathers(run, mesh, 2.0 * count)
  out['reduce-scatter'] = count * (layers + tables) * wide * (1 - 1 / shards)
  out['all-reduce'] = reduced
  return {kind: size for kind, size in out.items() if size}
