"""Rows whose positions lie on several devices: the same numbers as on one."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from posttrain_jax.models import attention, transformer
from posttrain_jax.models.attention import cudnn, kernels, splash
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.grouped import group_token_logps

B, G, P, C, T = 2, 2, 4, 8, 16
# Positions split over four devices, heads over two: 4 tokens to a device.
MESHES = {
  'sequence': dict(data=1, fsdp=1, tensor=2, sequence=4),
  'rows too': dict(data=1, fsdp=2, tensor=2, sequence=2),
}
MODELS = {
  'whole': {},
  'windows in some layers, blocks': dict(
    sliding_window=5, full_layers=(1,), attention_chunk=3, logit_chunk=4
  ),
  # Two key heads over a tensor axis of two, one over it.
  'one key head, cap': dict(num_kv_heads=1, attention_cap=1.5, remat='full'),
}


def model(name, **fields) -> ModelConfig:
  sizes = dict(
    vocab_size=32, num_layers=2, width=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24,
  )  # fmt: skip
  return ModelConfig(**{**sizes, **MODELS[name], **fields})


def whole(params, config):
  """Packed rows; segments cross the borders of devices, padding behind."""
  tokens = jax.random.randint(jax.random.key(2), (B, T), 0, 32)
  ids = jnp.array([[1] * 6 + [2] * 10, [1] * 3 + [2] * 10 + [0] * 3])
  places = jnp.array(
    [[*range(6), *range(10)], [*range(3), *range(10), 0, 0, 0]]
  )
  signals = transformer.token_logps(
    params, config, tokens, (ids > 0).astype(jnp.float32),
    positions=places, segment_ids=ids, entropy=True,
  )  # fmt: skip
  ramp = jnp.cos(jnp.arange(T))[None]
  return jnp.sum(ramp * signals.logps), (signals.logps, signals.entropy)


def grouped(params, config):
  draw = lambda key, *shape: jax.random.randint(
    jax.random.key(key), shape, 0, 32
  )
  up_to = lambda sizes, width: (
    jnp.arange(width)[None] < jnp.array(sizes)[:, None]
  )
  real = up_to([8, 2, 5, 0], C)
  signals = group_token_logps(
    params, config, draw(2, B, P), up_to([2, 4], P), draw(3, B * G, C),
    real, real.astype(jnp.float32),
  )  # fmt: skip
  ramp = jnp.cos(jnp.arange(C))[None]
  return jnp.sum(ramp * signals.logps), signals.logps


FORMS = {'whole': whole, 'grouped': grouped}


@functools.cache
def params(config):
  return transformer.init(jax.random.key(1), config)


def results(form, config, mesh=None):
  graded = jax.jit(
    jax.value_and_grad(FORMS[form], has_aux=True), static_argnums=1
  )
  plain = params(dataclasses.replace(config, attention='plain', remat='none'))
  if mesh is None:
    return graded(plain, config)
  axes = MESHES[mesh]
  made = jax.make_mesh(
    tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes)
  )
  with jax.set_mesh(made):
    return graded(plain, config)


def assert_equal(mine, theirs, atol=2e-5):
  assert np.abs(jax.tree.leaves(theirs[0][1])[0]).max() > 0.1
  for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, atol=atol)


LONG = ('whole', 'windows in some layers, blocks', 'rows too')


def cases():
  for how in ('plain', 'ring'):
    for case in itertools.product(FORMS, MODELS, MESHES):
      suite = 'long' if case == LONG else 'slow'
      yield pytest.param(how, *case, marks=[getattr(pytest.mark, suite)])


@pytest.mark.parametrize('how, form, name, mesh', cases())
def test_positions_on_several_devices(how, form, name, mesh):
  config = model(name)
  own = dataclasses.replace(config, attention=how)
  assert_equal(results(form, own, mesh), results(form, config))


@pytest.mark.slow
@pytest.mark.parametrize('kernel', ['cudnn', 'splash'])
def test_kernels_on_several_devices(kernel, monkeypatch):
  monkeypatch.setattr(splash, 'INTERPRET', True)
  monkeypatch.setattr(cudnn, 'IMPLEMENTATION', 'xla')
  monkeypatch.setattr(kernels, 'SHORT', 0)
  jax.clear_caches()
  config = model('windows in some layers, blocks')
  own = dataclasses.replace(config, attention=kernel)
  mine = results('whole', own, 'rows too')
  jax.clear_caches()
  assert_equal(mine, results('whole', config))


@pytest.mark.parametrize('how, chunk', [('plain', 0), ('ring', 0), ('ring', 3)])
def test_attention_alone(how, chunk):
  """Queries over four devices, one key head over two that share it; 13 and 3
  tokens do not divide."""
  config = model(
    'one key head, cap', sliding_window=6, attention=how, attention_chunk=chunk
  )
  keys = jax.random.split(jax.random.key(0), 3)
  q = jax.random.normal(keys[0], (B, 1, 4, 13, 8))
  k, v = (jax.random.normal(key, (B, 1, 16, 8)) for key in keys[1:])
  ids = jnp.where(jnp.arange(16)[None] < jnp.array([[5], [11]]), 1, 2)

  def total(q, k, v):
    sight = attention.Sight(3, 6)
    out = attention.attend_ids(q, k, v, ids[:, 3:], ids, sight, config)
    return jnp.sum(jnp.sin(out)), out

  made = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
  # A function of its own for each mesh: traces are kept by function.
  graded = lambda: jax.jit(lambda *given: made(*given))
  axes = MESHES['sequence']
  mesh = jax.make_mesh(
    tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes)
  )
  with jax.set_mesh(mesh):
    split = graded()
    mine = split(q, k, v)
    text = split.lower(q, k, v).as_text()
  if how == 'ring':  # no device has all keys, nor adds up their gradients
    assert 'stablehlo.collective_permute' in text
    assert not re.search('stablehlo.(all_gather|reduce_scatter)', text)
  else:
    # Keys and values are gathered, gradients summed to where these lie.
    assert text.count('stablehlo.reduce_scatter') == 2
    assert text.count('stablehlo.all_gather') >= 3
  for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(graded()(q, k, v))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_no_device_has_all_queries():
  """Scores of a device are [rows, heads, T / 4, T], never T x T."""
  config = model('whole')
  axes = MESHES['sequence']
  mesh = jax.make_mesh(
    tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes)
  )
  shapes = jax.eval_shape(lambda: params(config))
  with jax.set_mesh(mesh):
    made = jax.jit(jax.grad(lambda p: whole(p, config)[0])).lower(shapes)
    text = made.compile().as_text()
  assert f'{T // 4},{T}]' in text
  assert f'[{B},1,2,{T},{T}]' not in text
  assert f'[{B},2,2,{T},{T}]' not in text
