"""Names of the hub in place of paths, from a hub on this machine."""

import gzip
import json
import os
import shutil

import chat_folders
import pytest
from fake_hub import Hub
from huggingface_hub import constants, utils

from posttrain_jax import evaluate, export, train
from posttrain_jax.core import hub, hub_files
from posttrain_jax.data.sources import open_source
from posttrain_jax.params import peft
from posttrain_jax.run import build, checkpoint, hub_keys, inference, roles
from posttrain_jax.run import config as config_lib

NAME, DATA = 'acme/tiny', 'acme/sums'
ASK = [{'role': 'user', 'content': '1+1'}]
ROWS = [
  {'messages': ASK + [{'role': 'assistant', 'content': f'{i}'}]}
  for i in range(4)
]


def forget():
  for cached in (hub._commit, hub._folder, hub._listing, hub._data_files):
    cached.cache_clear()


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def online(tmp_path, monkeypatch):
  """A hub with a model and a data set; the cache and this folder are empty."""
  model = tmp_path / 'model'
  chat_folders.make('qwen2_5', model)
  chat_folders.add_weights(model, width=16)
  (model / 'pytorch_model.bin').write_bytes(b'not to be loaded')
  (model / 'onnx').mkdir()
  (model / 'onnx/model.safetensors').write_bytes(b'of another library')
  data = tmp_path / 'data'
  write(data / 'main/train-00000-of-00002.jsonl', ROWS[:2])
  write(data / 'main/train-00001-of-00002.jsonl', ROWS[2:3])
  write(data / 'main/test.jsonl', ROWS[3:])
  with Hub() as fake:
    fake.model, fake.data = model, data
    fake.commit = fake.add('models', NAME, model)
    fake.data_commit = fake.add('datasets', DATA, data)
    url = fake.url + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'ENDPOINT', fake.url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', url)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.delenv('HF_TOKEN', raising=False)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    utils.close_session()
    forget()
    yield fake
  forget()
  utils.close_session()


def fetched(path, folder):
  """Whether the contents of a file have come."""
  return (folder / path).exists()


def config_of(**items):
  items = {'init_from': NAME, 'data.path': f'{DATA}:train', **items}
  items |= {'data.max_length': 400, 'eval.num_problems': 0}
  return config_lib.load(
    'configs/sft.py:data=jsonl,smoke', [(k, str(v)) for k, v in items.items()]
  )


def test_only_what_is_read_comes_and_weights_last(online):
  name = hub.pinned(NAME)
  assert name == f'{NAME}@{online.commit}' == hub.pinned(f'{NAME}@main')
  assert hub.pinned(name) == name
  place = online.model.parent / 'cache' / 'models--acme--tiny' / 'snapshots'
  place = place / online.commit
  run = build.build(config_of())
  assert run.config.init_from == run.config.tokenizer == name
  assert run.config.data.path == f'{DATA}:train@{online.data_commit}'
  assert not fetched('model.safetensors', place)
  assert run.model.width == roles.read_model(str(online.model)).width == 16
  roles.read_params(name, run.model, None)
  assert fetched('model.safetensors', place)
  assert not fetched('pytorch_model.bin', place)
  assert not fetched('onnx', place)
  assert (place / 'chat_template.jinja').read_text() == (
    online.model / 'chat_template.jinja'
  ).read_text()


@pytest.mark.parametrize(
  'spec, key, role',
  [
    ('distill', 'others.teacher', 'teacher'),
    ('preference', 'ref.path', 'ref'),
  ],
)
def test_frozen_models_have_commits_too(spec, key, role, online):
  at = f'@{online.commit}'
  items = {
    'data.path': f'{DATA}:train', 'init_from': NAME, key: f'{NAME}@main',
  }  # fmt: skip
  config = config_lib.load(f'configs/{spec}.py:data=jsonl', list(items.items()))
  found = config_lib.flatten(hub_keys.pinned(config).to_dict())
  assert found[key] == found['init_from'] == NAME + at
  assert roles.path_of(hub_keys.pinned(config), role) == NAME + at


@pytest.mark.long
def test_a_run_records_the_commit_and_goes_on_with_it(
  online, tmp_path, monkeypatch, capsys
):
  workdir = tmp_path / 'run'
  flags = [f'--config.{k}={v}' for k, v in {
    'init_from': NAME, 'data.path': f'{DATA}:train', 'data.max_length': 400,
    'eval.num_problems': 0, 'prompts_per_step': 2,
  }.items()]  # fmt: skip
  command = ['--config', 'configs/sft.py:data=jsonl,smoke', '--workdir']
  command += [str(workdir), *flags]
  assert train.main([*command, '--config.num_steps=1']) == 0
  saved = checkpoint.load_config(workdir)['config']
  name = f'{NAME}@{online.commit}'
  assert saved['init_from'] == saved['tokenizer'] == name
  head = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[0])
  assert name in json.dumps(head)
  # The repository has moved, and is out of reach, when the run goes on.
  (online.model / 'config.json').write_text('{}')
  assert online.add('models', NAME, online.model) != online.commit
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  forget()
  assert train.main([*command, '--config.num_steps=2']) == 0
  assert train.main([*command, '--config.init_from=acme/other']) == 2
  capsys.readouterr()
  # And what it gives back stands alone.
  export.export(workdir, tmp_path / 'out')
  assert (tmp_path / 'out/chat_template.jinja').exists()
  assert inference.load(str(tmp_path / 'out')).turns


@pytest.mark.long
def test_a_model_of_the_hub_is_judged_on_its_data(online, capsys):
  assert evaluate.main(['--model', NAME, '--data', f'{DATA}:test']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['model'] == f'{NAME}@{online.commit}'
  assert found['eval/records'] == 1


@pytest.mark.long
def test_an_adapter_finds_its_base_on_the_hub(online, tmp_path):
  config, params = roles.read_model(NAME), roles.read_params(
    NAME, roles.read_model(NAME), None
  )  # fmt: skip
  import jax

  from posttrain_jax.models import adapted
  from posttrain_jax.params import adapters

  made = adapters.lora(rank=2).attach(params, jax.random.key(0))
  part = {'name': 'lora', 'rank': 2, 'alpha': 32.0}
  out = tmp_path / 'adapter'
  peft.save(out, config, part, adapted.trained(made), hub.pinned(NAME))
  content = json.loads((out / peft.CONFIG).read_text())
  assert content['base_model_name_or_path'] == NAME
  assert content['revision'] == online.commit
  assert peft.base_of(out) == hub.pinned(NAME)
  online.add('models', 'acme/adapter', out)
  read = roles.read_params('acme/adapter', config, None)
  assert jax.tree.structure(read) == jax.tree.structure(made)


def test_parts_of_a_data_set(online, tmp_path):
  count = lambda text: len(open_source(text))
  assert count(f'{DATA}:train') == count(f'{DATA}:main/train@main') == 3
  assert count(f'{DATA}:main/*.jsonl') == 4
  assert count({'path': DATA, 'split': 'test'}) == 1
  weighted = [{'path': f'{DATA}:train', 'weight': 1.0}]
  config = config_of(**{'data.path': '', 'data.sources': weighted})
  assert hub_keys.pinned(config).data.sources[0] == {
    'path': f'{DATA}:train@{online.data_commit}', 'weight': 1.0,
  }  # fmt: skip
  with pytest.raises(ValueError, match='parts main/test, main/train: name one'):
    open_source(DATA)
  with pytest.raises(ValueError, match='no part and no file "trian"'):
    open_source(f'{DATA}:trian')
  # A card has the last word.
  card = '---\nconfigs:\n- config_name: default\n  data_files:\n'
  card += '  - split: train\n    path: main/t*.jsonl\n---\n'
  (online.data / 'README.md').write_text(card)
  online.add('datasets', 'acme/carded', online.data)
  assert count('acme/carded') == 4
  with gzip.open(tmp_path / 'x.csv.gz', 'wb') as file:
    file.write(b'a,b')
  (tmp_path / 'csv').mkdir()
  shutil.move(tmp_path / 'x.csv.gz', tmp_path / 'csv/x.csv')
  online.add('datasets', 'acme/csv', tmp_path / 'csv')
  with pytest.raises(ValueError, match='no files of JSON lines.*of .csv'):
    open_source('acme/csv')


@pytest.mark.parametrize(
  'files, parts',
  [
    (['train.jsonl', 'test.jsonl'], ['test', 'train']),
    (['data/train-00000-of-00001-0a1b2c3d4e.parquet'], ['train']),
    (['default/train/0000.parquet', 'default/train/0001.parquet'],
     ['default/train']),
    (['a/x_1.json.gz', 'a/x_2.json.gz', 'b/x.jsonl'], ['a/x', 'b/x']),
  ],
)  # fmt: skip
def test_parts_by_the_names_of_files(files, parts):
  assert sorted(hub_files._by_name(files)) == parts


@pytest.mark.parametrize(
  'name, told',
  [
    ('acme/nothing', 'under "acme/nothing", no model .* and .* has no model'),
    (f'{NAME}@v9', 'has no revision "v9"'),
    ('acme/gated', 'is gated: accept its terms there'),
  ],
)
def test_what_cannot_be_had_is_told(online, name, told):
  online.gated.add('acme/gated')
  with pytest.raises(ValueError, match=f'init_from={name}: .*{told}'):
    build.build(config_of(init_from=name))


def test_without_a_network(online, monkeypatch, capsys):
  here = hub.folder(NAME, weights=True)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  forget()
  assert hub.folder(NAME, weights=True) == here
  with pytest.raises(
    ValueError, match='OFFLINE keeps .* from being asked: unset it'
  ):
    hub.folder('acme/other')
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  forget()
  assert hub.folder(NAME, weights=True) == here
  assert evaluate.main(['--model', 'acme/other', '--data', 'x.jsonl']) == 2
  assert 'x.jsonl' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r'did not give it \(.*\): download it'):
    hub.folder('acme/other')


def test_weights_that_are_not_safetensors(online, tmp_path):
  os.remove(online.model / 'model.safetensors')
  online.add('models', 'acme/pickled', online.model)
  with pytest.raises(ValueError, match='has no model.safetensors: weights are'):
    hub.folder('acme/pickled', weights=True)


def test_what_is_here_is_no_name_of_the_hub(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert hub.parse('runs/x') == ('runs/x', '', '')
  (tmp_path / 'runs').mkdir()
  assert hub.parse('runs/x') is None  # a run that is not there
  assert hub.parse('runs/x@main') == ('runs/x', '', 'main')
  with pytest.raises(ValueError, match='of the hub it would be "runs/x@main"'):
    roles.read_model('runs/x')
  (tmp_path / 'runs/x@main').mkdir()
  assert hub.parse('runs/x@main') is None
  for text in ('', 'byte', '/a/b', './a/b', 'a/b/c', 'a/*', '~/b', None, 3):
    assert hub.parse(text) is None and hub.parse(text, data=True) is None
  assert hub.parse('data/x.jsonl', data=True) is None
  assert hub.parse('org/x:train') is None
  assert hub.parse('org/x:a/b-*.parquet@v1', data=True) == (
    'org/x', 'a/b-*.parquet', 'v1',
  )  # fmt: skip
