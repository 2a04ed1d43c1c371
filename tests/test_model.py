"""The decoder: causality, cached decode, scan, packing, scoring, sharding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.models import attention, rope, transformer
from posttrain_jax.models.config import ModelConfig, RopeScaling, make_config

CONFIGS = {
  'llama': dict(
    num_kv_heads=1, rope_scaling=RopeScaling(2.0, 1.0, 4.0, 16), max_length=64
  ),
  'qwen2': dict(qkv_bias=True, num_kv_heads=2),
  'qwen3': dict(qk_norm=True, tie_embeddings=False, head_dim=8),
}


apply = jax.jit(transformer.apply, static_argnums=1)
token_logps = jax.jit(
  transformer.token_logps,
  static_argnums=1,
  static_argnames=('entropy', 'logits'),
)


def tiny(**fields) -> ModelConfig:
  sizes = dict(
    vocab_size=32, num_layers=2, width=16, num_heads=2, num_kv_heads=2,
    head_dim=4, mlp_dim=24,
  )  # fmt: skip
  return ModelConfig(**{**sizes, **fields})


def noisy(key, config):
  """Parameters far from their initial values: biases and norms matter."""
  params = transformer.init(key, config)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  noise = lambda k, x: x + 0.3 * jax.random.normal(k, x.shape)
  return tree.unflatten([noise(k, x) for k, x in zip(keys, leaves)])


@pytest.fixture(params=CONFIGS, scope='module')
def model(request):
  config = tiny(**CONFIGS[request.param])
  params = noisy(jax.random.key(1), config)
  tokens = jax.random.randint(jax.random.key(2), (3, 9), 0, 32)
  full = apply(params, config, tokens)
  return config, params, tokens, full[0]


def test_later_tokens_do_not_change_earlier_logits(model):
  config, params, tokens, full = model
  changed = tokens.at[:, 5].add(1) % 32
  logits, _ = apply(params, config, changed)
  np.testing.assert_allclose(logits[:, :5], full[:, :5], atol=2e-6)
  assert np.abs(logits[:, 5:] - full[:, 5:]).max() > 1e-3


def test_cached_decode_is_the_full_forward(model):
  config, params, tokens, full = model
  cache = transformer.init_cache(config, 3, 9)
  first, cache = apply(params, config, tokens[:, :4], cache=cache)
  out = [first]
  for t in range(4, 9):
    logits, cache = apply(params, config, tokens[:, t : t + 1], cache=cache)
    out.append(logits)
  np.testing.assert_allclose(jnp.concatenate(out, 1), full, atol=2e-5)
  assert int(cache.length) == 9


def test_a_shared_prefix_is_read_in_place(model):
  config, params, tokens, full = model
  groups = jnp.concatenate([tokens, tokens.at[:, 5:].add(1) % 32], 1)
  rows = groups.reshape(6, 9)  # two completions of each of three prompts
  expected, _ = apply(params, config, rows)
  prefix = transformer.init_cache(config, 3, 5)
  _, prefix = apply(params, config, tokens[:, :5], cache=prefix)
  cache = transformer.init_cache(config, 6, 4, prefix)
  for t in range(5, 9):
    logits, cache = apply(
      params, config, rows[:, t : t + 1],
      positions=jnp.full((6, 1), t), cache=cache,
    )  # fmt: skip
    np.testing.assert_allclose(logits[:, 0], expected[:, t], atol=2e-5)


@pytest.mark.parametrize('fields', [{'scan_layers': False}, {'remat': True}])
def test_unrolled_and_rematerialised_are_the_scan(model, fields):
  config, params, tokens, full = model
  other = dataclasses.replace(config, **fields)
  loss = lambda params, config: jnp.sum(
    jnp.sin(transformer.apply(params, config, tokens)[0])
  )
  grad = jax.jit(jax.grad(loss), static_argnums=1)
  np.testing.assert_allclose(apply(params, other, tokens)[0], full, atol=1e-5)
  got, expected = grad(params, other), grad(params, config)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4), got, expected
  )


def test_packed_rows_are_their_sequences_alone(model):
  config, params, tokens, full = model
  packed = jnp.concatenate([tokens[0, :4], tokens[1, :5]])[None]
  segments = jnp.array([[1] * 4 + [2] * 5])
  positions = jnp.array([[*range(4), *range(5)]])
  logits, _ = apply(
    params, config, packed, positions=positions, segment_ids=segments
  )
  np.testing.assert_allclose(logits[0, :4], full[0, :4], atol=1e-5)
  np.testing.assert_allclose(logits[0, 4:], full[1, :5], atol=1e-5)


def test_padding_changes_nothing_whatever_its_id(model):
  config, params, tokens, full = model
  for pad in (0, int(tokens[0, 0])):
    padded = jnp.pad(tokens, ((0, 0), (0, 3)), constant_values=pad)
    mask = jnp.pad(jnp.ones(tokens.shape), ((0, 0), (0, 3)))
    logits, _ = apply(params, config, padded, mask=mask)
    np.testing.assert_allclose(logits[:, :9], full, atol=1e-5)
    assert np.all(np.isfinite(logits))


def test_token_logps_score_the_token_they_stand_at(model):
  config, params, tokens, full = model
  mask = jnp.ones(tokens.shape).at[1, 6:].set(0.0)
  signals = token_logps(
    params, config, tokens, mask, 0.7, entropy=True, logits=True
  )
  log_probs = jax.nn.log_softmax(full[:, :-1] / 0.7)
  expected = np.take_along_axis(
    np.asarray(log_probs), np.asarray(tokens)[:, 1:, None], 2
  )[..., 0]
  np.testing.assert_allclose(
    signals.logps[:, 1:], expected * mask[:, 1:], atol=1e-5
  )
  np.testing.assert_array_equal(signals.logps[:, 0], 0.0)
  entropy = -(np.exp(log_probs) * log_probs).sum(-1) * mask[:, 1:]
  np.testing.assert_allclose(signals.entropy[:, 1:], entropy, atol=1e-5)
  np.testing.assert_allclose(
    jax.nn.log_softmax(signals.logits[:, 1:]), log_probs, atol=1e-5
  )


def test_chunked_scoring_is_unchunked(model):
  """Of logits and of attention; 4 does not divide the 9 positions."""
  config, params, tokens, _ = model
  mask = jnp.ones(tokens.shape)
  other = dataclasses.replace(config, logit_chunk=4, attention_chunk=4)
  loss = lambda params, c: jnp.sum(
    jnp.cos(transformer.token_logps(params, c, tokens, mask).logps)
  )
  grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  got, expected = grad(params, other), grad(params, config)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
    got,
    expected,
  )


def attention_inputs(length, prefix):
  """(q, k, v, allowed, prefix_k, prefix_v, prefix_allowed): two prompts, three
  rows of each; 2 key heads of 2 queries; what is seen is drawn."""
  keys = iter(jax.random.split(jax.random.key(0), 8))
  normal = lambda *shape: jax.random.normal(next(keys), shape)
  seen = lambda *shape: jax.random.bernoulli(next(keys), 0.7, shape)
  causal = jnp.tril(jnp.ones((length, length), bool))[None]
  allowed = (
    seen(6, length, length) | jnp.eye(length, dtype=bool)[None]
  ) & causal
  return (
    normal(6, 2, 2, length, 4), normal(6, 2, length, 4),
    normal(6, 2, length, 4), allowed, normal(2, 2, prefix, 4),
    normal(2, 2, prefix, 4), seen(6, length, prefix),
  )  # fmt: skip


@pytest.mark.parametrize('chunk', [1, 3, 7])
def test_queries_in_blocks_are_all_queries(chunk):
  given = attention_inputs(7, 5)
  for count, dense, blocks in (
    (4, attention.attend, attention.attend_causal),
    (7, attention.attend_with_prefix, attention.attend_causal_with_prefix),
  ):
    np.testing.assert_allclose(
      blocks(*given[:count], chunk=chunk), dense(*given[:count]), atol=1e-6
    )


def test_blocks_of_queries_need_less_memory():
  """Scores of 8 rows of 512 tokens are 64 MB at a time, a block's 4 MB."""
  config = tiny(num_layers=1, max_length=0, remat=True)
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  tokens = jax.ShapeDtypeStruct((8, 512), jnp.int32)

  def needed(chunk):
    model = dataclasses.replace(config, attention_chunk=chunk)
    loss = lambda params, tokens: jnp.sum(
      token_logps(params, model, tokens, jnp.ones(tokens.shape)).logps
    )
    made = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return made.memory_analysis().temp_size_in_bytes

  assert needed(32) < needed(0) / 3


def test_sizes_of_blocks_are_not_negative():
  with pytest.raises(ValueError, match='attention_chunk=-1 is below 0'):
    tiny(attention_chunk=-1)


def test_bfloat16_is_near_float32(model):
  config, params, tokens, full = model
  half = dataclasses.replace(config, dtype='bfloat16')
  logits, _ = apply(params, half, tokens)
  assert logits.dtype == jnp.float32
  assert 0 < np.abs(logits - full).mean() < 0.05 * np.abs(full).mean()


def test_values_are_read_before_their_token():
  config = tiny(value_head=True)
  params = noisy(jax.random.key(3), config)
  tokens = jax.random.randint(jax.random.key(4), (2, 6), 0, 32)
  value = lambda tokens: (
    token_logps(params, config, tokens, jnp.ones((2, 6))).values
  )
  before = value(tokens)
  after = value(tokens.at[:, 4].add(1) % 32)
  np.testing.assert_allclose(before[:, :5], after[:, :5], atol=2e-6)
  assert np.all(np.abs(before[:, 5] - after[:, 5]) > 1e-6)


def test_the_table_declares_every_parameter():
  for fields in ({}, *CONFIGS.values(), {'value_head': True}):
    config = tiny(**fields)
    params = transformer.init(jax.random.key(0), config)
    assert transformer.param_count(config) == sum(
      x.size for x in jax.tree.leaves(params)
    )
    specs = transformer.param_specs(config)
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
    assert jax.tree.structure(params) == jax.tree.structure(
      specs, is_leaf=is_spec
    )


@pytest.mark.parametrize(
  'preset, low, high',
  [('pico', 0.18, 0.22), ('nano', 0.4, 0.5), ('micro', 1.0, 1.2),
   ('mini', 3.2, 3.8), ('small', 9.0, 10.0), ('depth-2', 0.1, 0.15)],
)  # fmt: skip
def test_preset_sizes_in_millions(preset, low, high):
  millions = transformer.param_count(make_config(preset)) / 1e6
  assert low < millions < high


def test_unknown_presets_and_fields_name_the_nearest():
  with pytest.raises(ValueError, match='Did you mean "micro"'):
    make_config('mircro')
  with pytest.raises(ValueError, match='Did you mean "num_layers"'):
    make_config('pico', num_layer=3)
  with pytest.raises(ValueError, match='num_kv_heads=3'):
    tiny(num_kv_heads=3)


def test_rope_by_hand():
  # Two channels: one pair, frequency 1. Position 1 rotates by one radian.
  config = tiny(head_dim=2)
  tables = rope.rope_tables(jnp.array([[0, 1]]), config)
  x = jnp.array([[[[1.0, 0.0]], [[1.0, 0.0]]]])
  rotated = rope.rope(x, tables)[0, :, 0]
  np.testing.assert_allclose(rotated[0], [1.0, 0.0], atol=1e-6)
  np.testing.assert_allclose(rotated[1], [np.cos(1), np.sin(1)], atol=1e-6)


def test_rope_scaling_slows_long_wavelengths_only():
  scaling = RopeScaling(8.0, 1.0, 4.0, 64)
  plain = rope.rope_frequencies(32, 10_000.0, None)
  scaled = rope.rope_frequencies(32, 10_000.0, scaling)
  wavelength = 2 * np.pi / plain
  short, long = wavelength < 64 / 4, wavelength > 64
  np.testing.assert_array_equal(scaled[short], plain[short])
  np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
  assert short.any() and long.any()


def test_gradient_of_attention_probabilities():
  """As automatic differentiation has it; a row that sees nothing gives 0."""
  scores = 3 * jax.random.normal(jax.random.key(0), (2, 5, 7))
  allowed = jax.random.bernoulli(jax.random.key(1), 0.6, scores.shape)
  allowed = allowed.at[0, 0].set(False)
  weigh = jax.random.normal(jax.random.key(2), scores.shape)

  def plain(scores):
    return jax.nn.softmax(jnp.where(allowed, scores, attention.MASKED), axis=-1)

  grad = lambda f: jax.grad(lambda x: jnp.sum(weigh * f(x)))(scores)
  mine = grad(lambda x: attention.softmax(x, allowed))
  np.testing.assert_allclose(mine, grad(plain), atol=1e-6)
  assert not np.any(mine[0, 0])
  assert np.any(mine)


@pytest.mark.parametrize('head_dim', [2, 6, 8])
def test_rope_tables(head_dim):
  """cos and sin of position * theta^(-2i / K), also for odd halves."""
  config = tiny(head_dim=head_dim, rope_theta=100.0)
  positions = jnp.array([[0, 3], [7, 1]])
  cos, sin = rope.rope_tables(positions, config)
  frequency = 100.0 ** (-np.arange(0, head_dim, 2) / head_dim)
  angle = np.array(positions)[..., None] * frequency[None, None]
  np.testing.assert_allclose(cos, np.cos(angle), atol=1e-5)
  np.testing.assert_allclose(sin, np.sin(angle), atol=1e-5)
