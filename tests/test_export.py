"""A run's folder becomes a Hugging Face folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from posttrain_jax import export
from posttrain_jax.core.types import TrainState
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig, RopeScaling
from posttrain_jax.run import checkpoint

MODEL = ModelConfig(
  num_layers=2,
  width=8,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_dim=6,
  rope_scaling=RopeScaling(factor=4.0),
  value_head=True,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run with two checkpoints; the parameters of step s are all s."""
  workdir = tmp_path_factory.mktemp('run')
  table = transformer.param_table(MODEL)
  saved = {'tokenizer': 'task'}
  checkpoint.save_config(
    workdir,
    {'config': saved, 'resolved_model': dataclasses.asdict(MODEL)},
  )
  with checkpoint.Checkpointer(workdir, keep=0) as checkpointer:
    for step in (3, 5):
      flat = {k: np.full(p.shape, step, np.float32) for k, p in table.items()}
      params = traverse_util.unflatten_dict(flat, sep='/')
      params = jax.tree.map(jax.numpy.asarray, params)
      checkpointer.save(step, TrainState(jax.numpy.int32(step), params, ()))
    checkpointer.wait()
  return workdir


@pytest.mark.parametrize('where, step', [('', 5), ('checkpoints/3', 3)])
def test_export_then_load(run, where, step, tmp_path, capsys):
  command = ['--checkpoint', str(run / where), '--out', str(tmp_path)]
  assert export.main(command) == 0
  assert capsys.readouterr().out.splitlines() == [
    f'wrote step {step} of {run} to {tmp_path}',
    'left out: the value head',
    'no tokenizer files: the run used "task"',
  ]
  config, params = hf.load(tmp_path)
  expected = dataclasses.replace(MODEL, value_head=False)
  assert config == expected
  table = transformer.param_table(expected)
  flat = traverse_util.flatten_dict(params, sep='/')
  assert {k: x.shape for k, x in flat.items()} == {
    k: p.shape for k, p in table.items()
  }
  assert all((x == step).all() for x in flat.values())
  values = json.loads((tmp_path / 'config.json').read_text())
  assert (values['eos_token_id'], values['pad_token_id']) == (1, 0)


def test_dtype(run, tmp_path):
  export.export(run, tmp_path, 'bfloat16')
  values = json.loads((tmp_path / 'config.json').read_text())
  assert values['torch_dtype'] == 'bfloat16'


@pytest.mark.parametrize('file', ['tokenizer.json', 'mine.json'])
def test_tokenizer_files_are_copied(file, run, tmp_path, monkeypatch):
  source = tmp_path / 'tokenizer'
  source.mkdir()
  (source / file).write_text('{}')
  saved = checkpoint.load_config(run)
  named = source if file == 'tokenizer.json' else source / file
  saved['config']['tokenizer'] = str(named)
  monkeypatch.setattr(checkpoint, 'load_config', lambda _: saved)
  task = export.tokenizers.TaskTokenizer()
  monkeypatch.setattr(export.tokenizers, 'load', lambda _: task)
  report = export.export(run, tmp_path / 'out')
  assert report[-1] == 'copied: tokenizer.json'
  assert (tmp_path / 'out' / 'tokenizer.json').read_text() == '{}'


def test_errors(run, tmp_path, capsys):
  command = lambda path: export.main(
    ['--checkpoint', str(path), '--out', str(tmp_path / 'out')]
  )
  assert command(tmp_path) == 2
  assert 'error: no checkpoint under' in capsys.readouterr().err
  assert command(run / 'checkpoints' / '4') == 2
  assert 'no checkpoint of step 4' in capsys.readouterr().err
  assert command(run) == 0
  assert command(run) == 2
  assert 'model.safetensors: exists' in capsys.readouterr().err
