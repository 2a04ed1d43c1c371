"""Adapters of the table of embeddings and of the output matrix."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from posttrain_jax.core import trees
from posttrain_jax.models import adapted, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import adapters
from posttrain_jax.rollout import layout

TIED = ModelConfig(
  vocab_size=11, num_layers=1, width=8, num_heads=2, num_kv_heads=1,
  head_dim=4, mlp_dim=12, tie_embeddings=True, logit_chunk=4, dtype='float64',
  param_dtype='float64',
)  # fmt: skip
UNTIED = dataclasses.replace(
  TIED, tie_embeddings=False, logit_cap=5.0, scale_embedding=True
)
BOTH = ('embed_tokens', 'lm_head', 'q_proj')
CASES = {
  'tied': (TIED, adapters.lora(rank=2, targets=('embed/tokens', 'q_proj'))),
  'tied, few bits': (
    TIED, adapters.rslora(rank=2, targets=('embed_tokens', 'q_proj'),
                          base='int8'),
  ),
  'untied': (UNTIED, adapters.lora(rank=3, targets=BOTH, dropout=0.0)),
  'dora': (UNTIED, adapters.dora(rank=3, targets=BOTH)),
  'unembed': (UNTIED, adapters.lora(rank=1, targets=('unembed',))),
}  # fmt: skip
# One of each kind is quick.
LONG = ('tied, few bits', 'untied', 'unembed')
of_all = pytest.mark.parametrize(
  'name',
  [pytest.param(x, marks=pytest.mark.long) if x in LONG else x for x in CASES],
)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 11, (2, 6)).astype(np.int32)
LENGTH = TOKENS.shape[1]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


@functools.cache
def base_of(model):
  table = transformer.param_table(model)
  flat = {
    path: RNG.normal(size=p.shape, scale=p.shape[-1] ** -0.5)
    for path, p in sorted(table.items())
  }
  return traverse_util.unflatten_dict(flat, sep='/')


def attached(name):
  model, adapter = CASES[name]
  return model, jax.jit(adapter.attach)(base_of(model), jax.random.key(1))


def moved(params):
  change = lambda x: np.asarray(x) + 0.3 * RNG.normal(size=x.shape)
  return adapted.join(jax.tree.map(change, adapted.trained(params)), params)


def scores(params, model):
  """What scoring, reading and decoding say of the same tokens."""
  mask = jnp.ones(TOKENS.shape)
  signals = transformer.token_logps(params, model, TOKENS, mask)
  logits, _ = transformer.apply(params, model, TOKENS)
  _, weights = layout.weights(params, model)
  cache = transformer.init_cache(model, len(TOKENS), LENGTH)
  steps = []
  for t in range(LENGTH):
    one, cache = transformer.apply(
      weights, model, TOKENS[:, t : t + 1], cache=cache
    )
    steps.append(one[:, 0])
  return signals.logps, logits, jnp.stack(steps, 1)


@pytest.mark.parametrize(
  'name',
  [
    'tied',
    *(pytest.param(x, marks=pytest.mark.long) for x in ('untied', 'dora')),
  ],
)
def test_a_fresh_one_changes_nothing_and_learns(name):
  model, params = attached(name)
  score = lambda p: (
    transformer.token_logps(p, model, TOKENS, jnp.ones(TOKENS.shape)).logps
  )
  both = jax.jit(lambda p, q: (score(p), score(q)))
  found, bare = both(params, base_of(model))
  np.testing.assert_allclose(found, bare, atol=1e-12)
  table = params['embed']['tokens']
  assert not np.any(table.a) and np.std(table.b) > 0.3
  parts = adapted.trained(params)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(score(adapted.join(p, params)))))(
    parts
  )
  # One of the two matrices moves at once; only tokens that are there are.
  moves = np.abs(grads['embed']['tokens']['a']).sum(-1) > 0
  there = np.isin(np.arange(11), TOKENS[:, :-1])
  assert moves[there].all() and (
    model.tie_embeddings or not moves[~there].any()
  )
  if 'unembed' in parts:
    assert np.abs(grads['unembed']['b']).sum() > 0


@of_all
def test_it_is_the_merged_model(name):
  model, params = attached(name)
  params = moved(params)
  whole = jax.jit(adapted.merged)(params)
  assert jax.tree.structure(whole) == jax.tree.structure(base_of(model))
  run = jax.jit(lambda a, b: (scores(a, model), scores(b, model)))
  found, expected = run(params, whole)
  for ours, theirs in zip(found, expected):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  np.testing.assert_allclose(found[1], found[2], atol=1e-6)
  bare = transformer.apply(base_of(model), model, TOKENS)[0]
  assert np.abs(found[1] - bare).max() > 0.1


@pytest.mark.long
@pytest.mark.parametrize('name', ['tied', 'dora'])
def test_gradients_are_those_of_the_weights_written_out(name):
  model, params = attached(name)
  params = moved(params)
  parts, base = adapted.trained(params), base_of(model)
  scale = CASES[name][1].scale
  weights = np.linspace(0.5, 2.0, LENGTH)[None]

  def score(params):
    mask = jnp.ones(TOKENS.shape)
    signals = transformer.token_logps(params, model, TOKENS, mask)
    return jnp.sum(signals.logps * weights)

  def written_out(parts):
    flat = traverse_util.flatten_dict(base, sep='/')
    given = traverse_util.flatten_dict(parts, sep='/')
    for path in [x[:-2] for x in given if x.endswith('/a')]:
      made = flat[path] + scale * jnp.einsum(
        '...r,r...->...', given[f'{path}/a'], given[f'{path}/b']
      ) if path not in ('embed/tokens', 'unembed') else (
        flat[path] + scale * given[f'{path}/a'] @ given[f'{path}/b']
      )  # fmt: skip
      if f'{path}/magnitude' in given:
        norm = jnp.sqrt(jnp.sum(made**2, axis=0))
        gain = given[f'{path}/magnitude'] / jax.lax.stop_gradient(norm)
        made = made * gain[None]
      flat[path] = made
    return score(traverse_util.unflatten_dict(flat, sep='/'))

  parts = {k: v for k, v in parts.items() if k != 'layers'}
  fixed = adapted.trained(params)
  ours = lambda parts: score(adapted.join({**fixed, **parts}, params))
  base = {**base, 'layers': adapted.merged(params)['layers']}
  both = jax.jit(
    lambda p: [jax.value_and_grad(f)(p) for f in (ours, written_out)]
  )
  (value, gradient), (expected, theirs) = both(parts)
  np.testing.assert_allclose(value, expected, rtol=1e-7)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    gradient, theirs,
  )  # fmt: skip


def refused(adapter, model, *words):
  with pytest.raises(ValueError) as caught:
    adapter.paths(adapters.shapes_in(model))
  for word in words:
    assert word in str(caught.value)


def test_what_it_cannot_be_is_refused():
  lora, dora = adapters.lora, adapters.dora
  for name in ('lm_head', 'unembed', 'embed_out'):
    refused(lora(rank=1, targets=(name,)), TIED, name, '"embed_tokens"')
  refused(dora(rank=1, targets=('wte',)), TIED, 'dora', '"lora"')
  told = 'adapter.dropout=0.1', 'adapter.dropout=0.0'
  refused(lora(rank=1, targets=('embed_in',), dropout=0.1), TIED, *told)
  refused(lora(rank=1, targets=('unembed',), dropout=0.1), UNTIED, *told)
  # Tokens that are looked up are not dropped, as in PEFT.
  kept = lora(rank=1, targets=('embed_tokens', 'q_proj'), dropout=0.1)
  shapes = adapters.shapes_in(UNTIED)
  assert set(kept.paths(shapes)) == {'embed/tokens', 'layers/query'}
  made = jax.eval_shape(kept.attach, base_of(UNTIED), jax.random.key(0))
  assert made['embed']['tokens'].dropout == 0.0
  assert made['layers']['query'].dropout == 0.1
  learned = dataclasses.replace(TIED, positions='learned')
  refused(lora(rank=1, targets=('embed/.*',)), learned, 'embed/positions')
  refused(lora(rank=9, targets=('embed_tokens',)), TIED, '11 x 8', 'valid: 8')


def test_counts_and_every_linear_matrix():
  shapes = adapters.shapes_in(UNTIED)
  linear = adapters.lora(rank=1, targets=('all-linear',)).paths(shapes)
  assert not {'embed/tokens', 'unembed'} & set(linear)
  count = lambda kind, *names: kind(rank=2, targets=names).count(shapes)
  assert count(adapters.lora, 'embed_tokens') == 2 * (11 + 8)
  assert count(adapters.dora, 'lm_head') == 2 * (8 + 11) + 11
  assert count(adapters.dora, 'lm_head', 'embed_tokens') == 4 * 19 + 11 + 8


@pytest.mark.parametrize('name', ['tied, few bits', 'dora'])
def test_it_is_made_again_of_its_arrays(name):
  _, params = attached(name)
  flat = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    flat[trees.path_name(path)] = x
  saved = traverse_util.unflatten_dict(flat, sep='/')
  made = CASES[name][1].rebuilt(saved, 'float64')
  assert jax.tree.structure(made) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, made, params)
