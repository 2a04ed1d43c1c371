"""Attention compiled for TPUs that are not there, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.models import attention, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run.plan import topology

pytest.importorskip('libtpu')
pytestmark = pytest.mark.slow
LENGTH = 8192
MESHES = {
  'tensor': dict(data=1, fsdp=4, tensor=2),
  'sequence': dict(data=1, fsdp=2, tensor=1, sequence=4),
}


@pytest.fixture(scope='module')
def devices():
  return np.array(topology.targets(topology.parse('v5e:2x4')).devices)


def mesh_of(devices, axes):
  return Mesh(
    devices.reshape(tuple(axes.values())), tuple(axes),
    axis_types=(AxisType.Auto,) * len(axes),
  )  # fmt: skip


def compiled(devices, axes, length, offset=0, **fields):
  """The gradient of attention over 8 rows, 8 query heads on 4 key heads."""
  config = ModelConfig(
    num_heads=8, num_kv_heads=4,
    **{'head_dim': 128, 'dtype': 'bfloat16', **fields},
  )  # fmt: skip
  mesh = mesh_of(devices, axes)
  over = 'sequence' if 'sequence' in axes else None

  def like(*shape, spec, dtype=config.dtype):
    place = NamedSharding(mesh, P(('data', 'fsdp'), *spec))
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)

  size = config.head_dim
  q = like(8, 4, 2, length, size, spec=('tensor', None, over))
  k = like(8, 4, offset + length, size, spec=('tensor',))
  ids = like(8, offset + length, spec=(), dtype='int32')
  sight = attention.Sight(offset, config.sliding_window)

  def loss(q, k, v, ids):
    out = attention.attend_ids(q, k, v, ids[:, offset:], ids, sight, config)
    return jnp.sum(jnp.square(out.astype(jnp.float32)))

  with jax.set_mesh(mesh):
    made = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return made.lower(q, k, k, ids).compile()


def needed(made) -> float:
  """Temporaries of a device in MiB."""
  return made.memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.parametrize('mesh', MESHES)
def test_splash_has_no_scores_in_memory(mesh, devices):
  """Two rows of four query heads, or four of eight on a quarter of the queries,
  of 8192 tokens on a device: 2 MiB against 241, and 4 against 1101, in blocks
  of 512 queries."""
  made = compiled(devices, MESHES[mesh], LENGTH, attention='splash')
  plain = compiled(
    devices, MESHES[mesh], LENGTH, attention='plain', attention_chunk=512
  )
  assert 'tpu_custom_call' in made.as_text()
  assert 'tpu_custom_call' not in plain.as_text()
  assert needed(made) < needed(plain) / 20


@pytest.mark.parametrize(
  'fields',
  [
    dict(head_dim=64),
    dict(head_dim=80, attention_cap=50.0, sliding_window=300),
    dict(head_dim=256),
    dict(dtype='float32', offset=200),
  ],
  ids=str,
)
def test_heads_of_any_size_compile(fields, devices):
  made = compiled(devices, MESHES['tensor'], 1000, attention='splash', **fields)
  assert 'tpu_custom_call' in made.as_text()


def test_a_model_with_splash_compiles(devices):
  """Layers with and without a window in one loop, recomputed but for what
  attention found: its forward kernels are there once each."""
  config = ModelConfig(
    vocab_size=256, num_layers=2, width=128, num_heads=2, num_kv_heads=2,
    head_dim=64, mlp_dim=128, dtype='bfloat16', attention='splash',
    remat='save_attention', sliding_window=256, full_layers=(1,),
  )  # fmt: skip
  mesh = mesh_of(devices, MESHES['tensor'])
  whole = NamedSharding(mesh, P())
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
  params = jax.tree.map(
    like,
    jax.eval_shape(lambda: transformer.init(jax.random.key(0), config)),
  )
  rows = like(jax.ShapeDtypeStruct((4, 512), jnp.int32))

  def loss(params, tokens, ids):
    signals = transformer.token_logps(
      params, config, tokens, ids, segment_ids=ids
    )
    return jnp.sum(signals.logps)

  with jax.set_mesh(mesh):
    made = jax.jit(jax.grad(loss)).lower(params, rows, rows)
    text = made.as_text()
    assert 'tpu_custom_call' in made.compile().as_text()
  # Two kinds of layers: forward, and two kernels backward.
  assert text.count('kernel_name = "splash_mha_fwd') == 2
  assert text.count('kernel_name = "splash_mha_d') == 4
