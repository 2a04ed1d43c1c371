r"""Memory of an SFT gradient on one long row, compiled for a TPU ahead of time.

  pip install libtpu
  python -m experiments.benchmarks.long_rows --lengths 8192 16384

No TPU is needed: the compiler says how much memory a program takes, or that it
does not fit. A Qwen3-0.6B shape in bfloat16, layers recomputed, logits 1024
positions at a time, attention all at once (0) or `attention_chunk` queries at a
time. One chip has the whole model and one row.
"""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import common
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig

QWEN3 = ModelConfig(
  vocab_size=151_936, num_layers=28, width=1024, num_heads=16, num_kv_heads=8,
  head_dim=128, mlp_dim=3072, max_length=0, rope_theta=1e6, qk_norm=True,
  dtype='bfloat16', param_dtype='bfloat16', remat=True, logit_chunk=1024,
)  # fmt: skip
TOY = dataclasses.replace(
  QWEN3, vocab_size=512, num_layers=2, width=128, num_heads=2, num_kv_heads=1,
  head_dim=64, mlp_dim=256,
)  # fmt: skip


def needed(model: ModelConfig, length: int, device: Any) -> dict[str, Any]:
  """Bytes of the gradient of a row's log-likelihood on one device: `temporary`
  ones beside the parameters, or `short` of memory by the compiler's word."""
  whole = NamedSharding(Mesh(np.array([device]), ('x',)), PartitionSpec())
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), model))
  row = jax.ShapeDtypeStruct((1, length), jnp.int32)

  def loss(params, tokens):
    ones = jnp.ones(tokens.shape)
    return -jnp.sum(transformer.token_logps(params, model, tokens, ones).logps)

  program = jax.jit(
    jax.grad(loss), in_shardings=(whole, whole), out_shardings=whole
  )
  began = time.monotonic()
  try:
    made = program.lower(params, row).compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    sizes = re.findall(r'[\d.]+[KMG]\b', str(error))
    return {'fits': False, 'compiler_says': sizes[:2]}
  memory = made.memory_analysis()
  return {
    'fits': True,
    'temporary_bytes': memory.temp_size_in_bytes,
    'argument_bytes': memory.argument_size_in_bytes,
    'output_bytes': memory.output_size_in_bytes,
    'compile_seconds': time.monotonic() - began,
  }


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--topology', default='v5e:2x2', help='"here": this CPU')
  parser.add_argument('--lengths', type=int, nargs='+', default=[8192, 16384])
  parser.add_argument('--chunks', type=int, nargs='+', default=[0, 512])
  flags = parser.parse_args(argv)
  session = common.Session('long_rows', flags)
  if flags.topology == 'here':
    device = jax.devices()[0]
  else:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=flags.topology
    )
    device = described.devices[0]
  for length in flags.lengths:
    for chunk in flags.chunks:
      model = TOY if flags.toy else QWEN3
      model = dataclasses.replace(model, attention_chunk=chunk)
      found = needed(model, length, device)
      session.results[f'{length} tokens, {chunk} queries at a time'] = found
      print(length, chunk, found, flush=True)
  session.write()
  return session


if __name__ == '__main__':
  main()
