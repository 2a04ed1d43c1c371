"""'~' is the home folder wherever a path is taken: keys and flags."""

import ast
import importlib
from pathlib import Path

import pytest

import posttrain_jax
from posttrain_jax import trainers
from posttrain_jax.core import paths
from posttrain_jax.core.domain import Text
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import values

ROOT = Path(posttrain_jax.__file__).parent


@pytest.fixture(autouse=True)
def home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')


@pytest.mark.parametrize('paradigm', sorted(trainers.KINDS))
def test_every_text_key_of_a_config(paradigm):
  spec = f'configs/{paradigm}.py'
  plain = importlib.import_module(f'configs.{paradigm}').get_config()
  texts = [
    key
    for key, _, domain in values.entries(plain)
    if isinstance(domain, Text) and key.rpartition('.')[2] != 'name'
  ]
  assert {'init_from', 'tokenizer', 'ref.path'} <= set(texts)
  items = [(key, '~/x/y') for key in texts]
  found = config_lib.flatten(config_lib.load(spec, items).to_dict())
  assert {found[key] for key in texts} == {'/home/me/x/y'}


def test_lists_of_a_config():
  sources = '[{"path": "~/a.jsonl", "weight": 0.5}, {"path": "~/b.jsonl"}]'
  items = [('data.sources', sources)]
  found = config_lib.load('configs/sft.py:data=jsonl', items).data.sources
  assert [x['path'] for x in found] == [f'/home/me/{x}.jsonl' for x in 'ab']
  items = [('rewards', '[{"name": "~/mine.py:short", "weight": 1.0}]')]
  found = config_lib.load('configs/rl.py', items).rewards
  assert found[0]['name'] == '/home/me/mine.py:short'


@pytest.mark.parametrize('text, expected', [
  ('~/a', '/home/me/a'), ('~/a,~/b,c', '/home/me/a,/home/me/b,c'),
  ('~', '/home/me'), ('a~/b', 'a~/b'), ('~5 of 10', '~5 of 10'), ('', ''),
  (3, 3), (['~/a', {'x': '~/b'}], ['/home/me/a', {'x': '/home/me/b'}]),
])  # fmt: skip
def test_what_is_a_path_of_the_home_folder(text, expected):
  assert paths.expanded(text) == expected


def test_words_of_a_command_line():
  words = ['--out', '~/x', '--data=~/d', '--prompt', '~/p', '--prompt=~/p', 'q']
  assert paths.words(words) == [
    '--out', '/home/me/x', '--data=/home/me/d', '--prompt', '~/p',
    '--prompt=~/p', 'q',
  ]  # fmt: skip


def parsing():
  for file in sorted(ROOT.rglob('*.py')):
    text = file.read_text()
    if 'ArgumentParser(' in text:
      yield pytest.param(text, id=str(file.relative_to(ROOT)))


@pytest.mark.parametrize('text', parsing())
def test_every_command_takes_its_words_there(text):
  """Whoever parses flags gives argparse nothing but `paths.words`, a name made
  of it, or hands its parser to `core_flags.read`."""
  assert 'paths.words(' in text or 'core_flags.read(' in text
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      name, given = node.func.attr, node.args[0] if node.args else None
      if name in ('parse_args', 'parse_known_args', 'split_flags'):
        assert ast.unparse(given).startswith('paths.words(') or (
          isinstance(given, ast.Name) and given.id == 'rest'
        )
