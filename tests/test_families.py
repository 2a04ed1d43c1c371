"""Numbers of every family of models: what transformers makes of it, here."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, LONG_ROPE, golden

from posttrain_jax import rollout
from posttrain_jax.models import grouped, hf, transformer
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers.objective import score

apply = jax.jit(transformer.apply, static_argnums=1)


def some_long(names, *long):
  """Names of the long set; the others are in the slow one."""
  mark = lambda name: pytest.mark.long if name in long else pytest.mark.slow
  return [pytest.param(name, marks=mark(name)) for name in names]


def logits_of(config, params, expected):
  """Of the ragged batch; 0 on padding."""
  tokens, lengths = expected['tokens'], expected['lengths']
  mask = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
  config = dataclasses.replace(config, scan_layers=True)
  logits, _ = apply(params, config, tokens, mask=mask)
  return np.where(mask[..., None], logits, 0.0)


@pytest.mark.parametrize('name', FAMILIES)
def test_logits_are_those_of_transformers(name):
  config, params, expected = golden(name)
  found = logits_of(config, params, expected)
  np.testing.assert_allclose(found, expected['logits'], atol=1e-4, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize(
  'name, change',
  [
    ('llama2', dict(rope_scaling=None)),
    ('qwen2_yarn', dict(rope_scaling=None)),
    ('mistral', dict(sliding_window=0)),
    ('qwen3', dict(full_layers=())),
    ('qwen3_moe', dict(norm_experts=False)),
    ('qwen3_moe', dict(experts_per_token=1)),
    ('gemma2', dict(attention_cap=0.0)),
    ('gemma2', dict(logit_cap=0.0)),
    ('gemma2', dict(query_scale=0.0)),
    ('gemma2', dict(scale_embedding=False)),
    ('gemma2', dict(norm='rms')),
    ('gemma2', dict(full_layers=(0, 2))),
    ('gemma3', dict(window_theta=0.0)),
    ('gemma3', dict(window_theta=10.0)),
    ('gemma3', dict(rope_scaling=None)),
    ('gemma3', dict(activation='silu')),
    ('smollm3', dict(nope_layers=())),
    ('smollm3', dict(nope_layers=(0, 2))),
    ('phi3', dict(long_rope=True)),
    ('phi3_long', dict(rope_theta=50.0)),
    ('gpt2', dict(norm_eps=1e-6)),
    ('pythia', dict(parallel=False)),
    ('pythia', dict(rotary_dim=0)),
    ('neox_serial', dict(parallel=True)),
  ],
)
def test_goldens_tell_a_wrong_config(name, change):
  config, params, expected = golden(name)
  wrong = logits_of(dataclasses.replace(config, **change), params, expected)
  assert np.abs(wrong - expected['logits']).max() > 0.03


@pytest.mark.parametrize('name', some_long(FAMILIES, 'gemma3'))
def test_scanned_layers_are_the_unrolled_ones(name):
  """Values and gradients, rematerialised, in blocks of queries and logits."""
  config, params, expected = golden(name)
  tokens = expected['tokens'][:, :11]
  mask = jnp.arange(11)[None] < expected['lengths'][:, None]

  def loss(params, config):
    found = transformer.token_logps(
      params, config, tokens, mask.astype(jnp.float32), segment_ids=mask * 1
    )
    return jnp.sum(jnp.sin(found.logps))

  other = dataclasses.replace(
    config, scan_layers=True, remat=True, attention_chunk=4, logit_chunk=4
  )
  grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  got, usual = grad(params, other), grad(params, config)
  np.testing.assert_allclose(got[0], usual[0], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(usual[1])):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-3)
    assert np.any(b)


def generated(config, params, expected, **kinds):
  """Completions [3, 12] of the golden's prompts, greedy if not said else."""
  starts, width = expected['starts'], expected['prompts'].shape[1]
  prompts = jnp.stack([
    jnp.roll(row, start - width)
    for row, start in zip(expected['prompts'], starts)
  ])  # fmt: skip
  mask = (jnp.arange(width)[None] < starts[:, None]).astype(jnp.float32)
  run = functools.partial(
    rollout.generate, config=config, group_size=1, max_new_tokens=12,
    eos_id=config.vocab_size, **{'decoder': decoders.greedy, **kinds},
  )  # fmt: skip
  out = jax.jit(lambda p: run(p, prompts=prompts, prompt_mask=mask,
                              key=jax.random.key(0)))(params)  # fmt: skip
  return prompts, mask, out


GREEDY = [name for name in FAMILIES if name not in LONG_ROPE]


@pytest.mark.parametrize(
  'name',
  some_long(GREEDY, 'gemma2', 'gemma3', 'gpt2', 'qwen3_moe', 'smollm3'),
)
def test_greedy_tokens_are_those_of_transformers(name):
  """Prompts in a shared prefix, new tokens through caches and windows."""
  config, params, expected = golden(name)
  _, _, out = generated(config, params, expected)
  np.testing.assert_array_equal(out.completion[:, 0], expected['greedy'])


@pytest.mark.slow
@pytest.mark.parametrize('kinds', [{'slots': 2}, {'stages': 3}], ids=str)
@pytest.mark.parametrize('name', GREEDY)
def test_slots_and_stages_change_nothing(name, kinds):
  config, params, expected = golden(name)
  _, _, out = generated(config, params, expected, **kinds)
  np.testing.assert_array_equal(out.completion[:, 0], expected['greedy'])


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('name', GREEDY)
def test_what_was_drawn_is_scored_alike(name, scan):
  """Whole rows; prompts read once, in rectangles and in a stream."""
  config, params, expected = golden(name)
  prompts, mask, out = generated(
    config, params, expected, decoder=decoders.sample
  )
  config = dataclasses.replace(config, scan_layers=scan)
  batch = rollout.assemble_groups(prompts, mask, out)
  scored = score(params, config, batch)
  gap = jnp.abs((scored.logps - batch.old_logps) * batch.mask)
  assert float(gap.max()) < 2e-5
  rows = out.completion[:, 0], out.mask[:, 0], out.mask[:, 0]
  for size in (None, 53):  # 52 tokens are real
    found = grouped.group_token_logps(
      params, config, prompts, mask, *rows, size=size
    )
    np.testing.assert_allclose(found.logps, out.logps[:, 0], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_decoding_is_the_whole_row(name):
  """Token by token, behind prompts shorter and longer than the windows."""
  config, params, expected = golden(name)
  tokens = expected['tokens'][:1]
  step = jax.jit(
    lambda tokens, cache: transformer.apply(params, config, tokens, cache=cache)
  )
  for prompt in (3, 9):
    cache = transformer.init_cache(config, 1, tokens.shape[1])
    out, cache = step(tokens[:, :prompt], cache)
    found = [out]
    for t in range(prompt, tokens.shape[1]):
      out, cache = step(tokens[:, t : t + 1], cache)
      found.append(out)
    found = np.concatenate(found, axis=1)
    np.testing.assert_allclose(found, expected['logits'][:1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_transformers_reads_what_we_write(name, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config, params, expected = golden(name)
  hf.save(tmp_path, config, params, eos_id=1)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype='auto', output_loading_info=True
  )
  assert not any(info.values())
  tokens = torch.tensor(expected['tokens']).long()
  lengths = torch.tensor(expected['lengths'])[:, None]
  mask = torch.arange(tokens.shape[1])[None] < lengths
  with torch.no_grad():
    logits = model(tokens, attention_mask=mask.long()).logits
  logits = (logits * mask[..., None]).numpy()
  np.testing.assert_allclose(logits, expected['logits'], atol=1e-4, rtol=0)
