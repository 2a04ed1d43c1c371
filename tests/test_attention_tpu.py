"""Splash attention compiled for TPUs that are not there."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig

pytest.importorskip('libtpu')
pytestmark = pytest.mark.slow
LENGTH = 2048
MESHES = {
  'tensor': dict(data=1, fsdp=4, tensor=2),
  'sequence': dict(data=1, fsdp=2, tensor=1, sequence=4),
}


@pytest.fixture(scope='module')
def devices():
  from jax.experimental import topologies

  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-8'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
  found = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4')
  return np.array(found.devices)


def needed(devices, axes, **fields):
  """(temporaries in bytes, text) of the gradient of a loss over long rows."""
  config = ModelConfig(
    vocab_size=512, num_layers=2, width=256, num_heads=8, num_kv_heads=4,
    mlp_dim=512, remat='full', logit_chunk=256,
    **{'head_dim': 128, 'dtype': 'bfloat16', **fields},
  )  # fmt: skip
  mesh = Mesh(
    devices.reshape(tuple(axes.values())), tuple(axes),
    axis_types=(AxisType.Auto,) * len(axes),
  )  # fmt: skip
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  place = sharding.state_shardings(
    shapes, transformer.param_specs(config), mesh
  )
  params = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes, place,
  )  # fmt: skip
  length = 'sequence' if 'sequence' in axes else None
  rows = jax.ShapeDtypeStruct(
    (8, LENGTH), jnp.int32,
    sharding=NamedSharding(mesh, P(('data', 'fsdp'), length)),
  )  # fmt: skip

  def loss(params, tokens, ids):
    signals = transformer.token_logps(
      params, config, tokens, ids, segment_ids=ids
    )
    return jnp.sum(signals.logps)

  with jax.set_mesh(mesh):
    made = jax.jit(jax.grad(loss), out_shardings=place)
    made = made.lower(params, rows, rows).compile()
  return made.memory_analysis().temp_size_in_bytes, made.as_text()


@pytest.mark.parametrize('mesh', MESHES)
def test_splash_needs_less_than_the_plain_form(mesh, devices):
  """Forward and backward; of the plain form all scores are there at a time."""
  plain, _ = needed(devices, MESHES[mesh])
  kernel, text = needed(devices, MESHES[mesh], attention='splash')
  assert 'tpu_custom_call' in text
  assert kernel < plain / 2


@pytest.mark.parametrize(
  'fields',
  [
    dict(head_dim=64),
    dict(head_dim=80, attention_cap=50.0),
    dict(head_dim=256, sliding_window=512, full_layers=(1,)),
    dict(dtype='float32'),
  ],
  ids=str,
)
def test_heads_of_any_size_compile(fields, devices):
  _, text = needed(devices, MESHES['tensor'], attention='splash', **fields)
  assert 'tpu_custom_call' in text
