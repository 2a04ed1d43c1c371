"""Decoding in a loop over layers is decoding layer by layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout_mesh import KEY, MODEL, SIZE, params_of, prompts_of

from posttrain_jax import rollout
from posttrain_jax.models import periods, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import adapters
from posttrain_jax.rollout import beam, decoders
from posttrain_jax.rollout.stream import Stream
from posttrain_jax.run import auto

EXPERTS = dict(num_experts=4, experts_per_token=2, expert_dim=24)
MODELS = {
  'alike': dict(scan_layers=True),
  'one layer': dict(num_layers=1),
  # Windows in a pattern, and a layer that is left over.
  'windows': dict(num_layers=5, sliding_window=3, full_layers=(1, 3)),
  'int8': dict(cache_dtype='int8', sliding_window=3, full_layers=(0,)),
  'experts': dict(num_layers=4, dense_layers=(0,), **EXPERTS),
  'bfloat16': dict(dtype='bfloat16'),
}

MARKS = {
  name: pytest.mark.long if name in ('int8', 'experts') else pytest.mark.slow
  for name in MODELS
  if name != 'windows'
}


def layers_of(config):
  return [
    (config.kind(i), config.rope_kind(i), config.sparse(i))
    for i in range(config.num_layers)
  ]


@pytest.mark.parametrize(
  'fields, expected',
  [
    (dict(num_layers=28), (0, 1, 28)),
    (dict(num_layers=1), (0, 1, 1)),
    (dict(num_layers=6, sliding_window=4, full_layers=(1, 3, 5)), (0, 2, 3)),
    (dict(num_layers=8, sliding_window=4, full_layers=(5,)), (0, 1, 5)),
    # Gemma 3: five with a window, one without.
    (dict(num_layers=26, sliding_window=4, full_layers=(5, 11, 17, 23)),
     (0, 6, 4)),
    (dict(num_layers=9, dense_layers=(0,), **EXPERTS), (1, 1, 8)),
    (dict(num_layers=8, nope_layers=(3, 7)), (0, 4, 2)),
    (dict(num_layers=3, nope_layers=(1,)), (0, 3, 1)),
  ],
)  # fmt: skip
def test_the_shortest_pattern_is_found(fields, expected):
  config = dataclasses.replace(MODEL, **fields)
  found = periods.repeated(config)
  assert found == expected
  word = layers_of(config)
  for layer in range(found.first, found.end):
    inside = found.first + (layer - found.first) % found.size
    assert word[layer] == word[inside]


def _sample(config, params, **kinds):
  prompts, mask = prompts_of(3)
  return jax.jit(
    lambda params: rollout.generate(
      params, config, prompts, mask, KEY, group_size=2, max_new_tokens=SIZE,
      decoder=decoders.sample, eos_id=5, **kinds,
    )
  )(params)  # fmt: skip


def _pair(**fields):
  apart = dataclasses.replace(MODEL, **fields)
  return apart, dataclasses.replace(apart, scan_decode=True)


def _alike(found, expected, atol=1e-6):
  np.testing.assert_array_equal(found.completion, expected.completion)
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_allclose(found.logps, expected.logps, atol=atol)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=MARKS[name]) if name in MARKS else name
    for name in MODELS
  ],
)
def test_completions_are_the_same(name):
  apart, stacked = _pair(**MODELS[name])
  params = params_of(apart)
  expected = _sample(apart, params)
  assert 0 < expected.finished.mean() < 1
  atol = 0.02 if name == 'bfloat16' else 1e-5
  _alike(_sample(stacked, params), expected, atol)


@pytest.mark.parametrize(
  'kinds',
  [
    pytest.param({'slots': 2}, marks=pytest.mark.long),
    pytest.param({'stages': 3}, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_slots_and_stages_too(kinds):
  apart, stacked = _pair(**MODELS['windows'])
  params = params_of(apart)
  _alike(_sample(stacked, params, **kinds), _sample(apart, params))


@pytest.mark.slow
def test_beams_and_streams_too():
  apart, stacked = _pair()
  params, asked = params_of(apart), prompts_of(3)

  def search(config):
    found, _ = jax.jit(
      lambda params: beam.search(
        params, config, *asked, beams=3, max_new_tokens=SIZE, eos_id=5
      )
    )(params)
    return found

  _alike(search(stacked), search(apart))

  def said(config):
    stream = Stream(params, config, decoder=decoders.sample, eos_id=5)
    return list(stream([3, 7, 9], KEY, max_new_tokens=SIZE))

  assert said(stacked) == said(apart)


@pytest.mark.long
def test_adapters_with_a_magnitude_too():
  apart, stacked = _pair()
  adapter = adapters.dora(
    rank=2, alpha=4.0, targets=('layers/query', 'layers/up')
  )
  params = adapter.attach(params_of(apart), jax.random.key(1))
  noisy = lambda x: x + 0.1 * jax.random.normal(KEY, x.shape)
  for name in ('query', 'up'):
    node = params['layers'][name]
    params['layers'][name] = node.replace(b=noisy(node.b))
  _alike(_sample(stacked, params), _sample(apart, params), 1e-5)


def test_programs_are_as_long_whatever_the_depth():
  def lines(layers, **fields):
    config = dataclasses.replace(MODEL, num_layers=layers, **fields)
    shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
    prompts, mask = prompts_of(3)
    run = lambda params: rollout.generate(
      params, config, prompts, mask, KEY, group_size=2, max_new_tokens=SIZE,
      decoder=decoders.sample, eos_id=5,
    )  # fmt: skip
    return len(jax.jit(run).lower(shapes).as_text().splitlines())

  scanned = [lines(n, scan_layers=True, scan_decode=True) for n in (3, 9)]
  assert scanned[0] == scanned[1] < lines(9)


def test_layers_that_are_apart_are_refused():
  apart, stacked = _pair()
  params = transformer.unstack(params_of(apart), apart)
  with pytest.raises(ValueError, match='the layers are not stacked'):
    _sample(stacked, params)


@pytest.mark.parametrize(
  'value, layers, backend, expected',
  [
    ('auto', 28, 'tpu', True),
    ('auto', 4, 'tpu', False),
    ('auto', 28, 'cpu', False),
    ('auto', 28, 'gpu', False),
    (True, 1, 'cpu', True),
    (False, 80, 'tpu', False),
  ],
)
def test_what_auto_takes(value, layers, backend, expected):
  assert auto.scan_decode(value, layers, backend) is expected


def test_a_stack_is_filled_and_read_as_layers_are():
  config = ModelConfig(
    vocab_size=16, num_layers=3, width=16, num_heads=2, num_kv_heads=2,
    head_dim=8, mlp_dim=16, sliding_window=2, full_layers=(1,),
  )  # fmt: skip
  params = transformer.init(jax.random.key(0), config)
  tokens, mask = jnp.array([[3, 4, 5, 6], [7, 8, 0, 0]]), jnp.ones((2, 4))
  mask = mask.at[1, 2:].set(0)
  made = {}
  for scan in (False, True):
    own = dataclasses.replace(config, scan_decode=scan)
    cache = transformer.init_cache(own, 2, 4)
    made[scan] = transformer.apply(params, own, tokens, mask=mask, cache=cache)
  cache, stacked = made[False][1], made[True][1]
  for kind, numbers in {'full': (1,), 'window': (0, 2)}.items():
    for place, layer in enumerate(numbers):
      np.testing.assert_array_equal(
        stacked.keys[kind][place], cache.keys[layer]
      )
      np.testing.assert_array_equal(
        stacked.values[kind][place], cache.values[layer]
      )
