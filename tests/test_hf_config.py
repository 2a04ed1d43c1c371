"""config.json both ways: what is read, refused and written."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from posttrain_jax.models import hf, hf_config
from posttrain_jax.models.config import ModelConfig, RopeScaling
from posttrain_jax.models.hf_config import read_config

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
NAMES = ('llama3', 'qwen2', 'qwen3', 'mistral', 'qwen2_window')


def _copy(tmp_path, name='qwen3'):
  return pathlib.Path(shutil.copytree(GOLDENS / name, tmp_path / name))


def _edit_config(folder, **changes):
  """Sets keys of config.json; `...` removes one."""
  file = folder / 'config.json'
  values = {**json.loads(file.read_text()), **changes}
  values = {key: x for key, x in values.items() if x is not ...}
  file.write_text(json.dumps(values))


def test_configs_are_read():
  read = lambda name: read_config(GOLDENS / name)
  llama, qwen2, qwen3, mistral, window = map(read, NAMES)
  assert llama.rope_theta == 500.0
  assert llama.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32)
  assert (llama.vocab_size, llama.num_layers, llama.width) == (64, 2, 32)
  assert (llama.num_heads, llama.num_kv_heads, llama.head_dim) == (4, 2, 8)
  assert (llama.mlp_dim, llama.max_length, llama.norm_eps) == (48, 128, 0.01)
  flags = lambda c: (c.tie_embeddings, c.qkv_bias, c.qk_norm)
  assert flags(llama) == (False, False, False)
  assert flags(qwen2) == (True, True, False) and qwen2.head_dim == 8
  assert flags(qwen3) == (False, False, True) and qwen3.head_dim == 12
  assert flags(mistral) == flags(llama) and mistral.head_dim == 12
  assert mistral.rope_scaling == llama.rope_scaling
  windows = lambda c: (c.sliding_window, c.full_layers)
  assert windows(llama) == windows(qwen2) == windows(qwen3) == (0, ())
  assert windows(mistral) == (7, ()) and windows(window) == (5, (0,))


@pytest.mark.parametrize('name', NAMES)
def test_written_config_has_what_transformers_wrote(name, tmp_path):
  config, params = hf.load(GOLDENS / name)
  hf.save(tmp_path, config, params, eos_id=1, pad_id=0, bos_id=2)
  theirs = json.loads((GOLDENS / name / 'config.json').read_text())
  ours = json.loads((tmp_path / 'config.json').read_text())
  rope = theirs.pop('rope_parameters')
  assert ours['rope_theta'] == rope.pop('rope_theta')
  rope = None if rope['rope_type'] == 'default' else rope
  assert ours['rope_scaling'] == rope
  assert ours['torch_dtype'] == theirs.pop('dtype')
  for key in ('transformers_version', 'pretraining_tp'):
    theirs.pop(key, None)
  if not config.sliding_window:
    for key in ('layer_types', 'sliding_window', 'max_window_layers'):
      theirs.pop(key, None)
  # transformers derives Qwen2's head_dim and does not write it.
  theirs.setdefault('head_dim', 8)
  assert {key: ours[key] for key in theirs} == theirs


def test_eos_id_may_be_a_list_and_ids_are_checked(tmp_path):
  config, params = hf.load(GOLDENS / 'qwen2')
  hf.save(tmp_path / 'a', config, params, eos_id=(1, 3))
  values = json.loads((tmp_path / 'a' / 'config.json').read_text())
  assert values['eos_token_id'] == [1, 3] and values['pad_token_id'] is None
  with pytest.raises(ValueError, match='pad_id=64 is outside .* of 64'):
    hf.save(tmp_path / 'b', config, params, pad_id=64)
  assert not (tmp_path / 'b').exists()


def test_old_spelling_of_rope(tmp_path):
  folder = _copy(tmp_path, 'llama3')
  config = read_config(folder)
  scaling = dict(
    type='llama3',
    factor=8,
    low_freq_factor=1,
    high_freq_factor=4,
    original_max_position_embeddings=32,
  )
  _edit_config(
    folder, rope_parameters=..., rope_theta=500, rope_scaling=scaling
  )
  assert read_config(folder) == config
  _edit_config(folder, rope_theta=..., rope_scaling=None)
  plain = read_config(folder)
  assert (plain.rope_theta, plain.rope_scaling) == (10_000.0, None)


def test_what_config_json_may_leave_out(tmp_path):
  folder = _copy(tmp_path, 'llama3')
  _edit_config(folder, head_dim=..., num_key_value_heads=None)
  config = read_config(folder)
  assert (config.head_dim, config.num_kv_heads) == (8, 4)
  _edit_config(folder, architectures=...)
  assert read_config(folder) == config


FULL, SLIDING = 'full_attention', 'sliding_attention'


def _window(**changes):
  base = dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)
  return {**base, 'layer_types': ..., **changes}


def _rope(**changes):
  return dict(rope_parameters=dict(rope_theta=1e4, **changes))


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      dict(architectures=['Qwen3NextForCausalLM']),
      r"architectures=\['Qwen3NextForCausalLM'\] is not supported. "
      'Did you mean "Qwen3ForCausalLM"',
    ),
    (dict(architectures=..., model_type='gptj'), "model_type='gptj' is not"),
    (dict(model_type='mamba'), "and model_type='mamba' is there: which of"),
    (dict(architectures=..., model_type=...), 'model_type=None is not'),
    (dict(hidden_act='relu'), "hidden_act='relu' .*Supported: 'silu', 'swish'"),
    (dict(attention_bias=2), 'attention_bias=2 .*Supported: False, True'),
    (dict(mlp_bias=True), 'mlp_bias=True .*Supported: False'),
    (dict(use_sliding_window='no'), "'no' is not .*Supported: False, True"),
    (_window(sliding_window=0), 'sliding_window=0 is no positive int'),
    (_window(sliding_window='8'), "sliding_window='8' is no positive int"),
    (_window(max_window_layers=-1), 'max_window_layers=-1 is no non-negative'),
    (
      _window(layer_types=['full_attention', 'sliding_atention']),
      'layer_types has \'sliding_atention\'.*Did you mean "sliding_attention"',
    ),
    (
      dict(layer_types=['full_attention', 'chunked_attention']),
      "layer_types has 'chunked_attention', which is not supported",
    ),
    (_window(layer_types=[SLIDING]), 'layer_types=.*no list of 2 names'),
    (_window(layer_types=SLIDING), 'layer_types=.*no list of 2 names'),
    (
      _window(layer_types=[SLIDING] * 2, sliding_window=None),
      'layer_types=.* needs a sliding_window',
    ),
    (
      dict(quantization_config=dict(bits=4)),
      'quantization_config=.*Supported: leaving it out',
    ),
    (_rope(rope_type='yarm'), 'rope_type=\'yarm\' is .*Did you mean "yarn"'),
    (
      dict(rope_parameters=None, rope_scaling=dict(type='su', factor=2.0)),
      "rope_type='su' is not supported",
    ),
    (_rope(partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
    (
      dict(rope_parameters=dict(full_attention=dict(rope_theta=1e4))),
      'rope_parameters.full_attention=',
    ),
    (_rope(rope_type='llama3', factor=8.0), 'key "low_freq_factor" is missing'),
    (dict(rope_parameters=dict(rope_theta='1e4')), "rope_theta='1e4' is no"),
    (dict(hidden_size=...), 'key "hidden_size" is missing'),
    (dict(head_dim=...), 'key "head_dim" is missing'),
    (dict(vocab_size='64'), "vocab_size='64' is no positive int"),
    (dict(num_hidden_layers=True), 'num_hidden_layers=True is no positive int'),
    (dict(num_key_value_heads=0), 'num_key_value_heads=0 is no positive int'),
    (dict(num_key_value_heads=3), 'num_heads=4 is no multiple'),
    (dict(rms_norm_eps=-1.0), 'rms_norm_eps=-1.0 is no positive float'),
    (dict(tie_word_embeddings='no'), "tie_word_embeddings='no' is not"),
  ],
)
def test_configs_that_are_refused(changes, message, tmp_path):
  folder = _copy(tmp_path)
  _edit_config(folder, **changes)
  with pytest.raises(ValueError, match=message) as error:
    read_config(folder)
  assert str(error.value).startswith(str(folder / 'config.json'))


@pytest.mark.parametrize(
  'name, changes, message',
  [
    (
      'llama3',
      dict(use_sliding_window=True),
      'use_sliding_window=True is not supported. Supported: False$',
    ),
    (
      'llama3',
      dict(layer_types=[FULL, SLIDING]),
      "layer_types=.* is not supported. Supported: 'full_attention'$",
    ),
    (
      'mistral',
      dict(layer_types=[FULL, SLIDING]),
      "layer_types=.* is not supported. Supported: 'sliding_attention'$",
    ),
    (
      'mistral',
      dict(use_sliding_window=False),
      'use_sliding_window=False is not supported. Supported: True$',
    ),
    (
      'mistral',
      dict(sliding_window=True),
      'sliding_window=True is no positive',
    ),
    ('mistral', dict(num_key_value_heads=...), '"num_key_value_heads" is miss'),
  ],
)
def test_windows_that_a_class_does_not_compute(
  name, changes, message, tmp_path
):
  folder = _copy(tmp_path, name)
  _edit_config(folder, **changes)
  with pytest.raises(ValueError, match=message) as error:
    read_config(folder)
  assert str(error.value).startswith(str(folder / 'config.json'))


def test_sliding_window_that_is_not_in_use(tmp_path):
  folder = _copy(tmp_path)
  config = read_config(folder)
  off = dict(
    sliding_window=4096, max_window_layers=0, layer_types=[SLIDING] * 2
  )
  _edit_config(folder, use_sliding_window=False, **off)
  assert read_config(folder) == config
  _edit_config(folder, use_sliding_window=...)
  assert read_config(folder) == config


@pytest.mark.parametrize(
  'changes, window, full_layers',
  [
    (dict(), 8, (0,)),
    (dict(max_window_layers=0), 8, ()),
    (dict(max_window_layers=2), 0, ()),
    (dict(max_window_layers=...), 0, ()),  # 28
    (dict(sliding_window=None, max_window_layers=0), 0, ()),
    (dict(sliding_window=...), 4096, (0,)),
    # layer_types wins.
    (dict(layer_types=[SLIDING, FULL]), 8, (1,)),
    (dict(layer_types=[SLIDING, SLIDING]), 8, ()),
    (dict(layer_types=[FULL, FULL], max_window_layers=0), 0, ()),
  ],
)
@pytest.mark.parametrize('name', ['qwen2', 'qwen3'])
def test_windows_of_qwen(name, changes, window, full_layers, tmp_path):
  folder = _copy(tmp_path, name)
  _edit_config(folder, **_window(**changes))
  config = read_config(folder)
  assert (config.sliding_window, config.full_layers) == (window, full_layers)


def test_windows_of_mistral(tmp_path):
  folder = _copy(tmp_path, 'mistral')
  config = read_config(folder)
  _edit_config(folder, architectures=..., use_sliding_window=True)
  assert read_config(folder) == config
  _edit_config(folder, head_dim=None, sliding_window=...)
  assert read_config(folder) == dataclasses.replace(
    config, head_dim=8, sliding_window=4096
  )
  _edit_config(folder, sliding_window=None, use_sliding_window=...)
  plain = dataclasses.replace(config, head_dim=8, sliding_window=0)
  assert hf_config.architecture_of(plain) == 'LlamaForCausalLM'
  # Others compute the same; the folder stays what it was.
  named = dataclasses.replace(plain, architecture='MistralForCausalLM')
  assert read_config(folder) == named
  assert hf_config.architecture_of(named) == 'MistralForCausalLM'
  windowed = dataclasses.replace(named, qkv_bias=True)
  assert hf_config.architecture_of(windowed) == 'Qwen2ForCausalLM'


QWEN2, QWEN3 = dict(qkv_bias=True), dict(qk_norm=True)


@pytest.mark.parametrize(
  'fields, name, first',
  [
    (dict(), 'LlamaForCausalLM', None),
    (dict(sliding_window=8), 'MistralForCausalLM', None),
    (
      dict(sliding_window=8, rope_scaling=RopeScaling()),
      'MistralForCausalLM',
      None,
    ),
    (dict(QWEN2), 'Qwen2ForCausalLM', None),
    (dict(sliding_window=8, **QWEN2), 'Qwen2ForCausalLM', 0),
    (dict(sliding_window=8, full_layers=(0,), **QWEN2), 'Qwen2ForCausalLM', 1),
    (
      dict(sliding_window=8, full_layers=(1,), **QWEN3),
      'Qwen3ForCausalLM',
      None,
    ),
    (dict(QWEN3), 'Qwen3ForCausalLM', None),
  ],
)
def test_what_is_written_is_read(fields, name, first, tmp_path):
  config = ModelConfig(**fields)
  values = hf_config.to_json(config, 'float32')
  assert values['architectures'] == [name]
  assert values.get('max_window_layers') == first
  (tmp_path / 'config.json').write_text(json.dumps(values))
  assert read_config(tmp_path) == config


def test_what_llama_does_not_compute_another_class_does():
  name = lambda **fields: hf_config.architecture_of(ModelConfig(**fields))
  assert name(num_heads=5, num_kv_heads=5) == 'MistralForCausalLM'
  assert name(sliding_window=8, full_layers=(1,)) == 'SmolLM3ForCausalLM'
  # No layer has this one: it is the same as no window.
  every = dict(sliding_window=8, full_layers=(0, 1, 2))
  assert name(**every) == 'LlamaForCausalLM'
  with pytest.raises(
    ValueError,
    match='nearest, LlamaForCausalLM, has no parallel=True$',
  ):
    name(parallel=True)


def test_a_class_that_is_not_there():
  config = ModelConfig(architecture='LamaForCausalLM')
  with pytest.raises(ValueError, match='Did you mean "LlamaForCausalLM"'):
    hf_config.architecture_of(config)
