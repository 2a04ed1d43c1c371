"""Remat policies by name: the same gradients, less or more computed again."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.core import domain
from posttrain_jax.models import remat, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.grouped import group_token_logps
from posttrain_jax.run import auto, domains
from posttrain_jax.run import config as config_lib

L, D, H, N, K, F, V = 2, 16, 4, 2, 4, 24, 32
# Nothing is a multiple of another by accident: B rows of T, G completions each.
B, T, G, P, C = 2, 10, 2, 3, 5
MODEL = ModelConfig(
  vocab_size=V, num_layers=L, width=D, num_heads=H, num_kv_heads=N, head_dim=K,
  mlp_dim=F,
)  # fmt: skip


def whole(params, config):
  tokens = jax.random.randint(jax.random.key(2), (B, T), 0, V)
  signals = transformer.token_logps(
    params, config, tokens, jnp.ones(tokens.shape)
  )
  return jnp.sum(jnp.cos(signals.logps))


def grouped(params, config):
  prompts = jax.random.randint(jax.random.key(2), (B, P), 0, V)
  tokens = jax.random.randint(jax.random.key(3), (B * G, C), 0, V)
  lengths = jnp.array([2, 3])
  real = jnp.arange(P)[None] < lengths[:, None]
  ones = jnp.ones(tokens.shape)
  signals = group_token_logps(
    params, config, prompts, real, tokens, ones, ones, size=B * (P + G * C)
  )
  return jnp.sum(jnp.cos(signals.logps))


def flops(jaxpr) -> int:
  """2 x multiplications of every matrix product, loops times their length."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      left = eqn.invars[0].aval.shape
      depth = math.prod(left[axis] for axis in contracted)
      total += 2 * depth * math.prod(eqn.outvars[0].aval.shape)
    inner = sum(flops(x) for x in jax.core.jaxprs_in_params(eqn.params))
    total += inner * eqn.params.get('length', 1)
  return total


@functools.cache
def params():
  return transformer.init(jax.random.key(1), MODEL)


@functools.cache
def needed(form, name) -> int:
  config = dataclasses.replace(MODEL, remat=name)
  made = jax.make_jaxpr(jax.grad(form), static_argnums=1)(params(), config)
  return flops(made.jaxpr)


# Products of a layer's forward pass, for each of its tokens.
QKV = 2 * D * K * (H + 2 * N)
SCORES = 2 * H * K * T
OUT = 2 * H * K * D
UP = 2 * 2 * D * F
# What each policy computes again. The last product of a layer, down, is read by
# nothing in the backward pass.
AGAIN = {
  'none': 0,
  'dots': 0,
  'dots_no_batch': 2 * SCORES,
  'save_all_but_up': SCORES + UP // 2,
  'save_all_but_mlp': SCORES + UP,
  'save_branches': QKV + SCORES + UP,
  'save_attention': QKV + SCORES + OUT + UP,
  'full': QKV + 2 * SCORES + OUT + UP,
}


@pytest.mark.parametrize('name', remat.POLICIES)
def test_products_that_are_computed_again(name):
  again = needed(whole, name) - needed(whole, 'none')
  assert again == L * B * T * AGAIN[name]


@pytest.mark.parametrize('form', [whole, grouped])
def test_the_more_is_kept_the_less_is_computed_again(form):
  counts = [needed(form, name) for name in AGAIN if name != 'none']
  assert counts[0] == needed(form, 'none')
  assert sorted(set(counts)) == counts


@functools.cache
def gradient(form, name):
  config = dataclasses.replace(MODEL, remat=name)
  return jax.jit(jax.grad(form), static_argnums=1)(params(), config)


def cases():
  """(form, name): one is quick, some are long, all are slow."""
  for form in (whole, grouped):
    for name in remat.POLICIES:
      suite = (
        'long' if name in ('dots_no_batch', 'save_all_but_mlp') else 'slow'
      )
      quick = (form, name) == (whole, 'save_all_but_mlp')
      marks = [] if quick else [getattr(pytest.mark, suite)]
      if name != 'none':
        yield pytest.param(form, name, marks=marks)


@pytest.mark.parametrize('form, name', cases())
def test_gradients_are_the_same(form, name):
  for mine, plain in zip(
    jax.tree.leaves(gradient(form, name)),
    jax.tree.leaves(gradient(form, 'none')),
  ):
    np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-6)


def test_true_and_false_are_names():
  """Of models, of saved configs, and on the command line."""
  for flag, name in ((True, 'full'), (False, 'none')):
    assert dataclasses.replace(MODEL, remat=flag).remat == name
    saved = config_lib.load('configs/sft.py').to_dict()
    saved['model']['remat'] = flag
    assert config_lib.completed(saved).model.remat == name
    items = [('model.remat', str(flag))]
    assert config_lib.load('configs/sft.py', items).model.remat == name
    assert auto.remat(flag, 10**9) == name
  assert config_lib.load('configs/sft.py').model.remat == 'auto'
  assert auto.remat('auto', 10**6) == 'none'
  assert auto.remat('auto', 10**9) == 'full'


def test_unknown_names_have_a_nearest():
  with pytest.raises(ValueError, match='Did you mean "dots_no_batch"'):
    domains.KEYS['model.remat'].check('model.remat', 'dot_no_batch')
  with pytest.raises(ValueError, match='remat="ful"'):
    dataclasses.replace(MODEL, remat='ful')
  assert isinstance(domains.KEYS['model.remat'], domain.Flag)
