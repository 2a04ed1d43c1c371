"""Files and config.json of every family: read, written, refused."""

import dataclasses
import json
import math
import pathlib
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from families import FAMILIES, FOLDER, arrays, golden
from safetensors.numpy import load_file, save_file

from posttrain_jax.models import (
  hf,
  hf_config,
  hf_rope,
  layers,
  rope,
  transformer,
)
from posttrain_jax.models.architectures import ARCHITECTURES
from posttrain_jax.run import notes


def test_every_class_has_a_folder():
  classes = {
    json.loads((FOLDER / name / 'config.json').read_text())['architectures'][0]
    for name in FAMILIES
  }
  assert classes == set(ARCHITECTURES)


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


def _edit(folder, **changes):
  """Sets keys of config.json; `...` removes one."""
  file = folder / 'config.json'
  values = {**json.loads(file.read_text()), **changes}
  values = {key: x for key, x in values.items() if x is not ...}
  file.write_text(json.dumps(values))


def _said(read, folder):
  try:
    read(folder)
  except ValueError as error:
    return str(error)
  return ''


@pytest.mark.parametrize('name', FAMILIES)
def test_headers_say_what_a_load_would(name, tmp_path):
  """Of every number of config.json: another one is refused by the headers
  alone, in the words of a load, or by neither."""
  shutil.copytree(FOLDER / name, tmp_path, dirs_exist_ok=True)
  assert _said(hf.check, tmp_path) == ''
  values = json.loads((tmp_path / 'config.json').read_text())
  refused = 0
  for key, value in values.items():
    if type(value) is int:
      _edit(tmp_path, **{key: 2 * value + 2})
      told = _said(hf.check, tmp_path)
      assert told == _said(hf.load, tmp_path), key
      refused += 'tensor' in told
      _edit(tmp_path, **{key: value})
  assert refused >= 2  # a width, a number of layers


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


def test_runs_beyond_what_is_known_are_refused():
  """And only those: beyond what a model was trained on is told, not refused."""

  def positions(name, tokens, **changes):
    model = dataclasses.replace(golden(name)[0], **changes)
    return notes.positions(
      SimpleNamespace(
        models={'policy': model},
        sizes=SimpleNamespace(row_tokens=tokens),
        config=ml_collections.ConfigDict(
          {'init_from': 'some/folder', 'max_new_tokens': 8}
        ),
      )
    )

  for name, limit in (('gpt2', 128), ('llama_dynamic', 128), ('phi3', 64)):
    assert positions(name, limit) == []
    message = f'up to {limit + 1} tokens.*some/folder has no more than {limit}'
    with pytest.raises(ValueError, match=message) as error:
      positions(name, limit + 1)
    assert ('long_rope=True' in str(error.value)) == (name == 'phi3')
  assert positions('phi3', 65, long_rope=True) == []
  told = positions('mistral', 129)[0]
  assert 'was made for 128 positions' in told
  # Keys that this config has, and no others.
  assert told.endswith('Set max_new_tokens to stay within')
