"""Meshes over slices, constraints inside a program, weights on their way."""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import mesh as meshes
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import build, hlo, notes, state
from posttrain_jax.run import config as config_lib


def load(spec='configs/sft.py:smoke', **items):
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return config_lib.load(spec, pairs)


# ---- Meshes.


def test_meshes_of_old_configs_have_the_axes_they_had():
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  assert dict(mesh.shape) == dict(data=2, fsdp=2, tensor=2)
  saved = load().to_dict()
  for key in ('sequence', 'expert', 'slices'):
    del saved['mesh'][key]
  mesh = config_lib.completed(saved).mesh
  assert (mesh.sequence, mesh.expert, mesh.slices) == (1, 1, 1)


def test_axes_beyond_the_first_are_there_where_they_split():
  mesh = sharding.make_mesh(dict(fsdp=-1, sequence=2, expert=2))
  assert dict(mesh.shape) == dict(
    data=1, fsdp=2, tensor=1, sequence=2, expert=2
  )
  assert sharding.row_parts(mesh.shape) == 4
  shown = sharding.shown_as(sharding.axis_sizes(dict(data=4, sequence=2)))
  assert shown == 'data=4 x fsdp=1 x tensor=1 x sequence=2'
  with pytest.raises(ValueError, match='needs 16 devices; there are 8'):
    sharding.make_mesh(dict(fsdp=4, sequence=2, expert=2))


def _devices(slices: int, each: int) -> list:
  return [
    SimpleNamespace(id=i, slice_index=i // each, process_index=i // each,
                    device_kind='', platform='cpu')
    for i in range(slices * each)
  ]  # fmt: skip


@pytest.mark.parametrize(
  'sizes, outer', [(dict(data=4, fsdp=2, tensor=2), 'data'),
                   (dict(data=1, fsdp=8, tensor=2), 'fsdp')]
)  # fmt: skip
def test_one_axis_goes_over_slices(sizes, outer):
  arranged = meshes._over_slices(sizes, 2, _devices(2, 8))
  assert arranged.shape == tuple(sizes.values())
  slices = np.vectorize(lambda device: device.slice_index)(arranged)
  along = np.moveaxis(slices, list(sizes).index(outer), 0)
  along = along.reshape(len(along), -1)
  # All of a slice is on one side of the axis, and of the slow links.
  assert [set(row) for row in along[: len(along) // 2]] == [
    {0} for _ in range(len(along) // 2)
  ]
  assert set(along[len(along) // 2 :].reshape(-1)) == {1}


def test_slices_that_are_not_there_are_refused():
  with pytest.raises(
    ValueError, match=r'slices=2: the 8 devices .* in 1 of th'
  ):
    sharding.make_mesh(dict(data=8, slices=2))
  with pytest.raises(ValueError, match='nearest valid: 2'):
    sharding.make_mesh(dict(data=16), _devices(2, 8))
  with pytest.raises(ValueError, match='divides neither data=1 nor fsdp=3'):
    sharding.make_mesh(dict(data=1, fsdp=3, tensor=2, slices=2), _devices(2, 3))


# ---- Constraints.


def _lowered(mesh, function, *arguments) -> str:
  with jax.set_mesh(sharding.make_mesh(mesh)):
    return jax.jit(function).lower(*arguments).as_text()


def _gradient(config):
  tokens = jnp.ones((8, 16), jnp.int32)

  def loss(params):
    signals = transformer.token_logps(
      params, config, tokens, jnp.ones((8, 16)), entropy=True
    )
    return signals.logps.sum() + signals.entropy.sum()

  return jax.grad(loss)


@pytest.mark.parametrize(
  'extra',
  [{}, pytest.param(dict(remat=True, logit_chunk=4), marks=pytest.mark.long)],
)
def test_programs_of_one_device_have_no_constraints(extra):
  config = make_config('depth-2', **extra)
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  function = _gradient(config)
  alone = jax.jit(function).lower(params).as_text()
  single = _lowered(dict(data=1), function, params)
  plain = lambda text: re.sub(
    r' \{sdy.sharding = [^}]*\}\]?>\}|\n.*sdy.mesh.*', '', text
  )
  assert 'sharding_constraint' not in single
  assert plain(single) == plain(alone)
  many = _lowered(dict(fsdp=8), function, params)
  assert many.count('sharding_constraint') > 20


def test_nothing_is_constrained_where_devices_have_a_run_each():
  from posttrain_jax.rollout.runs import seed_mesh

  x = jnp.ones((8, 4, 4))
  with jax.set_mesh(seed_mesh(8)):
    text = jax.jit(
      lambda x: sharding.constrain(sharding.rows(x), 'rows')
    ).lower(x).as_text()  # fmt: skip
  assert 'sharding_constraint' not in text


@pytest.mark.parametrize(
  'shape, names, expected',
  [
    ((8, 6, 4), ('rows', 'length', None), P('fsdp', 'sequence', None)),
    ((5, 6, 4), ('rows', 'length', 'mlp'), P(None, 'sequence', 'tensor')),
    ((4, 3, 2), ('rows', 'heads', 'length'), P('fsdp', None, 'sequence')),
    ((4, 2), ('rows',), P('fsdp', None)),
  ],
)
def test_constraints_are_what_divides(shape, names, expected):
  mesh = sharding.make_mesh(dict(fsdp=2, tensor=2, sequence=2))
  with jax.set_mesh(mesh):
    made = jax.jit(lambda x: sharding.constrain(x * 2, *names))(jnp.ones(shape))
  placed = NamedSharding(mesh, expected)
  assert made.sharding.is_equivalent_to(placed, len(shape))


@pytest.mark.parametrize(
  'mesh', [dict(data=2, fsdp=4), dict(fsdp=2, sequence=2)]
)
def test_apart_is_what_each_device_has(mesh):
  x = jnp.arange(8 * 6 * 3.0).reshape(8, 6, 3)
  over = sharding.make_mesh(mesh)
  rows = NamedSharding(over, sharding.fit(P(sharding.ROWS[0], 'sequence'),
                                          x.shape, over))  # fmt: skip

  def back(x):
    assert sharding.comes_apart(x) and sharding.apart(x).shape[0] == over.size
    return sharding.together(sharding.apart(x))

  with jax.set_mesh(over):
    compiled = jax.jit(back).lower(
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    ).compile()  # fmt: skip
    assert hlo.collectives(compiled.as_text()) == []
    np.testing.assert_array_equal(compiled(jax.device_put(x, rows)), x)


def test_gathered_weights_and_their_gradients():
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  stored = NamedSharding(mesh, P('fsdp', 'tensor'))
  rows = NamedSharding(mesh, P(('data', 'fsdp')))
  w = jnp.arange(24.0).reshape(4, 6) / 24
  x = jnp.sin(jnp.arange(32.0)).reshape(8, 4)

  def loss(w, x):
    whole = sharding.gathered(w, P(sharding.SHARDS, 'tensor'))
    out = sharding.constrain(x @ whole, 'rows', 'mlp')
    return jnp.sum(jnp.square(out))

  with jax.set_mesh(mesh):
    step = jax.jit(jax.value_and_grad(loss))
    found = step(jax.device_put(w, stored), jax.device_put(x, rows))
  expected = jax.value_and_grad(lambda w, x: jnp.sum(jnp.square(x @ w)))(w, x)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
  assert found[1].sharding.is_equivalent_to(stored, 2)
  with jax.set_mesh(mesh), sharding.at_hand():
    assert sharding.gathered(w, P('fsdp')) is w
  assert sharding.gathered(w, P('fsdp')) is w


@pytest.mark.long
@pytest.mark.parametrize('remat', [False, True])
def test_whole_weights_are_not_kept_for_the_backward_pass(remat):
  config = make_config('depth-4', remat=remat)
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  specs = transformer.param_specs(config)
  mesh = sharding.make_mesh(dict(fsdp=8))
  placed = sharding.state_shardings(shapes, specs, mesh)
  params = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes, placed,
  )  # fmt: skip
  with jax.set_mesh(mesh):
    text = jax.jit(_gradient(config)).lower(params).compile().as_text()
  gathers = [x for x in hlo.collectives(text) if x.kind == 'all-gather']
  # Each layer, there and back, in the loops over layers; the table once.
  loops = [x for x in gathers if x.times == config.num_layers]
  sizes = {path: math.prod(x.shape) * 4
           for path, x in transformer.param_table(config).items()
           if 'fsdp' in str(x.spec)}  # fmt: skip
  table = sizes.pop('embed/tokens')
  assert sum(x.bytes * x.times for x in loops) == 2 * sum(sizes.values())
  assert (
    sum(x.bytes for x in gathers) - sum(x.bytes for x in loops) < 1.5 * table
  )
  # No array of all layers' whole weights.
  layers, d, f = config.num_layers, config.width, config.mlp_dim
  for shape in (f'{layers},{d},{f}', f'{layers},{f},{d}'):
    assert f'f32[{shape}]' not in text


# ---- States.


def test_a_first_state_is_never_whole_on_a_device():
  run = build.build(load(model__preset='depth-4', mesh__fsdp=8))
  mesh = sharding.make_mesh(run.config.mesh)
  placed = state.state_shardings(run, mesh)
  whole = sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves(state.abstract_state(run))
  )

  def start(key):
    made = {'policy': transformer.init(key, run.model)}
    return run.init(made, key)

  with jax.set_mesh(mesh):
    compiled = (
      jax.jit(start, out_shardings=placed).lower(jax.random.key(0)).compile()
    )
  memory = compiled.memory_analysis()
  used = memory.output_size_in_bytes + memory.temp_size_in_bytes
  assert used < whole / 3, (used, whole)


# ---- What is told.


def test_heads_that_are_not_split_are_told():
  run = build.build(load(model__preset='nano', mesh__tensor=2, mesh__fsdp=2))
  lines = notes.notes(run)
  assert any('heads (tensor=2 over 3)' in line for line in lines), lines


def test_rows_over_experts_are_told_and_refused():
  with pytest.raises(ValueError, match='data x fsdp x expert = 4 of the mesh'):
    notes.notes(
      build.build(load(prompts_per_step=6, mesh__fsdp=2, mesh__expert=2))
    )
