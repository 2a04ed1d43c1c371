"""Adapters as PEFT stores them: its folders read, ours the same as its own."""

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
NAMES = ('lora', 'rslora', 'dora')


def folder(name):
  return GOLDENS / 'peft' / name


@pytest.fixture(scope='module')
def logits():
  config, _ = hf.load(GOLDENS / 'qwen2')
  tokens = np.load(GOLDENS / 'qwen2/expected.npz')['tokens'][:, :12]
  run = jax.jit(lambda params: transformer.apply(params, config, tokens)[0])
  with jax.default_matmul_precision('highest'):
    yield run


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_peft(name, logits):
  expected = np.load(GOLDENS / 'peft/logits.npz')[name]
  bare = np.load(GOLDENS / 'qwen2/expected.npz')['logits'][:, :12]
  _, params = peft.load(folder(name))
  found = logits(params)
  bound = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
  merged = logits(adapted.merged(params))
  np.testing.assert_allclose(merged, expected, atol=2 * bound, rtol=0)
  assert np.abs(expected - bare).max() > 0.1


@pytest.mark.parametrize('name', NAMES)
def test_what_is_written_is_what_peft_wrote(name, tmp_path):
  theirs = json.loads((folder(name) / peft.CONFIG).read_text())
  config, params = peft.load(folder(name))
  alpha = float(theirs['lora_alpha'])
  part = {'name': name, 'rank': theirs['r'], 'alpha': alpha}
  base = theirs['base_model_name_or_path']
  peft.save(tmp_path, config, part, adapted.trained(params), base)
  ours = safetensors.load_file(tmp_path / peft.WEIGHTS)
  there = safetensors.load_file(folder(name) / peft.WEIGHTS)
  assert ours.keys() == there.keys()
  for key, x in there.items():
    assert ours[key].dtype == x.dtype and ours[key].tobytes() == x.tobytes()
  written = json.loads((tmp_path / peft.CONFIG).read_text())
  for key, value in written.items():
    same = set if isinstance(value, list) else lambda x: x
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


@pytest.mark.slow
def test_peft_loads_ours(tmp_path):
  library = pytest.importorskip('peft')
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config, params = peft.load(folder('dora'))
  part = {'name': 'dora', 'rank': 2, 'alpha': 4.0}
  base = str(GOLDENS / 'qwen2')
  peft.save(tmp_path, config, part, adapted.trained(params), base)
  model = transformers.AutoModelForCausalLM.from_pretrained(base)
  model = library.PeftModel.from_pretrained(model, tmp_path).eval()
  tokens = np.load(GOLDENS / 'qwen2/expected.npz')['tokens'][:, :12]
  with torch.no_grad():
    found = model(torch.tensor(tokens)).logits.numpy()
  expected = np.load(GOLDENS / 'peft/logits.npz')['dora']
  bound = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
