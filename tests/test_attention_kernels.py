"""Attention by kernels is the plain form: segments, windows, caps, groups."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs

from posttrain_jax.models import attention, transformer
from posttrain_jax.models.attention import cudnn, kernels, splash
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.grouped import group_token_logps
from posttrain_jax.run import auto, build, notes

# Two key heads of two query heads each.
BASE = ModelConfig(
  vocab_size=32, num_layers=2, width=16, num_heads=4, num_kv_heads=2,
  head_dim=8, mlp_dim=24,
)  # fmt: skip
LONG = pytest.mark.long
MODELS = {
  'plain': {},
  'window': dict(sliding_window=5),
  'scale and cap': dict(query_scale=3.0, attention_cap=1.5),
  'windows in some layers, blocks': dict(
    sliding_window=4, full_layers=(1,), attention_chunk=4
  ),
}


@pytest.fixture
def anywhere(monkeypatch):
  """Kernels run here, and on rows however short."""
  monkeypatch.setattr(splash, 'INTERPRET', True)
  monkeypatch.setattr(cudnn, 'IMPLEMENTATION', 'xla')
  monkeypatch.setattr(kernels, 'SHORT', 0)
  # What was traced before does not know of it.
  jax.clear_caches()
  yield
  jax.clear_caches()


def inputs(length, offset=0, rows=2):
  """(q, k, v, q_ids, k_ids): packed rows with padding behind."""
  keys = jax.random.split(jax.random.key(0), 3)
  normal = lambda key, *shape: jax.random.normal(key, shape)
  total = offset + length
  q = normal(keys[0], rows, 2, 2, length, 8)
  k = normal(keys[1], rows, 2, total, 8)
  v = normal(keys[2], rows, 2, total, 8)
  place = jnp.arange(total)[None]
  cuts = jnp.array([[total // 3], [total // 2]])[:rows]
  ids = jnp.where(place < cuts, 1, 2)
  ids = jnp.where(place < total - jnp.array([[0], [3]])[:rows], ids, 0)
  return q, k, v, ids[:, offset:], ids


def by_masks(q, k, v, q_ids, k_ids, sight, config):
  query = sight.offset + jnp.arange(q.shape[3])[:, None]
  key = jnp.arange(k.shape[2])[None]
  seen = key <= query
  if sight.window:
    seen &= query - key < sight.window
  seen = seen[None] & (q_ids[:, :, None] == k_ids[:, None])
  return attention.attend(q, k, v, seen, attention.scores_of(config))


def assert_same(name, config, length, offset=0, window=0, rows=2, atol=2e-5):
  """Values and gradients; of padding, which no loss reads, neither."""
  q, k, v, *ids = inputs(length, offset, rows)
  sight = attention.Sight(offset, window)
  config = dataclasses.replace(config, attention=name)
  real = (ids[0] > 0)[:, None, None, :, None]

  def total(attend, q, k, v):
    out = jnp.where(real, attend(q, k, v, *ids, sight, config), 0.0)
    return jnp.sum(jnp.sin(out)), out

  def both(attend):
    graded = jax.value_and_grad(
      functools.partial(total, attend), argnums=(0, 1, 2), has_aux=True
    )
    return jax.jit(graded)(q, k, v)

  (_, out), grads = both(attention.attend_ids)
  (_, plain), wanted = both(by_masks)
  np.testing.assert_allclose(out, plain, atol=atol)
  assert np.abs(plain).max() > 0.1
  for mine, theirs in zip(grads, wanted):
    np.testing.assert_allclose(mine, theirs, atol=atol)


@pytest.mark.parametrize(
  'window, offset, chunk', [(0, 0, 0), (4, 0, 3), (0, 3, 3), (4, 3, 0)]
)
def test_by_structure_is_by_masks(window, offset, chunk):
  config = dataclasses.replace(
    BASE, attention_chunk=chunk, attention_cap=1.5, query_scale=3.0
  )
  assert_same('plain', config, 9, offset, window)


@pytest.mark.parametrize(
  'window, offset',
  [(4, 0), *(pytest.param(*x, marks=LONG) for x in ((0, 0), (0, 3), (4, 3)))],
)
def test_cudnns_call_is_by_masks(window, offset, anywhere):
  """9 queries: an odd number, which it cannot take."""
  assert_same('cudnn', BASE, 9, offset, window)


@pytest.mark.parametrize('ids, masked', [
  ([[1, 1, 1, 1], [1, 1, 0, 0]], False),
  ([[1, 1, 2, 2], [1, 1, 1, 1]], True),
  ([[1, 1, 1, 1], [1, 0, 0, 1]], True),
  ([[0, 1, 1, 1], [1, 1, 1, 1]], True),
])  # fmt: skip
def test_a_mask_is_made_where_causality_does_not_say_it(
  ids, masked, monkeypatch
):
  """By what cuDNN is asked for; one's answer is marked."""
  monkeypatch.setattr(cudnn, 'IMPLEMENTATION', 'xla')
  real = jax.nn.dot_product_attention

  def call(*args, mask=None, **how):
    return real(*args, mask=mask, **how) + (100.0 if mask is not None else 0.0)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', call)
  q, k, v, *_ = inputs(4)
  ids = jnp.array(ids)
  out = cudnn.over(q, k, v, ids, ids, 0, 0)
  assert (np.asarray(out).min() > 50) == masked


# 200 queries: padded to two blocks of queries and keys.
SPLASH = {
  'segments': ({}, 200, 0, 0),
  'window, scale and cap': (
    dict(query_scale=3.0, attention_cap=1.5), 200, 0, 40,
  ),
  'after a prefix': ({}, 100, 70, 0),
  'window after a prefix': (dict(attention_cap=2.0), 100, 70, 30),
}  # fmt: skip


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('window after a prefix', marks=pytest.mark.long),
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in SPLASH
      if name != 'window after a prefix'
    ),
  ],
)
def test_splash_is_by_masks(name, anywhere):
  fields, length, offset, window = SPLASH[name]
  config = dataclasses.replace(BASE, **fields)
  assert_same('splash', config, length, offset, window, rows=1)


B, G, P, C, T = 2, 2, 5, 7, 12


@functools.cache
def params():
  return transformer.init(jax.random.key(1), BASE)


def whole(params, config):
  """Packed rows with padding."""
  tokens = jax.random.randint(jax.random.key(2), (B, T), 0, 32)
  ids = jnp.array([[1] * 5 + [2] * 7, [1] * 3 + [2] * 6 + [0] * 3])
  places = jnp.array([[*range(5), *range(7)], [*range(3), *range(6), 0, 0, 0]])
  mask = (ids > 0).astype(jnp.float32)
  signals = transformer.token_logps(
    params, config, tokens, mask, positions=places, segment_ids=ids
  )
  ramp = jnp.cos(jnp.arange(T))[None]
  return jnp.sum(ramp * signals.logps), signals.logps


def grouped(params, config):
  """Prompts of 3 and 5 tokens, answers of 7, 2, 4 and 0."""
  draw = lambda key, *shape: jax.random.randint(
    jax.random.key(key), shape, 0, 32
  )
  up_to = lambda sizes, width: (
    jnp.arange(width)[None] < jnp.array(sizes)[:, None]
  )
  real = up_to([7, 2, 4, 0], C)
  signals = group_token_logps(
    params, config, draw(2, B, P), up_to([3, 5], P), draw(3, B * G, C),
    real, real.astype(jnp.float32),
  )  # fmt: skip
  ramp = jnp.cos(jnp.arange(C))[None]
  return jnp.sum(ramp * signals.logps), signals.logps


FORMS = {'whole': whole, 'grouped': grouped}
MIXED = ('grouped', 'windows in some layers, blocks')


def results(form, config):
  graded = jax.value_and_grad(FORMS[form], has_aux=True)
  return jax.jit(graded, static_argnums=1)(params(), config)


def assert_equal(mine, theirs, atol=2e-5):
  assert np.abs(theirs[0][1]).max() > 0.1
  for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
  'form, name',
  [
    pytest.param(
      form, name, marks=[pytest.mark.long if (form, name) == MIXED else
                         pytest.mark.slow],
    )
    for form in FORMS for name in MODELS
  ],
)  # fmt: skip
def test_models_with_a_kernel_are_models_without(form, name, anywhere):
  config = dataclasses.replace(BASE, **MODELS[name])
  kernel = dataclasses.replace(config, attention='cudnn')
  assert_equal(results(form, kernel), results(form, config))


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMS)
def test_models_with_splash_are_models_without(form, anywhere):
  """Also with layers that keep what it found, and its sums."""
  fields = MODELS['windows in some layers, blocks']
  config = dataclasses.replace(BASE, **fields)
  kernel = dataclasses.replace(
    config, attention='splash', remat='save_attention'
  )
  assert_equal(results(form, kernel), results(form, config))


def test_what_an_implementation_lacks():
  lacks = lambda name, **fields: attention.lacks(
    name, dataclasses.replace(BASE, **fields)
  )
  half = dict(dtype='bfloat16', head_dim=64)
  assert lacks('plain', attention_cap=5.0) == ''
  assert lacks('splash', attention_cap=5.0) == ''
  assert lacks('splash', dtype='float64') == 'dtype=float64'
  assert lacks('cudnn', **half) == ''
  assert lacks('cudnn') == 'dtype=float32'
  assert lacks('cudnn', **half, attention_cap=50.0) == 'attention_cap=50'
  assert lacks('cudnn', **{**half, 'head_dim': 256}) == 'head_dim=256'
  with pytest.raises(ValueError, match='Did you mean "splash"'):
    dataclasses.replace(BASE, attention='splsh')


def test_auto_takes_what_the_device_has_and_says_why():
  of = lambda backend, **fields: auto.attention(
    'auto', dataclasses.replace(BASE, **fields), backend
  )
  half = dict(dtype='bfloat16', head_dim=64)
  assert of('cpu') == ('plain', 'a CPU, for which there is no kernel')
  assert of('tpu') == ('splash', 'a TPU')
  assert of('gpu', **half) == ('cudnn', 'a GPU')
  name, why = of('gpu', **half, attention_cap=50.0)
  assert name == 'plain'
  assert why.startswith('cudnn has no attention_cap=50; all scores are in mem')
  _, why = of('gpu', **half, attention_cap=50.0, attention_chunk=256)
  assert why.endswith('scores of 256 queries at a time are in memory')
  assert auto.attention('cudnn', BASE, 'cpu') == ('cudnn', '')


def test_what_a_device_has_not_is_refused(monkeypatch):
  run = build.build(recipe_runs.load('sft', 'sft'))
  assert run.model.attention == 'plain'
  assert (
    'model.attention        plain: a CPU, for which there is no kernel'
    in (notes.chosen(run))
  )
  assert not any('attention' in line for line in notes.notes(run))
  asked = recipe_runs.load('sft', 'sft', ('model.attention', 'splash'))
  wrong = 'model.attention=splash: here is a CPU; nearest valid: plain'
  with pytest.raises(ValueError, match=wrong):
    notes.notes(build.build(asked))
  asked = recipe_runs.load('sft', 'sft', ('model.attention', 'ring'))
  wrong = 'attention=ring: mesh.sequence=1, a ring of one device; nearest'
  with pytest.raises(ValueError, match=wrong):
    notes.notes(build.build(asked))
  # A GPU, and a model in float32.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  told = 'attention of policy is the plain form: cudnn has no dtype=float32'
  assert any(line.startswith(told) for line in notes.notes(run))
