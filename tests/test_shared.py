"""Prompts read once for their group: the numbers are those of whole rows."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax import rollout
from posttrain_jax.core.types import Rollout
from posttrain_jax.models import transformer
from posttrain_jax.models.config import make_config
from posttrain_jax.run import build
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.shared import Shared

B, G, P, C = 3, 4, 5, 6
MODELS = {
  'plain': {},
  'grouped heads': dict(
    num_heads=4, num_kv_heads=2, qk_norm=True, qkv_bias=True, value_head=True
  ),
  'untied, scanned, recomputed': dict(
    tie_embeddings=False,
    scan_layers=True,
    remat=True,
    logit_chunk=4,
    attention_chunk=4,
  ),
}


def batch_of(prompt_lengths, lengths):
  rng = np.random.default_rng(0)
  mask = lambda sizes, width: jnp.asarray(
    np.arange(width) < np.asarray(sizes)[..., None], jnp.float32
  )
  real = mask(np.reshape(lengths, (B, G)), C)
  samples = Rollout(
    completion=jnp.asarray(rng.integers(0, 7, (B, G, C))),
    mask=real,
    logps=-real,
    finished=real[..., 0],
  )
  prompts = jnp.asarray(rng.integers(0, 7, (B, P)))
  return rollout.assemble_groups(prompts, mask(prompt_lengths, P), samples)


@functools.cache
def programs(name, parts):
  model = make_config(
    'depth-1', num_layers=2, vocab_size=7, dtype='float64',
    param_dtype='float64', **{'scan_layers': False, **MODELS[name]},
  )  # fmt: skip
  shared = Shared(P, G, parts)

  def total(params, batch, shared, size):
    signals = score(
      params, model, batch, 0.7, shared=shared, size=size,
      entropy=True, logits=True,
    )  # fmt: skip
    ramp = jnp.cos(jnp.arange(P + C))[None]
    out = jnp.sum(ramp * signals.logps) + jnp.sum(signals.entropy**2)
    out += 0.1 * jnp.sum(jnp.tanh(signals.logits) * batch.mask[..., None])
    if signals.values is not None:
      out += jnp.sum(ramp * signals.values)
    return out, signals.replace(logits=None)

  graded = jax.value_and_grad(total, has_aux=True)

  def both(params, batch):
    sizes = shared.sizes(batch)
    chosen = jax.lax.switch(
      shared.choice(batch),
      [functools.partial(graded, shared=shared, size=s) for s in sizes],
      params,
      batch,
    )
    return graded(params, batch, None, None), chosen, shared.choice(batch)

  with jax.enable_x64(True):
    params = transformer.init(jax.random.key(0), model)
    # Biases, norms and the head are not zeros or ones in a trained model.
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    params = jax.tree.map(
      lambda x, k: x + 0.3 * jax.random.normal(k, x.shape, x.dtype),
      params,
      keys,
    )
  return jax.jit(both), params


@pytest.mark.parametrize('name, parts', [(n, 3) for n in MODELS])
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
  prompt_lengths=st.lists(st.integers(1, P), min_size=B, max_size=B),
  lengths=st.lists(st.integers(0, C), min_size=B * G, max_size=B * G),
)
def test_numbers_and_gradients_of_whole_rows(
  name, parts, prompt_lengths, lengths
):
  program, params = programs(name, parts)
  with jax.enable_x64(True):
    plain, found, choice = program(params, batch_of(prompt_lengths, lengths))
  limits = [29, 58]
  real = sum(prompt_lengths) + sum(lengths)
  assert choice == sum(real > limit for limit in limits)
  for expected, array in zip(jax.tree.leaves(plain), jax.tree.leaves(found)):
    np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
  'recipe, items',
  [
    ('luffy', [('token_buckets', '2')]),
    pytest.param(
      'ppo',
      [('token_buckets', '3'), ('max_new_tokens', '9')],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_step_is_the_same_step(recipe, items):
  """Whole steps, long rows with little in them: a small stream is enough."""

  def step(*more):
    loaded = recipe_runs.load('rl', recipe, *recipe_runs.SIZES, *more)
    run = build.build(loaded)
    start = recipe_runs.start_of(run)
    return jax.jit(run.step)(run.init(start), recipe_runs.KEY)

  rows = [item for item in items if item[0] != 'token_buckets']
  plain, metrics = step(('share_prompts', 'false'), *rows)
  found, seen = step(*items)
  for name in ('loss', 'grad_norm', 'reward', 'entropy'):
    np.testing.assert_allclose(seen[name], metrics[name], rtol=1e-4, atol=1e-6)
  for mine, theirs in zip(
    jax.tree.leaves(found.params), jax.tree.leaves(plain.params)
  ):
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(
  'items, message',
  [
    ([('token_buckets', '0')], 'token_buckets=0 is not'),
    (
      [('token_buckets', '2'), ('share_prompts', 'false')],
      'token_buckets=2 is of shared prompts',
    ),
    (
      [('token_buckets', '2'), ('microbatch_rows', '4')],
      'a multiple of the 8 rows of a problem',
    ),
    (
      [('token_buckets', '2'), ('mesh.data', '3')],
      'cannot be split into streams of 3 devices of the mesh data=3 x fsdp=1',
    ),
  ],
)
def test_what_cannot_be_a_stream_is_refused(items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(recipe_runs.load('rl', 'grpo', *items))
