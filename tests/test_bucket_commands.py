"""What launch/README says of buckets, each against one in memory."""

import json
import os
from pathlib import Path

import fake_gcs
import jax
import numpy as np
import pytest
from front_door import command, make

from posttrain_jax import (
  compare,
  evaluate,
  export,
  log,
  sample,
  show_data,
  train,
)
from posttrain_jax.core import buckets, hub, paths
from posttrain_jax.data import sources, tokenizers
from posttrain_jax.models import hf
from posttrain_jax.params import peft
from posttrain_jax.run import checkpoint, roles
from posttrain_jax.sweep import __main__ as sweep

AT = 'gs://bucket'
FEW = {
  'num_steps': 2, 'checkpoint.every': 1, 'checkpoint.keep': 0,
  'prompts_per_step': 4, 'data.eval_fraction': 0, 'eval.num_problems': 0,
}  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return make(tmp_path_factory.mktemp('front_door'))


@pytest.fixture
def objects(folder, tmp_path, monkeypatch):
  """A bucket with the model and the files; the cache is empty."""
  monkeypatch.setenv(buckets.CACHE, str(tmp_path / 'cache'))
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  buckets._folder.cache_clear()
  with fake_gcs.served() as store:
    put(store, folder / 'model', 'model')
    for name in ('chat', 'pairs', 'prompts'):
      put(store, folder / f'{name}.jsonl', f'data/{name}.jsonl')
    yield store
  buckets._folder.cache_clear()


def put(store, source, name):
  """Copies a file or a folder into the bucket, as `gcloud storage cp` does."""
  if source.is_file():
    store[f'bucket/{name}'] = source.read_bytes()
  for file in filter(Path.is_file, source.rglob('*')):
    inside = file.relative_to(source).as_posix()
    store[f'bucket/{name}/{inside}'] = file.read_bytes()


def words(stage, start, workdir, **keys):
  file = f'{AT}/data/{ {"sft": "chat", "dpo": "pairs"}[stage] }.jsonl'
  keys = {'data.path': file, **FEW, **keys}
  return command(stage, start, workdir, **keys)


def test_folders_and_files_have_copies(objects, folder, tmp_path):
  place = hub.folder(f'{AT}/model')
  assert Path(place).is_relative_to(tmp_path / 'cache')
  assert sorted(os.listdir(place)) == [
    'chat_template.jinja', 'config.json', 'generation_config.json',
    'tokenizer.json', 'tokenizer_config.json',
  ]  # fmt: skip
  whole = hub.folder(f'{AT}/model', weights=True)
  for file in (folder / 'model').iterdir():
    assert (Path(whole) / file.name).read_bytes() == file.read_bytes()
  assert hub.elsewhere(f'{AT}/model') and not hub.elsewhere(f'{AT}/data')
  assert hub.folder(f'{AT}/nothing') == f'{AT}/nothing'
  assert roles.is_hf_folder(f'{AT}/model')
  ours, theirs = roles.read_model(f'{AT}/model'), hf.load(folder / 'model')
  jax.tree.map(
    np.testing.assert_array_equal,
    roles.read_params(f'{AT}/model', ours, None), theirs[1],
  )  # fmt: skip
  assert tokenizers.load(f'{AT}/model').stops == (
    tokenizers.load(folder / 'model').stops
  )
  count = lambda spec: len(sources.open_source(spec))
  assert count(f'{AT}/data/chat.jsonl') == 100
  assert count([f'{AT}/data/p*.jsonl', f'{AT}/data/chat.jsonl']) == 300
  with pytest.raises(ValueError, match='Did you mean "chat.jsonl"'):
    sources.open_source(f'{AT}/data/chta.jsonl')
  # What has changed is copied anew.
  old = sources.open_source(f'{AT}/data/chat.jsonl')[0].columns
  new = {'messages': [{'role': 'user', 'content': 'new'}]}
  objects['bucket/data/chat.jsonl'] = json.dumps(new).encode()
  assert old != new == sources.open_source(f'{AT}/data/chat.jsonl')[0].columns
  del objects['bucket/model/model.safetensors']
  buckets._folder.cache_clear()
  with pytest.raises(ValueError, match=f'{AT}/model has no model.safetensors'):
    hub.folder(f'{AT}/model', weights=True)


def test_a_part_of_a_saved_folder(objects):
  saved = Path(__file__).parent / 'goldens' / 'saved_dataset'
  put(objects, saved, 'saved')
  here = sources.open_source(f'{saved}:test')
  there = sources.open_source(f'{AT}/saved:test')
  assert [here[i].columns for i in range(len(here))] == [
    there[i].columns for i in range(len(there))
  ]


def test_an_object_that_cannot_be_copied(objects, monkeypatch):
  def fails(*_, **__):
    raise RuntimeError('429 Too Many Requests\nmore')

  monkeypatch.setattr(fake_gcs.FileSystem, '_open', fails)
  with pytest.raises(
    ValueError, match=f'{AT}/data/chat.jsonl cannot be copied to .*: 429 Too'
  ) as error:
    sources.open_source(f'{AT}/data/chat.jsonl')
  assert '\n' not in str(error.value)


@pytest.mark.long
def test_a_run_on_what_lies_in_a_bucket(objects, folder, capsys):
  """Model, tokenizer, file, run and events; then what begins from it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    start = command('sft', 'model', 'runs/same', **FEW)
    assert train.main(start) == 0
  first = {'stage': 'sft', 'start': f'{AT}/model', 'workdir': f'{AT}/sft',
           'log.tensorboard': True}  # fmt: skip
  assert train.main(words(**first)) == 0
  ours, theirs = log.read(f'{AT}/sft')[1], log.read(folder / 'runs/same')[1]
  assert [row['loss'] for row in ours] == [row['loss'] for row in theirs]
  saved = checkpoint.load_config(f'{AT}/sft')['config']
  assert saved['tokenizer'] == saved['init_from'] == f'{AT}/model'
  assert any('/sft/tensorboard/events' in key for key in objects)
  assert b'"loss"' in objects['bucket/sft/metrics.jsonl']
  # The same command goes on; another run begins from it, or from a step.
  assert train.main(words(**first, num_steps=3)) == 0
  assert checkpoint.find(f'{AT}/sft')[1] == 3
  assert train.main(words('sft', f'{AT}/sft/checkpoints/2', f'{AT}/a')) == 0
  assert train.main(words('dpo', f'{AT}/sft', f'{AT}/b', num_steps=1)) == 0
  # One that was copied there from a disk, as well; its tokenizer is not there.
  put(objects, folder / 'runs/same', 'copied')
  own = {'tokenizer': f'{AT}/model', 'num_steps': 1}
  assert train.main(words('sft', f'{AT}/copied', f'{AT}/c', **own)) == 0
  # A step of which something is missing is refused.
  for key in [k for k in objects if '/copied/checkpoints/2/d' in k]:
    del objects[key]
  again = words('sft', f'{AT}/copied/checkpoints/2', f'{AT}/d', **own)
  capsys.readouterr()
  assert train.main(again) == 2
  assert 'copied/checkpoints/2 cannot be used' in capsys.readouterr().err
  assert checkpoint.find(f'{AT}/copied')[1] == 1
  shown = [f'{AT}/sft', f'{AT}/nothing']
  for path, status in zip(shown, (0, 2)):
    ask = ['--model', path, '--data', f'{AT}/data/chat.jsonl']
    assert evaluate.main(ask) == status
  said = capsys.readouterr()
  assert json.loads(said.out)['eval/records'] == 100
  assert (
    said.err.splitlines()[-1] == f'error: {AT}/nothing: there is no such folder'
  )


@pytest.mark.slow
def test_what_commands_write_goes_into_a_bucket(objects, capsys):
  run, prompts = f'{AT}/sft', f'{AT}/data/prompts.jsonl'
  assert train.main(words('sft', f'{AT}/model', run)) == 0
  adapted = {'adapter.name': 'lora', 'adapter.rank': 2}
  assert train.main(words('sft', run, f'{AT}/lora', **adapted)) == 0
  assert (
    train.main(words('sft', run, f'{AT}/lora', num_steps=3, **adapted)) == 0
  )
  few = ['--max_new_tokens', '2']
  ask = ['--model', run, '--data', prompts, *few, '--out', f'{AT}/said.jsonl']
  assert sample.main(ask) == 0
  assert sample.main(ask) == 2  # it is there already
  assert len(objects['bucket/said.jsonl'].splitlines()) == 100
  assert not any(sample.PARTIAL in key for key in objects)
  beside = ['--models', run, f'{AT}/model', '--data', prompts, *few]
  assert compare.main([*beside, '--out', f'{AT}/page']) == 0
  assert b'<html' in objects[f'bucket/page/{compare.PAGE}']
  assert len(objects[f'bucket/page/{compare.LINES}'].splitlines()) == 100
  out = ['--checkpoint', run, '--out', f'{AT}/out']
  assert export.main(out) == 0
  assert export.main(out) == 2  # it has weights already
  assert export.main(['--checkpoint', run, '--out', 'out']) == 0
  for file in Path('out').iterdir():
    assert objects[f'bucket/out/{file.name}'] == file.read_bytes()
  # An adapter on a folder in the bucket goes on with it, and names it.
  keys = {'stage': 'sft', 'start': f'{AT}/model', 'workdir': f'{AT}/beside'}
  assert train.main(words(**keys, **adapted)) == 0
  assert train.main(words(**keys, **adapted, num_steps=3)) == 0
  out = ['--checkpoint', f'{AT}/beside', '--out', 'beside', '--adapter']
  capsys.readouterr()
  assert export.main(out) == 0
  assert f'PEFT reads no bucket: copy {AT}/model' in capsys.readouterr().out
  assert peft.base_of('beside') == f'{AT}/model'
  # Another, with the base that lies in no folder of its own.
  out = ['--checkpoint', f'{AT}/lora', '--out', f'{AT}/apart', '--adapter']
  assert export.main(out) == 0
  buckets._folder.cache_clear()
  data = ['--data', f'{AT}/data/chat.jsonl']
  scores = []
  for model in (f'{AT}/lora', f'{AT}/apart'):
    capsys.readouterr()
    assert evaluate.main(['--model', model, *data]) == 0
    scores.append(json.loads(capsys.readouterr().out))
  np.testing.assert_allclose(
    scores[0]['eval/loss'], scores[1]['eval/loss'], rtol=1e-5
  )
  show_data.main(['--data', prompts, '--model', f'{AT}/model', '--num', '1'])
  grid = ['--config', 'configs/sft.py:smoke', '--config.num_steps=2']
  assert sweep.main([*grid, '--seeds', '2', '--workdir', f'{AT}/sw']) == 0
  assert b'seed' in objects['bucket/sw/results.csv']
  assert paths.path(f'{AT}/sw/runs').is_dir()
