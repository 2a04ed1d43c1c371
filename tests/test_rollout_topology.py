"""What a rollout sends at every token, compiled for TPUs that are not there
(libtpu, the extra `tpu`)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.run import hlo
from posttrain_jax.run.plan import topology

pytest.importorskip('libtpu')

MODEL = ModelConfig(
  vocab_size=1024, num_layers=3, width=256, num_heads=8, num_kv_heads=4,
  head_dim=32, mlp_dim=640, dtype='bfloat16', param_dtype='bfloat16',
)  # fmt: skip
PROMPTS, GROUP, SIZE, LENGTH = 8, 4, 40, 16
ROWS = PROMPTS * GROUP


@pytest.fixture(scope='module')
def devices():
  return topology.targets(topology.parse('v5e:2x4')).devices


def sent(devices, config, axes, decoder=decoders.sample, slots=0):
  """The collectives of a rollout's decode loop."""
  mesh = sharding.make_mesh(axes, devices)
  like = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  specs = transformer.param_specs(config)
  params = jax.tree.map(
    like, params, sharding.state_shardings(params, specs, mesh)
  )
  whole = NamedSharding(mesh, P())
  rows = NamedSharding(mesh, sharding.fit(sharding.ROWS, (PROMPTS,), mesh))
  prompts = jax.ShapeDtypeStruct((PROMPTS, LENGTH), jnp.int32, sharding=rows)
  mask = jax.ShapeDtypeStruct((PROMPTS, LENGTH), jnp.float32, sharding=rows)
  key = like(jax.eval_shape(lambda: jax.random.key(0)), whole)
  run = lambda params, prompts, mask, key: rollout.generate(
    params, config, prompts, mask, key, group_size=GROUP, max_new_tokens=SIZE,
    decoder=decoder, eos_id=5, slots=slots,
  )  # fmt: skip
  with jax.set_mesh(mesh):
    text = jax.jit(run).lower(params, prompts, mask, key).compile().as_text()
  return [
    one
    for one in hlo.collectives(text, unknown=SIZE)
    if 'decode' in one.source and one.times >= SIZE - 1
  ]


CASES = {
  'fsdp': (dict(fsdp=8), {}, decoders.sample, 0),
  'fsdp-tensor': (dict(fsdp=4, tensor=2), {}, decoders.sample, 0),
  'looped': (
    dict(fsdp=4, tensor=2), dict(scan_decode=True), decoders.sample, 0,
  ),
  'top_k': (dict(fsdp=4, tensor=2), {}, decoders.top_k, 0),
  'top_p': (dict(fsdp=4, tensor=2), {}, decoders.top_p, 0),
  'slots': (dict(fsdp=4, tensor=2), {}, decoders.sample, 8),
  'split': (
    dict(fsdp=8), dict(decode_weights='split', num_kv_heads=8),
    decoders.sample, 0,
  ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_a_token_sends_no_weights_and_no_logits(devices, name):
  axes, fields, decoder, slots = CASES[name]
  config = dataclasses.replace(MODEL, **fields)
  found = sent(devices, config, axes, decoder, slots)
  split = config.decode_weights == 'split'
  parts = 1 if split else axes.get('fsdp', 1)
  rows = (slots or ROWS) // parts
  stream = {(rows, 1, MODEL.width), (rows, MODEL.width)}
  large = [one for one in found if math.prod(one.shape) > 4 * rows * 8]
  for one in large:
    if name == 'top_p' and one.kind == 'all-to-all':
      # Parts of the vocabulary change places with parts of the rows.
      assert math.prod(one.shape) <= rows * MODEL.vocab_size
      continue
    if name == 'top_k' and one.kind == 'all-gather':
      # The best 50 of each part of the vocabulary.
      assert math.prod(one.shape) <= rows * 2 * 50
      continue
    if split and (one.kind, one.dtype) == ('all-gather', 's32'):
      # Tokens so far, which all devices have: XLA writes them in parts.
      assert math.prod(one.shape) <= rows * SIZE
      continue
    assert one.kind == 'all-reduce', one
    squeezed = tuple(n for n in one.shape if n > 1)
    assert squeezed in {tuple(n for n in x if n > 1) for x in stream}, one
  # Two products a layer are summed, and the embedding is looked up.
  sums = sum(one.times for one in large if one.kind == 'all-reduce')
  wide = axes.get('tensor', 1) > 1 or split
  assert sums <= (2 * MODEL.num_layers + 1) * SIZE * wide
