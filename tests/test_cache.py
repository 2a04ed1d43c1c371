"""The cache: windows, rings, stages, stored dtypes, against a full forward."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import rollout
from posttrain_jax.models import cache as cache_lib
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig, make_config
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.shared import Shared

PROMPTS = jax.random.randint(jax.random.key(1), (3, 6), 2, 32)
MASK = jnp.ones((3, 6)).at[1, 3:].set(0).at[2, 1:].set(0)
SIZE, G = 11, 2


def _model(**fields):
  config = make_config(
    'pico', vocab_size=32, num_layers=2, scan_layers=False, **fields
  )
  params = transformer.init(jax.random.key(0), config)
  return config, jax.tree.map(lambda x: 1.5 * x, params)


def _generate(config, params, **kinds):
  run = functools.partial(
    rollout.generate,
    config=config,
    group_size=G,
    max_new_tokens=SIZE,
    decoder=decoders.sample,
    eos_id=1,
    **kinds,
  )
  return jax.jit(lambda p: run(p, prompts=PROMPTS, prompt_mask=MASK,
                               key=jax.random.key(5)))(params)  # fmt: skip


def _gap(config, params, samples, shared=None):
  batch = rollout.assemble_groups(PROMPTS, MASK, samples)
  scored = score(params, config, batch, shared=shared)
  return float(jnp.abs((scored.logps - batch.old_logps) * batch.mask).max())


WINDOWS = {
  'all layers': dict(sliding_window=4),
  'one of two layers': dict(sliding_window=4, full_layers=(1,)),
  'itself alone': dict(sliding_window=1),
  'longer than anything': dict(sliding_window=64),
}


@pytest.mark.parametrize('name', WINDOWS)
@pytest.mark.parametrize('kinds', [{}, {'slots': 2}, {'stages': 3}], ids=str)
def test_the_sampler_is_the_learner(name, kinds):
  config, params = _model(**WINDOWS[name])
  samples = _generate(config, params, **kinds)
  assert float(samples.mask.sum()) > 30
  assert _gap(config, params, samples) < 5e-6
  # A prompt that is read once sees the same windows.
  assert _gap(config, params, samples, Shared(6, G)) < 5e-6


def test_a_window_changes_what_is_seen():
  config, params = _model()
  tokens = jax.random.randint(jax.random.key(2), (1, 9), 2, 32)
  near = dataclasses.replace(config, sliding_window=3, num_layers=1)
  full = dataclasses.replace(config, num_layers=1)
  params = {**params, 'layers': jax.tree.map(lambda x: x[:1], params['layers'])}
  apply = lambda config, tokens: transformer.apply(params, config, tokens)[0]
  # One layer: the last token sees the last three, whatever came before.
  changed = tokens.at[0, :6].add(1) % 32
  np.testing.assert_allclose(
    apply(near, tokens)[0, -1], apply(near, changed)[0, -1], atol=1e-6
  )
  assert np.abs(apply(full, tokens) - apply(full, changed))[0, -1].max() > 1e-3
  inside = tokens.at[0, 6].add(1) % 32
  moved = np.abs(apply(near, tokens) - apply(near, inside))[0, -1].max()
  assert moved > 1e-3


def test_scanned_layers_of_two_kinds_are_the_unrolled_ones():
  config, params = _model(sliding_window=2, full_layers=(0,))
  scanned = dataclasses.replace(config, scan_layers=True)
  tokens = jax.random.randint(jax.random.key(2), (2, 8), 2, 32)
  np.testing.assert_allclose(
    transformer.apply(params, scanned, tokens)[0],
    transformer.apply(params, config, tokens)[0],
    atol=1e-5,
  )


def test_windows_keep_no_more_than_their_window():
  config, _ = _model(sliding_window=4, full_layers=(1,))
  cache = transformer.init_cache(config, 2, 100, fixed=50)
  assert [k.shape[2] for k in cache.keys] == [4 + 4, 150]
  assert {k: v.shape[1] for k, v in cache.positions.items()} == {
    'full': 150,
    'window': 8,
  }


def test_long_prompts_leave_the_last_window_of_each_row():
  config, params = _model(sliding_window=3)
  tokens = jax.random.randint(jax.random.key(2), (2, 8), 2, 32)
  mask = jnp.ones((2, 8)).at[1, 5:].set(0)
  cache = transformer.init_cache(config, 2, 8)
  _, cache = transformer.apply(params, config, tokens, mask=mask, cache=cache)
  kept = np.sort(np.asarray(cache.positions['window']), axis=1)
  np.testing.assert_array_equal(kept, [[5, 6, 7], [2, 3, 4]])
  # The next token overwrites the oldest of each row.
  at = cache_lib.next_columns(cache, config)['window']
  np.testing.assert_array_equal(cache.positions['window'][:, at], [5, 2])


@pytest.mark.parametrize(
  'dtype, least, most', [('bfloat16', 1e-4, 0.03), ('int8', 1e-4, 0.05)]
)
def test_stored_dtypes_are_near(dtype, least, most):
  config, params = _model(cache_dtype=dtype)
  samples = _generate(config, params)
  assert least < _gap(config, params, samples) < most
  other = _generate(config, params, slots=2)
  np.testing.assert_array_equal(
    samples.completion * samples.mask, other.completion * other.mask
  )


def test_int8_by_hand():
  cache = transformer.init_cache(
    ModelConfig(cache_dtype='int8', num_layers=1), 1, 2
  )
  new = jnp.zeros((1, 3, 1, 32)).at[0, 0, 0, :3].set(jnp.array([1.27, -0.5, 0]))
  found = cache_lib.encode(new, cache.keys[0])
  np.testing.assert_allclose(found.scale[0, :, 0], [0.01, 0, 0], rtol=1e-6)
  np.testing.assert_array_equal(found.values[0, 0, 0, :3], [127, -50, 0])


@pytest.mark.parametrize('stages', [2, 5, 11, 40])
def test_stages_change_nothing(stages):
  config, params = _model()
  expected = _generate(config, params)
  found = _generate(config, params, stages=stages)
  np.testing.assert_array_equal(found.completion, expected.completion)
  np.testing.assert_allclose(found.logps, expected.logps, atol=5e-6)


def test_what_cannot_be_is_refused():
  with pytest.raises(
    ValueError, match='cache_dtype="int4".*Did you mean "int8"'
  ):
    make_config('pico', cache_dtype='int4')
  with pytest.raises(ValueError, match='sliding_window=-1'):
    make_config('pico', sliding_window=-1)
  with pytest.raises(ValueError, match=r'no layer 9, only 0\.\.2'):
    make_config('pico', sliding_window=2, full_layers=[9])
