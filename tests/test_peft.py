"""Adapters as PEFT stores them: its folders read, ours the same as its own."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from posttrain_jax.models import adapted, hf, transformer
from posttrain_jax.params import peft

GOLDENS = Path(__file__).parent / 'goldens'
NAMES = ('lora', 'rslora', 'dora', 'embed', 'embed_dora', 'tied')
BASES = {'embed': 'mistral', 'embed_dora': 'mistral'}  # others: qwen2


def folder(name):
  return GOLDENS / 'peft' / name


def base_of(name):
  return GOLDENS / BASES.get(name, 'qwen2')


@functools.cache
def run_of(base):
  config = hf.read_config(base)
  tokens = np.load(base / 'expected.npz')['tokens'][:, :12]
  return jax.jit(lambda params: transformer.apply(params, config, tokens)[0])


@pytest.fixture
def logits():
  def run(name, params):
    with jax.default_matmul_precision('highest'):
      return run_of(base_of(name))(params)

  return run


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_peft(name, logits):
  expected = np.load(GOLDENS / 'peft/logits.npz')[name]
  bare = np.load(base_of(name) / 'expected.npz')['logits'][:, :12]
  _, params = peft.load(folder(name))
  found = logits(name, params)
  bound = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
  merged = logits(name, adapted.merged(params))
  np.testing.assert_allclose(merged, expected, atol=2 * bound, rtol=0)
  assert np.abs(expected - bare).max() > 0.1


@pytest.mark.parametrize('name', NAMES)
def test_what_is_written_is_what_peft_wrote(name, tmp_path):
  theirs = json.loads((folder(name) / peft.CONFIG).read_text())
  config, params = peft.load(folder(name))
  alpha = float(theirs['lora_alpha'])
  kind = name if name in ('rslora', 'dora') else 'lora'
  kind = 'dora' if theirs['use_dora'] else kind
  part = {'name': kind, 'rank': theirs['r'], 'alpha': alpha}
  base = theirs['base_model_name_or_path']
  peft.save(tmp_path, config, part, adapted.trained(params), base)
  ours = safetensors.load_file(tmp_path / peft.WEIGHTS)
  there = safetensors.load_file(folder(name) / peft.WEIGHTS)
  # Tables that are the base's stand beside their adapters in PEFT's file.
  there = {k: x for k, x in there.items() if not peft.is_copy(k, config)}
  assert ours.keys() == there.keys()
  for key, x in there.items():
    assert ours[key].dtype == x.dtype and ours[key].tobytes() == x.tobytes()
  written = json.loads((tmp_path / peft.CONFIG).read_text())
  for key, value in written.items():
    # Of a tied table it names the module itself, too.
    last = lambda names: {name.rpartition('.')[2] for name in names}
    same = last if isinstance(value, list) else lambda x: x
    assert same(value) == same(theirs[key]), key
  with pytest.raises(FileExistsError, match='save into a new folder'):
    peft.save(tmp_path, config, part, adapted.trained(params), base)


def test_matrices_that_share_a_module_are_not_written(tmp_path):
  config, params = peft.load(folder('lora'))
  parts = adapted.trained(params)
  parts['layers']['fused'] = parts['layers']['up']
  part = {'name': 'lora', 'rank': 2, 'alpha': 5.0}
  with pytest.raises(ValueError, match='layers/fused is no module of its own'):
    peft.save(tmp_path, config, part, parts, 'base')
  assert not any(tmp_path.iterdir())


FAULTS = {
  'peft_type': ('LOHA', "peft_type='LOHA'"),
  'base_model_name_or_path': ('org/name', 'its base "org/name" is no folder'),
  'bias': ('all', "bias='all'"),
  'modules_to_save': (['lm_head'], 'modules_to_save='),
  'rank_pattern': ({'q_proj': 3}, 'rank_pattern='),
  'init_lora_weights': ('pissa_niter_4', 'has moved the base'),
  'r': ('two', 'key "r" is \'two\', no number'),
  'use_dora': (True, 'magnitude is not there for layer 0'),
}


@pytest.mark.parametrize('key', FAULTS)
def test_what_is_not_read_is_named(key, tmp_path):
  value, message = FAULTS[key]
  copy = tmp_path / 'adapter'
  shutil.copytree(folder('lora'), copy)
  content = json.loads((copy / peft.CONFIG).read_text())
  content['base_model_name_or_path'] = str(GOLDENS / 'qwen2')
  content[key] = value
  (copy / peft.CONFIG).write_text(json.dumps(content))
  with pytest.raises(ValueError) as caught:
    peft.load(copy)
  assert message in str(caught.value) and str(copy) in str(caught.value)


def drop(tensors, key):
  del tensors[key]


def rename(tensors, key):
  tensors[key.replace('q_proj', 'w_pack')] = tensors.pop(key)


def widen(tensors, key):
  tensors[key] = np.ones((3, 32), np.float32)


@pytest.mark.parametrize(
  'change, message',
  [
    (drop, 'layers/query/a is not there for layer 1'),
    (rename, 'w_pack.lora_A.weight" is of no matrix of this model'),
    (widen, 'has shape [3, 32], not [2, 32]'),
  ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
  copy = tmp_path / 'adapter'
  shutil.copytree(folder('lora'), copy)
  tensors = safetensors.load_file(copy / peft.WEIGHTS)
  module = 'base_model.model.model.layers.1.self_attn.q_proj'
  change(tensors, f'{module}.lora_A.weight')
  safetensors.save_file(tensors, copy / peft.WEIGHTS)
  config = hf.read_config(GOLDENS / 'qwen2')
  with pytest.raises(ValueError) as caught:
    peft.read(copy, config)
  assert message in str(caught.value)
  assert str(copy / peft.WEIGHTS) in str(caught.value)


def change_file(name, tmp_path, change):
  """A copy of an adapter with other tensors."""
  copy = tmp_path / 'adapter'
  shutil.copytree(folder(name), copy)
  tensors = safetensors.load_file(copy / peft.WEIGHTS)
  change(tensors)
  safetensors.save_file(tensors, copy / peft.WEIGHTS)
  content = json.loads((copy / peft.CONFIG).read_text())
  content['base_model_name_or_path'] = str(base_of(name))
  (copy / peft.CONFIG).write_text(json.dumps(content))
  return copy


TABLE = 'base_model.model.model.embed_tokens'


@pytest.mark.parametrize('name', ['embed', 'tied'])
def test_a_table_that_is_not_the_bases_is_refused(name, tmp_path):
  def change(tensors):
    there = [k for k in tensors if k.endswith('.weight') and 'lora' not in k]
    assert there
    tensors[there[0]] = tensors[there[0]] + 1e-3

  copy = change_file(name, tmp_path, change)
  with pytest.raises(ValueError, match='is not what the base has there'):
    peft.load(copy)


def test_a_table_of_both_ends_has_one_adapter(tmp_path):
  def change(tensors):
    tensors[f'{TABLE}.lora_embedding_A'] += 1e-3

  copy = change_file('tied', tmp_path, change)
  config = hf.read_config(base_of('tied'))
  with pytest.raises(ValueError, match='is not the transpose of'):
    peft.read(copy, config)
  content = json.loads((copy / peft.CONFIG).read_text())
  del content['ensure_weight_tying']
  (copy / peft.CONFIG).write_text(json.dumps(content))
  with pytest.raises(ValueError, match='ensure_weight_tying is not set'):
    peft.read(copy, config)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dora', 'embed', 'embed_dora', 'tied'])
def test_peft_loads_ours(name, tmp_path):
  library = pytest.importorskip('peft')
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config, params = peft.load(folder(name))
  theirs = json.loads((folder(name) / peft.CONFIG).read_text())
  part = {
    'name': 'dora' if theirs['use_dora'] else 'lora',
    'rank': theirs['r'],
    'alpha': float(theirs['lora_alpha']),
  }
  base = str(base_of(name))
  peft.save(tmp_path, config, part, adapted.trained(params), base)
  model = transformers.AutoModelForCausalLM.from_pretrained(base)
  model = library.PeftModel.from_pretrained(model, tmp_path).eval()
  tokens = np.load(base_of(name) / 'expected.npz')['tokens'][:, :12]
  with torch.no_grad():
    found = model(torch.tensor(tokens)).logits.numpy()
  expected = np.load(GOLDENS / 'peft/logits.npz')[name]
  bound = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
