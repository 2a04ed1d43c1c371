"""Moments in 16 and 8 bits: codes by hand, bounds, sharding, whole runs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from halves import cut
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding, trees
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import loop
from posttrain_jax.trainers import optim, optim_moments
from posttrain_jax.trainers.optim_moments import Blocks, blocks, decode, encode

ONE = Blocks(0, 4)
NEVER = jnp.full(4, 0.999)  # draws that round down
ALWAYS = jnp.zeros(4)


def test_signed_codes_by_hand():
  """The largest is code 1; an eighth of an octave lower is one more."""
  x = jnp.array([-8.0, 4.0, 0.0, 8.0 * 2 ** (-3 / 8)])
  codes, scales = encode(x, ONE, NEVER)
  np.testing.assert_array_equal(codes, [-1, 9, 0, 4])
  np.testing.assert_array_equal(scales, [8.0])
  np.testing.assert_allclose(decode(codes, scales, ONE), x, rtol=1e-6)


def test_positive_codes_by_hand():
  """Sixteen to an octave, from -127 on; -128 is 0, and only 0 is."""
  x = jnp.array([2.0, 1.0, 0.0, 1e-20])
  codes, scales = encode(x, ONE, NEVER, 'positive')
  np.testing.assert_array_equal(codes, [-127, -111, -128, 127])
  back = decode(codes, scales, ONE, 'positive')
  np.testing.assert_allclose(back[:2], x[:2], rtol=1e-6)
  np.testing.assert_allclose(back[2:], [0.0, 2.0 * 2 ** (-254 / 16)], rtol=1e-6)


def test_which_way_a_number_goes_is_drawn():
  """1.5 lies between 2^(5/8) and 2^(4/8): a share of the way, in the mean."""
  x = jnp.array([4.0, 1.5, 1.5, 1.5])
  low, high = 4 * 2 ** (-12 / 8), 4 * 2 ** (-11 / 8)
  share = (1.5 - low) / (high - low)
  draws = jnp.array([0.5, share - 0.01, share + 0.01, 0.999])
  codes, scales = encode(x, ONE, draws)
  np.testing.assert_array_equal(codes, [1, 12, 13, 13])
  np.testing.assert_allclose(
    decode(codes, scales, ONE)[1:3], [high, low], rtol=1e-6
  )


def test_blocks_have_scales_of_their_own_and_hide_no_nan():
  x = jnp.array([[1.0, 100.0], [2.0, jnp.nan], [0.5, 3.0], [0.25, jnp.inf]])
  how = Blocks(0, 2)
  codes, scales = encode(x, how, jnp.full(x.shape, 0.999))
  assert scales.shape == (2, 2)
  np.testing.assert_array_equal(scales[:, 0], [2.0, 0.5])
  back = decode(codes, scales, how)
  np.testing.assert_allclose(back[:, 0], x[:, 0], rtol=1e-6)
  assert not np.isfinite(back[:, 1]).any()


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.1, 6.0))
def test_the_error_of_a_block_is_bounded(seed, spread):
  """A share of each number; of the block's largest where it is tiny."""
  rng = np.random.default_rng(seed)
  x = np.exp(spread * rng.standard_normal((6, 32))).astype(np.float32)
  draw = jnp.asarray(rng.random((6, 32)), jnp.float32)
  how = Blocks(1, 16)
  largest = np.repeat(x.reshape(6, 2, 16).max(-1), 16, axis=1)
  for kind, per, last in (('signed', 8, 126), ('positive', 16, 254)):
    signs = rng.choice([-1.0, 1.0], x.shape) if kind == 'signed' else 1.0
    back = decode(*encode(jnp.asarray(signs * x), how, draw, kind), how, kind)
    share = 2 ** (1 / per) - 1
    tiny = largest * 2 ** (-last / per)
    assert np.all(np.abs(back - signs * x) <= 1.001 * (share * x + tiny))
    if kind == 'positive':
      assert np.all(np.asarray(back) > 0)


def test_rounding_is_right_in_the_mean():
  """Also of bfloat16; nearest rounding would be off by up to half a step."""
  draws = (jnp.arange(4096) + 0.5) / 4096
  for value in (0.3, 0.77, 1e-4, 1e-5):
    x = jnp.full(4096, value).at[0].set(1.0)
    # What is smaller than the smallest positive code becomes that.
    for kind in ('signed', 'positive')[: 2 if value > 2e-5 else 1]:
      back = decode(*encode(x, Blocks(0, 4096), draws, kind), ONE_ALL, kind)
      np.testing.assert_allclose(back[1:].mean(), value, rtol=2e-3)
  bits = jnp.arange(65536, dtype=jnp.uint32)
  for value in (0.3, -0.77, 1e-5):
    half = optim_moments._half(jnp.full(65536, value), bits)
    np.testing.assert_allclose(
      half.astype(jnp.float32).mean(), value, rtol=1e-5
    )


ONE_ALL = Blocks(0, 4096)


def test_where_blocks_lie():
  """Along what is not split; never across layers or borders of shards."""
  of = lambda name, shape, *spec: blocks(name, shape, P(*spec))
  query = of('layers/query', (28, 1024, 16, 128), None, 'fsdp', 'tensor', None)
  assert query == Blocks(3, 128)
  down = of('layers/down', (28, 8960, 1536), None, 'tensor', 'fsdp')
  assert down == Blocks(1, 16 if 8960 % (32 * 16) else 32)
  assert 8960 // 16 % down.size == 0
  assert of('unembed', (4096, 128256), 'fsdp', 'tensor') == Blocks(1, 16)
  # Nothing else than fsdp can be cut.
  assert of('x', (4096, 3), 'fsdp', None) == Blocks(0, 16)
  assert of('x', (4096, 3)) == Blocks(0, 128)
  # Kept in float32: embeddings, norms, what is small or odd.
  assert of('embed/tokens', (4096, 64)) is None
  assert of('layers/mlp_norm', (64, 4096)) is None
  assert of('x', (63, 65)) is None
  assert of('x', (4097, 3)) is None


def optimizer_config(**changes):
  fields = dict(
    name='adamw', lr=1e-2, schedule='constant', warmup_updates=0,
    warmup_ratio=0.0, final_fraction=0.0, weight_decay=0.01,
    l2_to_start=0.0, b1=0.9, b2=0.95, eps=1e-8, max_grad_norm=1.0, freeze=(),
    moments='params',
  )  # fmt: skip
  return types.SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
  'name',
  [
    'adamw',
    *(pytest.param(x, marks=pytest.mark.long) for x in ('lion', 'sgd')),
  ],
)
def test_fifty_updates_are_near_those_in_float32(name):
  """A regression of 64 x 64 weights, of which each input has a size of its own:
  second moments of a block lie four decades apart."""
  rng = np.random.default_rng(0)
  size = jnp.asarray(10 ** rng.uniform(-1, 1, 64), jnp.float32)
  x = jnp.asarray(rng.standard_normal((256, 64)), jnp.float32)
  x = x * size[None]
  y = x @ jnp.asarray(rng.standard_normal((64, 64)) / 8, jnp.float32)
  loss = lambda params: jnp.mean(jnp.square(x @ params['w'] - y))
  rate = {'adamw': 1e-2, 'lion': 3e-3, 'sgd': 1e-2}[name]

  def final(moments):
    start = {'w': jnp.zeros((64, 64))}
    optimizer = optim.make_optimizer(
      optimizer_config(name=name, lr=rate, moments=moments), start, 50
    )

    def step(carry, _):
      params, state = carry
      value, grads = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), value

    carry = start, optimizer.init(start)
    (params, _), losses = jax.lax.scan(step, carry, length=50)
    return losses[0], loss(params)

  run = jax.jit(final, static_argnums=0)
  first, plain = run('params')
  assert plain < 0.5 * first
  same = run('float32')[1]
  np.testing.assert_array_equal(same, plain)
  np.testing.assert_allclose(run('bfloat16')[1], plain, rtol=0.02)
  np.testing.assert_allclose(run('int8')[1], plain, rtol=0.1)


MODEL = ModelConfig(
  vocab_size=64, num_layers=2, width=256, num_heads=4, num_kv_heads=4,
  head_dim=64, mlp_dim=256, tie_embeddings=False,
)  # fmt: skip


def state_of(moments):
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), MODEL))
  table = transformer.param_table(MODEL)
  optimizer = optim.make_optimizer(
    optimizer_config(moments=moments), params, 9,
    specs={path: param.spec for path, param in table.items()},
  )  # fmt: skip
  return optimizer, params, jax.eval_shape(optimizer.init, params)


def test_bytes_of_a_parameter():
  """Of what is coded: 8 become 2 and scales, or 4 in 16 bits."""
  count = sum(
    x.size
    for name, x in trees_of(state_of('params')[1]).items()
    if name.startswith('layers/') and 'norm' not in name
  )

  def held(moments):
    found = trees_of(state_of(moments)[2])
    return sum(
      x.size * x.dtype.itemsize
      for name, x in found.items()
      if 'layers/' in name and 'norm' not in name
    )

  assert held('params') == held('float32') == 8 * count
  assert held('bfloat16') == 4 * count
  # Blocks of 64 of query, key, value and output, of 16 of the MLP.
  assert held('int8') / count == pytest.approx(2 + 8 * (4 / 64 + 3 / 16) / 7)


def trees_of(tree):
  return dict(zip(trees.names(tree), jax.tree.leaves(tree)))


def test_moments_are_split_as_their_parameters():
  mesh = jax.make_mesh(
    (1, 4, 2), ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3
  )
  _, params, state = state_of('int8')
  specs = transformer.param_specs(MODEL)
  own = trees_of(sharding.state_shardings(params, specs, mesh))
  found = trees_of(sharding.state_shardings(state, specs, mesh))
  count = 0
  for name, place in found.items():
    path = next((p for p in own if name.endswith('/' + p)), None)
    if path is not None:
      assert place.spec == own[path].spec, name
      count += 1
  # mu and nu of all, scales of the seven products of a layer, which are coded.
  assert count == 2 * len(own) + 2 * 7


@pytest.mark.slow
def test_an_update_needs_no_other_device():
  """Blocks lie within shards: the same numbers, and nothing is sent."""
  mesh = jax.make_mesh(
    (1, 4, 2), ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3
  )
  optimizer, shapes, state = state_of('int8')
  specs = transformer.param_specs(MODEL)
  place = lambda tree: sharding.state_shardings(tree, specs, mesh)
  params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
  grads = transformer.init(jax.random.key(0), MODEL)
  # Clipping needs the norm of all.
  alone = optim_moments.stored(
    optax.scale_by_adam(),
    'int8',
    {p: x.spec for p, x in transformer.param_table(MODEL).items()},
  )
  one = jax.jit(alone.update)(grads, alone.init(params))
  state = jax.eval_shape(alone.init, params)
  split = jax.jit(
    alone.update,
    in_shardings=(place(params), place(state)),
    out_shardings=(place(params), place(state)),
  )
  lowered = split.lower(grads, state)
  text = lowered.compile().as_text()
  assert not any(
    word in text for word in ('all-', 'collective-permute', 'reduce-scatter')
  )
  many = split(grads, alone.init(params))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
    many, one,
  )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize('moments', ['int8', 'bfloat16'])
def test_two_steps_and_two_more_are_four(moments, tmp_path):
  """Bit for bit; the moments lie with the host."""
  items = [
    ('eval.every', '0'), ('eval.samples', '0'), ('log.tensorboard', 'false'),
    ('optimizer.moments', moments), ('offload.moments', 'true'),
    ('model.preset', 'pico'),
  ]  # fmt: skip
  config = config_lib.load('configs/sft.py:smoke', items)
  _, straight, _ = loop.train(config, tmp_path / 'straight')
  cut(tmp_path / 'straight', tmp_path / 'halves')
  _, resumed, _ = loop.train(config, tmp_path / 'halves')
  for tree in ('params', 'opt_state'):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(straight, tree), getattr(resumed, tree),
    )  # fmt: skip
  kinds = {
    (str(x.dtype), x.sharding.memory_kind)
    for x in jax.tree.leaves(resumed.opt_state)
    if x.ndim > 0
  }
  assert (moments, 'pinned_host') in kinds
  assert {kind for _, kind in kinds} == {'pinned_host'}
