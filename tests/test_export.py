"""A run's folder becomes a Hugging Face folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers as hf_tokenizers
from flax import traverse_util

from posttrain_jax import export
from posttrain_jax.core.types import TrainState
from posttrain_jax.data import chat, tokenizers
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.config import ModelConfig, RopeScaling
from posttrain_jax.run import checkpoint, inputs
from posttrain_jax.run import config as config_lib

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


@pytest.mark.parametrize('flag', ['--adapter', '--merge'])
def test_a_run_without_adapters_has_none_to_write(run, flag, tmp_path, capsys):
  command = ['--checkpoint', str(run), '--out', str(tmp_path), flag]
  assert export.main(command) == 2
  assert f'has no adapters; leave out {flag}' in capsys.readouterr().err
  assert not any(tmp_path.iterdir())


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
  flags = ['--checkpoint', str(run), '--out', str(tmp_path / 'out')]
  assert export.main([*flags, '--dtyp', 'float32']) == 2
  assert 'Did you mean "--dtype"?' in capsys.readouterr().err
  assert command(run) == 0
  assert command(run) == 2
  assert 'model.safetensors: exists' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['', *export.KEPT])
def test_a_folder_that_is_something_is_left_alone(run, name, tmp_path, capsys):
  out = tmp_path / 'out'
  if name:
    out.mkdir()
    (out / name).write_text('mine')
  else:  # the run itself
    out = run
  files = lambda: {x: x.stat().st_mtime_ns for x in out.rglob('*')}
  before = files()
  assert export.main(['--checkpoint', str(run), '--out', str(out)]) == 2
  assert 'exists; save into an empty folder' in capsys.readouterr().err
  assert files() == before


CHAT = [
  {'role': 'user', 'content': 'hello'},
  {'role': 'assistant', 'content': 'world'},
]
PLAIN = (
  "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + "
  "eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
  "{{ '<|assistant|>\\n' }}{% endif %}"
)
CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] "
  "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
  "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(params=['chatml', 'plain'])
def folder(request, tmp_path):
  """A tokenizer's folder with a template and sampling settings of its own."""
  path = tmp_path / 'base'
  tokenizers.BPETokenizer.train(['hello world user'] * 9, 290).save(path)
  if request.param == 'chatml':
    file = str(path / 'tokenizer.json')
    tokenizer = hf_tokenizers.Tokenizer.from_file(file)
    tokenizer.add_special_tokens(['<|im_start|>', '<|im_end|>'])
    tokenizer.save(file)
  config = path / 'tokenizer_config.json'
  older = json.loads(config.read_text()) | {'chat_template': 'older'}
  config.write_text(json.dumps(older))
  (path / 'chat_template.jinja').write_text('theirs')
  (path / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': 7, 'top_k': 5})
  )
  return path


@pytest.mark.parametrize('turns', [True, False, None])
def test_a_folder_stops_and_speaks_as_it_was_trained(
  turns, folder, run, tmp_path, monkeypatch
):
  tokenizer = tokenizers.load(folder)
  saved = checkpoint.load_config(run) | {'conversations': turns}
  saved['config'] |= {'tokenizer': str(folder), 'init_from': str(folder)}
  saved['resolved_model']['vocab_size'] = tokenizer.vocab_size
  monkeypatch.setattr(checkpoint, 'load_config', lambda _: saved)
  written = {}
  monkeypatch.setattr(hf, 'save', lambda *_, **ids: written.update(ids))
  out = tmp_path / 'out'
  out.mkdir()
  export.export(run, out)
  stop, eos = chat.our_stop(tokenizer), tokenizer.eos_id
  # Where it is not known, both may have been trained; 7 is the folder's own.
  stops = [eos, 7] if turns is False or stop == eos else [stop, eos, 7]
  found = json.loads((out / 'generation_config.json').read_text())
  assert found == {
    'eos_token_id': stops,
    'pad_token_id': tokenizer.pad_id,
    'bos_token_id': tokenizer.bos_id,
    'top_k': 5,
  }
  assert written['eos_id'] == stops
  template = (out / 'chat_template.jinja').read_text()
  named = json.loads((out / 'tokenizer_config.json').read_text())
  if turns:
    assert template == chat.template(tokenizer)
    assert template == (PLAIN if stop == eos else CHATML)
    assert 'chat_template' not in named
  else:
    assert (template, named['chat_template']) == ('theirs', 'older')


@pytest.mark.parametrize('records, expected', [
  ([{'messages': CHAT}], True),
  ([{'prompt': CHAT[:1], 'completion': CHAT[1:]}], True),
  ([{'prompt': 'a', 'completion': 'b'}], False), ([{'text': 'a'}], False),
])  # fmt: skip
def test_a_run_knows_whether_it_trains_turns(records, expected, tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('\n'.join(map(json.dumps, records)))
  c = config_lib.load(
    'configs/sft.py:data=jsonl,smoke', [('data.path', str(path))]
  )
  assert inputs.conversations(c) is expected
  c = config_lib.load('configs/sft.py:smoke', [])
  assert inputs.conversations(c) is False
