"""Adapters: what they compute, and bases in few bits."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from posttrain_jax.models import adapted, dropout, layers, nf4, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import adapters

MODEL = ModelConfig(
  vocab_size=11, num_layers=2, width=8, num_heads=2, num_kv_heads=1,
  head_dim=4, mlp_dim=12,
)  # fmt: skip
KEY = jax.random.key(0)
KINDS = {
  'lora': adapters.lora(rank=2, alpha=4.0),
  'dora': adapters.dora(rank=2, alpha=4.0),
  'int8': adapters.dora(rank=2, base='int8'),
  'nf4': adapters.lora(
    rank=2, targets=('layers/query', 'layers/d.*'), base='nf4'
  ),
}
# No more than tracing and one small program each: most of a test is compiling.
RNG = np.random.default_rng(0)


def fresh(model=MODEL, dtype=np.float32):
  """Parameters as NumPy arrays."""
  table = transformer.param_table(model)
  flat = {
    path: RNG.normal(size=p.shape, scale=p.shape[-1] ** -0.5).astype(dtype)
    for path, p in sorted(table.items())
  }
  return traverse_util.unflatten_dict(flat, sep='/')


BASE = fresh()
TOKENS = RNG.integers(0, 11, (2, 6)).astype(np.int32)


def moved(params, by=0.3):
  """The same with an adapter that does something."""
  change = lambda x: (
    np.asarray(x) + by * RNG.normal(size=x.shape).astype(x.dtype)
  )
  return adapted.join(jax.tree.map(change, adapted.trained(params)), params)


@functools.cache
def attached(name):
  return jax.jit(KINDS[name].attach)(BASE, jax.random.key(1))


@jax.jit
def logits(params):
  return transformer.apply(params, MODEL, TOKENS)[0]


def close(a, b, **bounds):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **bounds), a, b)


# ---- What is computed.


@pytest.mark.parametrize('name', ['lora', 'dora'])
def test_a_fresh_adapter_changes_nothing(name):
  params = attached(name)
  for path in KINDS[name].paths(adapters.shapes_of(BASE)):
    a = np.asarray(traverse_util.flatten_dict(params, sep='/')[path].a)
    bound = 1 / math.sqrt(a[0, ..., 0].size)
    assert 0.8 * bound < np.abs(a).max() <= bound
  # DoRA divides a length by itself.
  atol = 5e-6 if name == 'dora' else 0
  np.testing.assert_allclose(logits(params), logits(BASE), rtol=0, atol=atol)


@pytest.mark.parametrize('name', ['dora', 'int8', 'nf4'])
def test_merged_weights_give_the_same(name):
  params = moved(attached(name))
  whole = jax.jit(adapted.merged)(params)
  assert jax.tree.structure(whole) == jax.tree.structure(BASE)
  found, bare = np.asarray(logits(params)), np.asarray(logits(BASE))
  np.testing.assert_allclose(found, logits(whole), atol=1e-5)
  assert np.abs(found - bare).max() > 1e-2
  # Off, it is the base: that in few bits where it is stored so.
  off = np.asarray(logits(adapted.off(params)))
  dense = jax.jit(lambda params: adapted.off(params, dense=True))(params)
  np.testing.assert_allclose(off, logits(dense), atol=2e-6)
  assert np.array_equal(off, bare) == (not KINDS[name].base)


@pytest.mark.parametrize('axes', [1, 2])
def test_dora_by_hand(axes):
  shape = {1: (5, 2, 3), 2: (2, 3, 4)}[axes]
  inside, outside = shape[:axes], shape[axes:]
  normal = lambda *size: RNG.normal(size=size)
  w, a, x = normal(*shape), normal(*inside, 3), normal(2, *inside)
  b, m = normal(3, *outside), normal(*outside)
  expected = np.zeros((2, *outside))
  for place in np.ndindex(*outside):
    column = np.array([
      w[(*i, *place)] + 0.5 * sum(a[(*i, r)] * b[(r, *place)] for r in range(3))
      for i in np.ndindex(*inside)
    ])  # fmt: skip
    unit = column / math.sqrt(sum(column**2))
    for row in range(2):
      dot = sum(c * v for c, v in zip(unit, x[row].reshape(-1)))
      expected[(row, *place)] = m[place] * dot

  @jax.jit
  def forms(w, a, b, m, x):
    node = adapted.Adapted(w, a, b, jnp.float64(0.5), m, axes=axes)
    # Settled for decoding it is the same, and merged the same matrix.
    ways = node, adapted.settled(node), node.merged()
    return [layers.product(x, way, axes) for way in ways]

  with jax.enable_x64(True):
    for found in forms(w, a, b, m, x):
      np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_product_over_other_axes_is_refused():
  node = jax.eval_shape(KINDS['lora'].attach, BASE, KEY)['layers']['output']
  with pytest.raises(ValueError, match='over 1 axes, not 2'):
    node.product(jnp.zeros((3, 2)), 1)


@pytest.mark.parametrize(
  'name', ['dora', pytest.param('lora', marks=pytest.mark.long)]
)
def test_gradients_are_those_of_the_merged_weights(name):
  """Of W + scale A B written out; DoRA's with its norm held still."""
  model = dataclasses.replace(
    MODEL, dtype='float64', param_dtype='float64', num_layers=1,
    scan_layers=False,
  )  # fmt: skip
  with jax.enable_x64(True):
    base = fresh(model, np.float64)
    params = moved(jax.jit(KINDS[name].attach)(base, KEY))
    parts = adapted.trained(params)
    scale = KINDS[name].scale

    def score(params):
      signals = transformer.token_logps(
        params, model, TOKENS, jnp.ones(TOKENS.shape)
      )
      return jnp.sum(signals.logps * jnp.linspace(0.5, 2.0, 6)[None])

    def written_out(parts):
      whole = dict(base['layers'])
      for key, part in parts['layers'].items():
        inner = adapters.MATRICES[key][0]
        delta = jnp.tensordot(part['a'][0], part['b'][0], 1) * scale
        made = base['layers'][key][0] + delta
        if 'magnitude' in part:
          norm = jnp.sqrt(jnp.sum(made**2, axis=tuple(range(inner))))
          gain = part['magnitude'][0] / jax.lax.stop_gradient(norm)
          made = made * gain[(None,) * inner]
        whole[key] = made[None]
      return score({**base, 'layers': whole})

    ours = lambda parts: score(adapted.join(parts, params))
    both = lambda parts: [
      jax.value_and_grad(f)(parts) for f in (ours, written_out)
    ]
    (value, gradient), (expected, theirs) = jax.jit(both)(parts)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    close(gradient, theirs, rtol=1e-8, atol=1e-11)
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) > 0.1


# ---- Few bits.


def test_int8_by_hand():
  w = np.array([[1.0, -0.5], [-2.0, 0.0], [0.011, 0.25]], np.float32)
  found = jax.jit(lambda w: adapted.Int8.of(w, 1))(w)
  np.testing.assert_allclose(found.scale, [2 / 127, 0.5 / 127], rtol=1e-6)
  # 63.5 is halfway between two, and goes to the even one.
  np.testing.assert_array_equal(
    found.values, np.array([[64, -127], [-127, 0], [1, 64]], np.int8)
  )


@pytest.mark.parametrize('shape, axes', [((128, 3), 1), ((2, 6, 5), 2)])
def test_nf4_takes_the_nearest_level_of_its_block(shape, axes):
  weight = RNG.normal(size=shape).astype(np.float32)

  @jax.jit
  def both(weight):
    found = adapted.NF4.of(weight, axes)
    return found, found.dense(jnp.float32)

  found, dense = both(weight)
  block = {128: 64, 6: 2}[shape[axes - 1]]
  assert found.codes.size * 2 == weight.size
  assert found.scale.size * block == weight.size
  levels = np.array(nf4.NF4_LEVELS)
  matrix = np.moveaxis(weight, axes - 1, 0)
  ours = np.moveaxis(np.asarray(dense), axes - 1, 0)
  for start in range(0, matrix.shape[0], block):
    part = matrix[start : start + block]
    top = np.abs(part).max(axis=0)
    unit = part / top
    near = levels[np.abs(unit[..., None] - levels).argmin(-1)] * top
    np.testing.assert_allclose(ours[start : start + block], near, rtol=1e-6)


@pytest.mark.parametrize('kind', [adapted.Int8, adapted.NF4])
def test_the_backward_pass_keeps_the_few_bits(kind):
  weight = RNG.normal(size=(64, 4, 8)).astype(np.float32)
  x = RNG.normal(size=(3, 64)).astype(np.float32)

  @jax.jit
  def both(weight, x):
    stored = kind.of(weight, 1)
    ways = stored, stored.dense(x.dtype)
    total = lambda x, w: jnp.sum(layers.product(x, w) ** 2)
    return [jax.value_and_grad(total)(x, way) for way in ways]

  few, plain = both(weight, x)
  close(few, plain, rtol=1e-5, atol=1e-5)
  stored = jax.eval_shape(lambda w: kind.of(w, 1), weight)
  back = jax.eval_shape(
    lambda x, w: jax.vjp(lambda x: layers.product(x, w), x)[1], x, stored
  )
  kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(back))
  assert 0 < kept < 0.5 * weight.nbytes


def test_bytes_of_a_base():
  wide = dataclasses.replace(MODEL, width=64, mlp_dim=256)
  base = jax.eval_shape(lambda: transformer.init(KEY, wide))

  def size(name):
    made = jax.eval_shape(adapters.lora(base=name, rank=1).attach, base, KEY)
    layers = adapted.off(made)['layers']
    held = [layers[key] for key in adapters.MATRICES]
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))

  whole = size('')
  assert size('int8') < 0.27 * whole
  # 4 bits, and 32 for a scale of each block; heads of 4 have short blocks.
  assert size('nf4') < 0.17 * whole


def test_targets_by_the_names_of_modules():
  shapes = adapters.shapes_in(MODEL)
  paths = lambda *names: set(adapters.lora(rank=1, targets=names).paths(shapes))
  assert paths('q_proj', 'v_proj') == {'layers/query', 'layers/value'}
  assert paths('self_attn.o_proj', 'mlp.down_proj') == {
    'layers/output', 'layers/down',
  }  # fmt: skip
  every = set(adapters.lora(rank=1).paths(shapes))
  assert paths('all-linear') == every
  # As PEFT: one name, two modules; and one that holds three of ours.
  assert paths('c_proj') == {'layers/output', 'layers/down'}
  assert paths('qkv_proj') == {'layers/query', 'layers/key', 'layers/value'}
  assert paths('q_proj', 'layers/(gate|up)') == {
    'layers/query', 'layers/gate', 'layers/up',
  }  # fmt: skip
  with pytest.raises(ValueError, match='"q_poj" matches no.*mean "q_proj"'):
    paths('q_poj')
  assert paths('embed_tokens', 'v_proj') == {'embed/tokens', 'layers/value'}


# ---- Dropout.


def dropping(rate=0.5, make=adapters.lora):
  kind = make(rank=2, alpha=4.0, dropout=rate)
  return moved(kind.attach(BASE, jax.random.key(1)))


def test_dropout_by_hand():
  """One layer's product: what A sees is dropped, and what is left is scaled."""
  params = dropout.dropped(dropping(), jax.random.key(3))
  node = jax.tree.map(lambda x: jnp.asarray(x)[0], params['layers']['query'])
  x = jnp.asarray(RNG.normal(size=(4, 6, 8)), jnp.float32)
  found = node.product(x, 1)
  key = jax.random.wrap_key_data(node.keep)
  kept = np.asarray(jax.random.bernoulli(key, 0.5, x.shape))
  assert 0.3 < kept.mean() < 0.7
  low = np.where(kept, np.asarray(x) / 0.5, 0.0) @ np.asarray(node.a)
  expected = np.einsum('btd,dhk->bthk', x, node.base)
  expected += np.einsum('btr,rhk->bthk', low, node.b) * float(node.scale)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  # Layers, matrices and keys have masks of their own.
  keeps = {
    np.asarray(row).tobytes()
    for key in (3, 4)
    for name in ('query', 'up')
    for row in dropout.dropped(dropping(), jax.random.key(key))['layers'][
      name
    ].keep
  }
  assert len(keeps) == 8


def test_dropout_of_dora_by_hand():
  """The base sees every input; lengths and low-rank part what is kept."""
  params = dropout.dropped(dropping(make=adapters.dora), jax.random.key(3))
  node = jax.tree.map(lambda x: jnp.asarray(x)[0], params['layers']['up'])
  x = jnp.asarray(RNG.normal(size=(4, 6, 8)), jnp.float32)
  key = jax.random.wrap_key_data(node.keep)
  kept = np.asarray(jax.random.bernoulli(key, 0.5, x.shape))
  shown = np.where(kept, np.asarray(x) / 0.5, 0.0)
  base, delta = np.asarray(node.base), np.asarray(node.a) @ np.asarray(node.b)
  delta = delta * float(node.scale)
  gain = np.asarray(node.magnitude) / np.linalg.norm(base + delta, axis=0)
  expected = x @ base + (gain - 1) * (shown @ base) + gain * (shown @ delta)
  np.testing.assert_allclose(node.product(x, 1), expected, atol=1e-4)
  assert np.abs(gain - 1).max() > 0.01


@pytest.mark.parametrize('make', [adapters.lora, adapters.dora])
def test_only_an_update_drops(make):
  params = dropping(make=make)
  assert dropout.drops(params) and not dropout.drops(dropping(0.0))
  apply = lambda params: transformer.apply(params, MODEL, TOKENS)[0]
  plain = apply(params)
  nodes = {**params['layers']}
  bare = {**params, 'layers': {
    k: x.replace(dropout=0.0) if isinstance(x, adapted.Adapted) else x
    for k, x in nodes.items()
  }}  # fmt: skip
  np.testing.assert_array_equal(plain, apply(bare))
  key = jax.random.key(3)
  one, again = (apply(dropout.dropped(params, key)) for _ in range(2))
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - plain).max() > 0.01
  # The mean over many masks of the low-rank part is that without any.
  node = jax.tree.map(lambda x: jnp.asarray(x)[0], params['layers']['up'])
  x = jnp.asarray(RNG.normal(size=(1, 8)), jnp.float32)
  keys = jax.random.key_data(jax.random.split(key, 4096))
  many = jax.vmap(lambda keep: node.replace(keep=keep).product(x, 1))(keys)
  spread = np.asarray(many).std(0) / 4096**0.5
  assert (np.abs(many.mean(0) - node.product(x, 1)) < 5 * spread + 1e-6).all()
