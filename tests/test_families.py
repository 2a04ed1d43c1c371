"""Every family of models: what transformers makes of it, here.

The folders of goldens/families are found, not listed: a new one is tested by
everything below. Layers run one after another unless a test says otherwise:
without jit, and as all folders have the same sizes, little is compiled.
"""

import dataclasses
import functools
import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from posttrain_jax import rollout
from posttrain_jax.models import (
  hf,
  hf_config,
  hf_rope,
  layers,
  rope,
  transformer,
)
from posttrain_jax.models.architectures import ARCHITECTURES
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.shared import Shared

FOLDER = pathlib.Path(__file__).parent / 'goldens' / 'families'
FAMILIES = sorted(x.parent.name for x in FOLDER.glob('*/config.json'))
# Longest row beyond the original context: all rows have the longer factors.
LONG_ROPE = ('phi3_long',)


@functools.cache
def golden(name):
  """(config, params, expected arrays) of a folder; layers are not scanned."""
  config, params = hf.load(FOLDER / name)
  config = dataclasses.replace(
    config, scan_layers=False, long_rope=name in LONG_ROPE
  )
  return config, params, dict(np.load(FOLDER / name / 'expected.npz'))


apply = jax.jit(transformer.apply, static_argnums=1)


def some_long(names, *long):
  """Names of the long set; the others are in the slow one."""
  mark = lambda name: pytest.mark.long if name in long else pytest.mark.slow
  return [pytest.param(name, marks=mark(name)) for name in names]


def arrays(folder):
  """(config, params) with NumPy's arrays: nothing is compiled for them."""
  return hf.load(folder, place=lambda _, x: x)


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


def test_every_class_has_a_folder():
  classes = {
    json.loads((FOLDER / name / 'config.json').read_text())['architectures'][0]
    for name in FAMILIES
  }
  assert classes == set(ARCHITECTURES)


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


@pytest.mark.parametrize('name', FAMILIES)
def test_save_gives_back_the_folder(name, tmp_path):
  config, params = arrays(FOLDER / name)
  hf.save(tmp_path, config, params, eos_id=1, pad_id=0, bos_id=2)
  assert hf.read_config(tmp_path) == config
  theirs = load_file(FOLDER / name / hf.WEIGHTS)
  ours = load_file(tmp_path / hf.WEIGHTS)
  assert set(ours) == set(theirs)
  for key in ours:
    assert ours[key].tobytes() == theirs[key].tobytes(), key
  read = lambda folder: json.loads((folder / 'config.json').read_text())
  theirs, ours = read(FOLDER / name), read(tmp_path)
  assert ours['architectures'] == theirs['architectures']
  for key in set(ours) & set(theirs):
    assert ours[key] == theirs[key], key


@pytest.mark.parametrize('name', FAMILIES)
def test_the_table_is_the_models_parameters(name):
  config, params, _ = golden(name)
  table = transformer.param_table(config)
  assert {row.path: row.full_shape(config) for row in hf.rows(config)} == {
    path: param.shape for path, param in table.items()
  }
  count = sum(x.size for x in jax.tree.leaves(params))
  assert transformer.param_count(config) == count
  made = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  assert jax.tree.structure(made) == jax.tree.structure(params)


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'shards'])
def test_other_files_hold_the_same(name, kind, tmp_path):
  config, params = arrays(FOLDER / name)
  if kind == 'shards':
    hf.save(tmp_path, config, params, max_shard_bytes=5_000)
    assert len(list(tmp_path.glob('*.safetensors'))) > 3
  else:
    params = jax.tree.map(lambda x: x.astype(jnp.dtype(kind)), params)
    hf.save(tmp_path, config, params)
    assert hf_config.stored_dtype(tmp_path) == kind
  again, found = arrays(tmp_path)
  assert again == config
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params)):
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b.astype(np.float32))


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
  """Whole rows, and prompts read once, as the learner does."""
  config, params, expected = golden(name)
  prompts, mask, out = generated(
    config, params, expected, decoder=decoders.sample
  )
  config = dataclasses.replace(config, scan_layers=scan)
  batch = rollout.assemble_groups(prompts, mask, out)
  for shared in (None, Shared(8, 1)):
    scored = score(params, config, batch, shared=shared)
    gap = jnp.abs((scored.logps - batch.old_logps) * batch.mask)
    assert float(gap.max()) < 2e-5


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


def _edit(folder, **changes):
  """Sets keys of config.json; `...` removes one."""
  file = folder / 'config.json'
  values = {**json.loads(file.read_text()), **changes}
  values = {key: x for key, x in values.items() if x is not ...}
  file.write_text(json.dumps(values))


@pytest.fixture
def copy(tmp_path):
  return lambda name: pathlib.Path(
    shutil.copytree(FOLDER / name, tmp_path / name)
  )


@pytest.mark.parametrize(
  'before', ['language_model.model', 'model.language_model']
)
def test_the_text_part_of_a_model_of_images(before, copy):
  config, params, _ = golden('gemma3')
  folder = copy('gemma3')
  text = json.loads((folder / 'config.json').read_text())
  text.pop('architectures')
  (folder / 'config.json').write_text(json.dumps(dict(
    architectures=['Gemma3ForConditionalGeneration'], model_type='gemma3',
    text_config=text, vision_config=dict(hidden_size=8),
  )))  # fmt: skip
  tensors = load_file(folder / hf.WEIGHTS)
  tensors = {
    f'{before}{k.removeprefix("model")}': x for k, x in tensors.items()
  }
  tensors['vision_tower.vision_model.post_layernorm.bias'] = np.zeros(3)
  tensors['multi_modal_projector.mm_input_projection_weight'] = np.zeros(3)
  save_file(tensors, folder / hf.WEIGHTS)
  again, found = arrays(folder)
  assert again == dataclasses.replace(config, scan_layers=True)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params)):
    np.testing.assert_array_equal(a, b)


def test_names_of_other_tools(copy):
  """GPT-2 without its prefix and with buffers; GPT-NeoX's head by two names."""
  heads = {'embed_out.weight': 'lm_head.weight'}
  heads |= {theirs: ours for ours, theirs in heads.items()}
  for name, rename, buffer in (
    ('gpt2', lambda x: x.removeprefix('transformer.'), 'h.0.attn.bias'),
    (
      'pythia',
      lambda x: heads.get(x, x),
      'gpt_neox.layers.1.attention.rotary_emb.inv_freq',
    ),
  ):
    folder = copy(name)
    tensors = load_file(folder / hf.WEIGHTS)
    renamed = {rename(key): x for key, x in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file({**renamed, buffer: np.zeros(3)}, folder / hf.WEIGHTS)
    found = jax.tree.leaves(arrays(folder)[1])
    for a, b in zip(found, jax.tree.leaves(golden(name)[1])):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  'name, changes, message',
  [
    ('gemma2', dict(use_bidirectional_attention=True), 'Supported: False'),
    ('gemma3', dict(attn_logit_softcapping=5.0), 'Supported: leaving it out'),
    ('gemma2', dict(hidden_activation='relu'), "hidden_activation='relu'"),
    ('gemma2', dict(final_logit_softcapping=-1.0), 'no non-negative float'),
    ('gemma2', dict(sliding_window=None), 'needs a sliding_window'),
    (
      'gemma3',
      dict(rope_parameters=dict(sliding_attention=dict(rope_type='linear'))),
      "sliding_attention.rope_type='linear'",
    ),
    ('olmo2', dict(attention_bias=1.5), 'attention_bias=1.5 is not supported'),
    ('smollm3', dict(no_rope_layers=[1, 0]), 'no list of 3 flags'),
    (
      'smollm3',
      dict(layer_types=['full_attention'] * 2 + ['sliding_attention']),
      'layer_types=',
    ),
    ('phi3', dict(rope_parameters=dict(type='linear')), 'Did you mean "longr'),
    (
      'phi3',
      dict(rope_parameters=dict(
        type='longrope', short_factor=[1.0], long_factor=[1.0] * 4,
      )),
      'short_factor has 1 factors for the',
    ),
    ('gpt2', dict(scale_attn_by_inverse_layer_idx=True), 'Supported: False'),
    ('gpt2', dict(n_embd=...), 'key "n_embd" is missing'),
    ('pythia', dict(use_parallel_residual='no'), "use_parallel_residual='no'"),
    ('qwen3_moe', dict(mlp_only_layers=[4]), r'mlp_only_layers=\[4\] is no'),
    ('qwen3_moe', dict(num_experts_per_tok=9), 'experts_per_token=9 is not'),
    (
      'qwen2_yarn',
      dict(rope_parameters=dict(rope_type='jarn')),
      'rope_type=\'jarn\' is not supported. Did you mean "yarn"',
    ),
    ('llama_dynamic', dict(rope_parameters=dict(rope_type='dynamic')),
     'key "factor" is missing'),
  ],
)  # fmt: skip
def test_configs_that_are_refused(name, changes, message, copy):
  folder = copy(name)
  _edit(folder, **changes)
  with pytest.raises(ValueError, match=message) as error:
    hf.read_config(folder)
  assert str(error.value).startswith(str(folder / 'config.json'))


def test_shapes_need_no_weights(copy):
  folder = copy('gemma3')
  (folder / hf.WEIGHTS).unlink()
  assert hf.is_folder(folder)
  config = hf.read_config(folder)
  assert config == dataclasses.replace(golden('gemma3')[0], scan_layers=True)
  (folder / 'pytorch_model.bin').write_text('')
  with pytest.raises(FileNotFoundError, match='pytorch_model.bin, a pickle'):
    hf.load(folder)


@pytest.mark.parametrize('kind', ['float32', 'bfloat16', 'float16'])
def test_harmed_numbers_name_tensor_and_file(kind, tmp_path):
  config, params = arrays(FOLDER / 'phi3')
  params = jax.tree.map(lambda x: x.astype(jnp.dtype(kind)), params)
  params['layers']['key'][1, 3, 0, 2] = np.nan
  hf.save(tmp_path, config, params)
  key = 'model.layers.1.self_attn.qkv_proj.weight'
  with pytest.raises(ValueError, match=f'{hf.WEIGHTS}: tensor "{key}" has NaN'):
    hf.load(tmp_path)


def test_positions_beyond_what_is_known_are_loud():
  """Runs are refused before; whoever goes on sees no number at all."""
  at = lambda where: jnp.full((1, 1), where)
  for name, limit in (('llama_dynamic', 128), ('phi3', 64)):
    config = golden(name)[0]
    assert config.position_limit == limit
    for table in rope.rope_tables(at(limit - 1), config):
      assert np.isfinite(table).all()
    for table in rope.rope_tables(at(limit), config):
      assert np.isnan(table).all()
  config, params, _ = golden('gpt2')
  assert config.position_limit == 128
  embed = lambda where: layers.embed(params, config, at(3), at(where))
  assert np.isfinite(embed(127)).all() and np.isnan(embed(128)).all()
  assert golden('phi3_long')[0].position_limit == 0
  assert golden('mistral')[0].position_limit == 0


def test_round_numbers_of_rotary_dims():
  """partial_rotary_factor is rounded down by whoever reads it."""
  for head_dim in range(2, 130, 2):
    for rotary in range(2, head_dim + 1, 2):
      config = dataclasses.replace(
        golden('pythia')[0], head_dim=head_dim, rotary_dim=rotary
      )
      share = hf_rope.write(config, ARCHITECTURES['GPTNeoXForCausalLM'])
      assert int(head_dim * share['rotary_pct']) == rotary
  assert math.isclose(share['rotary_pct'], 1.0)
