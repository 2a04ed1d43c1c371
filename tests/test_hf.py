"""Hugging Face folders: goldens from transformers, round trips, every error."""

import dataclasses
import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from posttrain_jax.models import hf, hf_config, transformer
from posttrain_jax.models.config import ModelConfig

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
WINDOWED = ('mistral', 'qwen2_window')
NAMES = ('llama3', 'qwen2', 'qwen3', *WINDOWED)
TINY = ModelConfig(
  vocab_size=7,
  num_layers=2,
  width=8,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_dim=6,
  max_length=32,
)


def _logits(config, params, tokens):
  return np.asarray(transformer.apply(params, config, tokens)[0])


def _copy(tmp_path, name='qwen3'):
  return pathlib.Path(shutil.copytree(GOLDENS / name, tmp_path / name))


def _edit_tensors(folder, change):
  tensors = load_file(folder / hf.WEIGHTS)
  change(tensors)
  save_file(tensors, folder / hf.WEIGHTS)


def _zeros(config, **changes):
  table = transformer.param_table(dataclasses.replace(config, **changes))
  return traverse_util.unflatten_dict(
    {path: np.zeros(param.shape, np.float32) for path, param in table.items()},
    sep='/',
  )


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype and x.shape == y.shape
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_transformers(name):
  expected = np.load(GOLDENS / name / 'expected.npz')
  config, params = hf.load(GOLDENS / name)
  logits = _logits(config, params, expected['tokens'])
  np.testing.assert_allclose(logits, expected['logits'], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
  'name, change',
  [
    ('llama3', dict(rope_scaling=None)),
    ('qwen2', dict(rope_theta=10_000.0)),
    ('qwen3', dict(norm_eps=1e-6)),
    ('mistral', dict(rope_scaling=None)),
    ('mistral', dict(sliding_window=8)),
    ('mistral', dict(full_layers=(1,))),
    ('qwen2_window', dict(sliding_window=4)),
    ('qwen2_window', dict(full_layers=())),
    ('qwen2_window', dict(full_layers=(1,))),
  ],
)
def test_goldens_tell_a_wrong_config(name, change):
  expected = np.load(GOLDENS / name / 'expected.npz')
  config, params = hf.load(GOLDENS / name)
  wrong = dataclasses.replace(config, **change)
  gap = np.abs(_logits(wrong, params, expected['tokens']) - expected['logits'])
  assert gap.max() > 0.1


@pytest.mark.parametrize('prompt', [3, 20])
@pytest.mark.parametrize('name', WINDOWED)
def test_cached_decode_of_windows_is_the_full_forward(name, prompt):
  """Prompts shorter and longer than the window; rings go round many times."""
  expected = np.load(GOLDENS / name / 'expected.npz')
  tokens, logits = expected['tokens'], expected['logits']
  config, params = hf.load(GOLDENS / name)
  full = _logits(config, params, tokens)
  cache = transformer.init_cache(config, len(tokens), tokens.shape[1])
  step = jax.jit(
    lambda tokens, cache: transformer.apply(params, config, tokens, cache=cache)
  )
  out, cache = step(tokens[:, :prompt], cache)
  decoded = [out]
  for t in range(prompt, tokens.shape[1]):
    out, cache = step(tokens[:, t : t + 1], cache)
    decoded.append(out)
  decoded = np.concatenate(decoded, axis=1)
  np.testing.assert_allclose(decoded, full, atol=2e-5, rtol=1e-5)
  np.testing.assert_allclose(decoded, logits, atol=1e-4, rtol=0)


def test_weights_land_where_the_axes_say():
  """Row h * K + k of q_proj is channel k of head h."""
  config, params = hf.load(GOLDENS / 'qwen3')
  stored = load_file(GOLDENS / 'qwen3' / hf.WEIGHTS)
  query = stored['model.layers.1.self_attn.q_proj.weight']
  output = stored['model.layers.1.self_attn.o_proj.weight']
  assert params['layers']['query'][1, 5, 3, 7] == query[3 * 12 + 7, 5]
  assert params['layers']['output'][1, 3, 7, 5] == output[5, 3 * 12 + 7]
  assert params['unembed'][5, 60] == stored['lm_head.weight'][60, 5]


@pytest.mark.parametrize('tie_embeddings', [False, True])
@pytest.mark.parametrize('flag', ['qkv_bias', 'qk_norm', None])
def test_table_covers_the_models_parameters(flag, tie_embeddings):
  flags = {flag: True} if flag else {}
  config = dataclasses.replace(TINY, tie_embeddings=tie_embeddings, **flags)
  ours = {
    row.path: ((2,) if row.stacked else ()) + row.shape(config)
    for row in hf.rows(config)
  }
  table = transformer.param_table(config)
  assert ours == {path: param.shape for path, param in table.items()}


@pytest.mark.parametrize('name', NAMES)
def test_save_then_load_is_bitwise_the_same(name, tmp_path):
  config, params = hf.load(GOLDENS / name)
  hf.save(tmp_path, config, params)
  again, restored = hf.load(tmp_path)
  assert again == config
  _assert_same(restored, params)
  original = load_file(GOLDENS / name / hf.WEIGHTS)
  written = load_file(tmp_path / hf.WEIGHTS)
  assert set(original) == set(written)
  for key in original:
    np.testing.assert_array_equal(original[key], written[key])


def test_shards(tmp_path):
  config, params = hf.load(GOLDENS / 'llama3')
  hf.save(tmp_path, config, params, max_shard_bytes=30_000)
  files = sorted(tmp_path.glob('*.safetensors'))
  count = len(files)
  assert count > 2
  assert files[0].name == f'model-00001-of-{count:05}.safetensors'
  index = json.loads((tmp_path / hf.INDEX).read_text())
  size = sum(x.size for x in jax.tree.leaves(params)) * 4
  assert index['metadata']['total_size'] == size
  for file in files:
    tensors = load_file(file)
    assert sum(x.nbytes for x in tensors.values()) <= 30_000
    assert {index['weight_map'][key] for key in tensors} == {file.name}
    with safe_open(file, framework='numpy') as handle:
      assert handle.metadata() == {'format': 'pt'}
  again, restored = hf.load(tmp_path)
  assert again == config
  _assert_same(restored, params)

  files[1].unlink()
  with pytest.raises(FileNotFoundError, match=files[1].name):
    hf.load(tmp_path)


def test_bfloat16(tmp_path):
  config, params = hf.load(GOLDENS / 'qwen2', param_dtype='bfloat16')
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}
  hf.save(tmp_path, config, params)
  assert '"torch_dtype": "bfloat16"' in (tmp_path / 'config.json').read_text()
  with safe_open(tmp_path / hf.WEIGHTS, framework='numpy') as handle:
    assert handle.get_slice('model.norm.weight').get_dtype() == 'BF16'
  again, restored = hf.load(tmp_path, dtype='bfloat16', param_dtype='bfloat16')
  assert (again.dtype, again.param_dtype) == ('bfloat16', 'bfloat16')
  _assert_same(restored, params)
  # Widening is exact: float32 weights are the bfloat16 numbers.
  _, wide = hf.load(tmp_path)
  _assert_same(wide, jax.tree.map(lambda x: x.astype(jnp.float32), params))


def test_each_parameter_is_asked_where_it_goes_once():
  seen = {}
  there = jax.sharding.SingleDeviceSharding(jax.devices()[3])

  def where(name, shape):
    assert name not in seen
    seen[name] = shape
    return there

  config, params = hf.load(GOLDENS / 'qwen3', where=where)
  table = transformer.param_table(config)
  assert seen == {name: param.shape for name, param in table.items()}
  assert {x.sharding for x in jax.tree.leaves(params)} == {there}
  _assert_same(params, hf.load(GOLDENS / 'qwen3')[1])


def test_folders_that_are_no_checkpoints(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json: no such file'):
    hf.load(tmp_path / 'nowhere')
  folder = _copy(tmp_path)
  (folder / hf.WEIGHTS).write_text('<html>')
  with pytest.raises(ValueError, match=f'{hf.WEIGHTS}: no safetensors file'):
    hf.load(folder)
  (folder / hf.WEIGHTS).unlink()
  with pytest.raises(FileNotFoundError, match=f'{hf.WEIGHTS}: no such file'):
    hf.load(folder)
  (folder / hf.INDEX).write_text('{}')
  with pytest.raises(ValueError, match='key "weight_map" is missing'):
    hf.load(folder)
  (folder / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json: not JSON'):
    hf.load(folder)
  (folder / 'config.json').write_text('[]')
  with pytest.raises(ValueError, match='config.json: an object is needed'):
    hf.load(folder)


def test_wrong_tensors_are_named(tmp_path):
  folder = _copy(tmp_path)
  key = 'model.layers.1.mlp.up_proj.weight'

  def refused(change, message):
    shutil.copy(GOLDENS / 'qwen3' / hf.WEIGHTS, folder)
    _edit_tensors(folder, change)
    for read in (hf.load, hf.check):
      with pytest.raises(ValueError, match=message):
        read(folder)

  refused(lambda t: t.pop(key), f'missing tensors: {key}')
  refused(lambda t: t.update(extra=np.zeros(3)), 'unexpected tensors: extra$')
  refused(
    lambda t: t.update({key: t[key][:47]}),
    rf'{hf.WEIGHTS}: tensor "{key}" has shape \[47, 32\], .* \[48, 32\]',
  )
  refused(
    lambda t: t.update({key: t[key].astype(np.int8)}),
    f'tensor "{key}" is stored as I8. Supported: BF16, F16, F32, F64',
  )
  refused(
    lambda t: [t.pop(name) for name in list(t) if 'layers' in name],
    'missing tensors: .* and 14 more',
  )


def test_buffers_of_old_checkpoints_are_ignored(tmp_path):
  folder = _copy(tmp_path)
  buffer = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  _edit_tensors(folder, lambda t: t.update({buffer: np.zeros(6)}))
  _assert_same(hf.load(folder)[1], hf.load(GOLDENS / 'qwen3')[1])


def test_tied_matrix_written_twice(tmp_path):
  folder = _copy(tmp_path, 'qwen2')
  embedding = 'model.embed_tokens.weight'
  _edit_tensors(folder, lambda t: t.update({'lm_head.weight': t[embedding]}))
  _assert_same(hf.load(folder)[1], hf.load(GOLDENS / 'qwen2')[1])
  _edit_tensors(
    folder, lambda t: t.update({'lm_head.weight': t[embedding] + 1})
  )
  with pytest.raises(ValueError, match='"lm_head.weight" differs from'):
    hf.load(folder)


def test_what_save_refuses(tmp_path):
  params = _zeros(TINY)

  def refused(message, params=params, kind=ValueError, **changes):
    with pytest.raises(kind, match=message):
      hf.save(tmp_path, dataclasses.replace(TINY, **changes), params)

  refused(
    'unexpected: value_head/kernel',
    {**params, 'value_head': {'kernel': params['final_norm']}},
  )
  refused('missing parameters: unembed', tie_embeddings=False)
  refused(r'"embed/tokens" has shape \[7, 8\], .*\[9, 8\]', vocab_size=9)
  refused('max_length=0', max_length=0)
  refused('has no parallel=True', parallel=True)
  both = dict(qkv_bias=True, qk_norm=True)
  refused(
    'has no qk_norm=True',
    _zeros(TINY, **both),
    **both,
  )
  assert not list(tmp_path.iterdir())

  hf.save(tmp_path, TINY, params)
  refused('model.safetensors: exists', kind=FileExistsError)


@pytest.mark.slow
@pytest.mark.parametrize('max_shard_bytes', [10**9, 30_000])
@pytest.mark.parametrize('name', NAMES)
def test_transformers_reads_what_we_write(name, max_shard_bytes, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  expected = np.load(GOLDENS / name / 'expected.npz')
  config, params = hf.load(GOLDENS / name)
  hf.save(tmp_path, config, params, eos_id=1, max_shard_bytes=max_shard_bytes)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype='auto', output_loading_info=True
  )
  assert not any(info.values())
  assert type(model).__name__ == hf_config.architecture_of(config)
  assert (model.dtype, model.config.eos_token_id) == (torch.float32, 1)
  count = math.prod(params['embed']['tokens'].shape)
  assert model.get_input_embeddings().weight.numel() == count
  with torch.no_grad():
    logits = model(torch.tensor(expected['tokens']).long()).logits.numpy()
  np.testing.assert_allclose(logits, expected['logits'], atol=1e-5, rtol=0)
