"""A plan counts what chips have while decoding: as the rollout places it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders, layout
from posttrain_jax.run import build, hlo, traffic
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import memory, topology

DENSE = ModelConfig(
  vocab_size=48, num_layers=2, width=32, num_heads=8, num_kv_heads=4,
  head_dim=8, mlp_dim=48, dtype='bfloat16', scan_decode=True,
)  # fmt: skip
MODELS = {
  'tied': DENSE,
  'apart': dataclasses.replace(
    DENSE, tie_embeddings=False, scan_decode=False, scan_layers=False
  ),
  'odd': dataclasses.replace(DENSE, vocab_size=54, mlp_dim=60, num_kv_heads=2),
  'experts': dataclasses.replace(
    DENSE, num_experts=4, expert_dim=16, experts_per_token=2
  ),
}
MESHES = (
  dict(fsdp=8),
  dict(data=2, fsdp=2, tensor=2),
  dict(fsdp=2, tensor=2, expert=2),
)


def cases():
  for case in itertools.product(MODELS, MESHES, ('gathered', 'split')):
    quick = case[0] == 'tied' and case[1] == MESHES[1]
    yield pytest.param(*case, marks=[] if quick else [pytest.mark.long])


@pytest.mark.parametrize('model, mesh, how', cases())
def test_weights_are_what_a_device_is_given(model, mesh, how):
  config = dataclasses.replace(MODELS[model], decode_weights=how)
  over = sharding.make_mesh(mesh)
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  specs = transformer.param_specs(config)
  stored = sharding.state_shardings(shapes, specs, over)
  given = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    stored,
  )
  with jax.set_mesh(over):
    move = jax.jit(lambda params: layout.weights(params, config)[1])
    made = jax.eval_shape(move, given)
    placed = move.lower(given).compile().output_shardings
    found = layout.held_bytes(config)
  own = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(place.shard_shape(x.shape), x.dtype),
    made,
    placed,
  )
  assert found == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(own))


def run_of(mesh, how, prompts=8, group=4):
  values = {
    'model.preset': 'depth-2',
    'model.decode_weights': how,
    'prompts_per_step': prompts,
    'group_size': group,
    'max_new_tokens': 8,
    **{f'mesh.{axis}': size for axis, size in mesh.items()},
  }
  pairs = [(key, str(value)) for key, value in values.items()]
  return build.build(config_lib.load('configs/rl.py:smoke', pairs))


@pytest.mark.parametrize('how', ['gathered', 'split'])
def test_a_cache_is_what_rows_and_heads_leave_of_it(how):
  mesh = dict(data=2, fsdp=2, tensor=2)
  run = run_of(mesh, how)
  model, sizes = run.model, run.sizes
  assert model.num_kv_heads % 4 and model.num_kv_heads % 2 == 0
  each = 2 * model.num_layers * model.num_kv_heads * model.head_dim
  each *= jnp.dtype(model.cache_dtype or model.dtype).itemsize
  slots = 8 * sizes.prompt_length + 32 * sizes.max_new_tokens
  # Rows over data and fsdp, heads over tensor, in both layouts.
  found = memory.kv_cache(
    run, topology.abstract_mesh(sharding.axis_sizes(mesh))
  )
  assert found == each * slots / 8
  # One prompt of four answers: fsdp has the answers of one, and the prompt.
  few = run_of(dict(fsdp=4), how, prompts=1)
  over = topology.abstract_mesh(dict(data=1, fsdp=4, tensor=1))
  slots = sizes.prompt_length + sizes.max_new_tokens
  assert memory.kv_cache(few, over) == each * slots


def test_split_weights_are_read_by_all_chips_of_a_part():
  mesh = dict(data=2, fsdp=2, tensor=2)
  over = topology.abstract_mesh(sharding.axis_sizes(mesh))
  whole = memory.decode_weights(run_of(mesh, 'gathered'), over)
  split = memory.decode_weights(run_of(mesh, 'split'), over)
  assert 1.8 * split < whole < 2.1 * split


@pytest.mark.long
@pytest.mark.parametrize('how', ['gathered', 'split'])
def test_tokens_send_what_the_formula_says(how):
  mesh, rows, tokens = dict(data=2, fsdp=2, tensor=2), 8, 16
  config = dataclasses.replace(
    DENSE, num_kv_heads=8, mlp_dim=64, decode_weights=how, dtype='float32'
  )  # fmt: skip
  over = sharding.make_mesh(mesh)
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  stored = sharding.state_shardings(
    shapes, transformer.param_specs(config), over
  )
  given = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    stored,
  )

  def draw(params, prompts, key):
    return rollout.generate(
      params, config, prompts, jnp.ones((rows, 4)), key, group_size=1,
      max_new_tokens=tokens, eos_id=1,
      decoder=functools.partial(decoders.sample, temperature=1.0),
    )  # fmt: skip

  key = jax.eval_shape(lambda: jax.random.key(0))
  prompts = jax.ShapeDtypeStruct((rows, 4), jnp.int32)
  with jax.set_mesh(over):
    text = jax.jit(draw).lower(given, prompts, key).compile().as_text()
  sent = hlo.bytes_by_kind(hlo.collectives(text, unknown=tokens))
  sizes = sharding.axis_sizes(mesh)
  formula = traffic.of_scoring(config, sizes, rows, 4)
  formula += traffic.of_decoding(config, sizes, rows, tokens, how == 'split')
  # Counts, draws and the logits' maxima are small, and more in a tiny model.
  assert 0.8 * formula.total < sum(sent.values()) < 1.5 * formula.total, sent
