"""Config files of one's own: every key is known, every fault is a sentence."""

import importlib
import re
from pathlib import Path

import ml_collections
import pytest

from configs import recipes
from posttrain_jax import trainers
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import config_file, values

ROOT = Path(__file__).parent.parent
OWN = """
from configs import sft

def get_config(arg=None):
  c = sft.get_config(arg)
  {line}
  return c
"""


def own(folder: Path, line: str, name: str = 'mine.py') -> str:
  file = folder / name
  file.write_text(OWN.format(line=line))
  return str(file)


def sections(config, above=()):
  """Every section of a config, the top one too."""
  yield above
  for key, item in config.items():
    if isinstance(item, ml_collections.ConfigDict):
      yield from sections(item, (*above, key))


@pytest.mark.parametrize('paradigm', sorted(trainers.KINDS))
def test_an_unknown_key_of_any_section_is_refused(paradigm):
  plain = importlib.import_module(f'configs.{paradigm}').get_config()
  values.check(plain)
  for path in sections(plain):
    # A task is refused where it is made; roles of models have any name.
    if path and path[0] in ('task', 'others'):
      continue
    config = plain.copy_and_resolve_references()
    node = config
    for key in path:
      node = node[key]
    leaves = [
      k for k in node if not isinstance(node[k], ml_collections.ConfigDict)
    ]
    near = next(iter(leaves), '')
    if not near:
      continue
    node[f'{near}x'] = 1
    key = '.'.join((*path, f'{near}x'))
    with pytest.raises(
      ValueError, match=f'unknown config key "{key}".'
    ) as told:
      values.check(config)
    assert f'Did you mean "{key[:-1]}"' in str(told.value)


@pytest.mark.parametrize('paradigm', sorted(trainers.KINDS))
def test_recipes_have_no_unknown_key(paradigm):
  module = importlib.import_module(f'configs.{paradigm}')
  for name in recipes.rows(paradigm):
    values._check_known(module.get_config(f'recipe={name}'))


def test_a_key_misspelt_in_a_file(tmp_path):
  config = config_lib.load(own(tmp_path, 'c.optimizer.lrr = 1e-4'))
  with pytest.raises(ValueError, match=r'Did you mean "optimizer\.lr"'):
    values.check(config)
  # Beside a flag, which may be misspelt as well.
  items = [('optimizer.lrr', '1e-4')]
  with pytest.raises(ValueError, match='unknown config key'):
    values.check(config_lib.load(own(tmp_path, 'pass'), items))


@pytest.mark.parametrize('line, message', [
  ('return', r'mine.py: get_config\(\) returns NoneType, not an ml_coll'),
  ('return 3', r'get_config\(\) returns int, not'),
  ('return dict(c)', r'get_config\(\) returns dict, not'),
  ('c.num_steps = "100"', r'mine\.py:6: TypeError: .*num_steps'),
  ('c.num_stepss.x = 1', r'mine\.py:6: AttributeError: .*num_stepss'),
  ('c.num_steps = = 1', r'mine\.py:6: SyntaxError: invalid syntax'),
  ('import nothing_there', r'mine\.py:6: ModuleNotFoundError: .*nothing_there'),
  ('int("x")', r"mine\.py:6: invalid literal for int\(\) .*'x'"),
  ('1 / 0', r'mine\.py:6: ZeroDivisionError'),
  ('sft.task_entry("additon")', r'mine\.py:6: .*Did you mean "addition"'),
])  # fmt: skip
def test_a_fault_in_a_file_is_a_sentence(tmp_path, line, message):
  with pytest.raises(ValueError, match=message) as told:
    config_lib.load(own(tmp_path, line))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('name', ['mine.txt', 'mine'])
def test_a_file_that_is_not_python(tmp_path, name):
  with pytest.raises(ValueError, match=r'its name does not end \.py'):
    config_lib.load(own(tmp_path, 'pass', name))


def test_only_the_documented_path_stands_for_a_file_of_the_package(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(config_file, '_told', set())
  assert config_file.find('configs/sft.py').samefile(ROOT / 'configs/sft.py')
  assert 'configs/sft.py is not here: ' in capsys.readouterr().err
  config_file.find('configs/sft.py')
  assert not capsys.readouterr().err  # once
  for path in ('config/sft.py', 'sft.py', f'{tmp_path}/sft.py',
               f'{tmp_path}/configs/sft.py', 'configs/x/sft.py'):  # fmt: skip
    message = f'no config file "{path}".* "configs/sft.py"'
    with pytest.raises(ValueError, match=message):
      config_file.find(path)


def test_the_nearest_file_is_one_beside_it(tmp_path):
  file = own(tmp_path, 'pass', 'my_sft_run.py')
  asked = file.replace('run.py', 'rum.py')
  message = f'Did you mean "{re.escape(file)}"'
  with pytest.raises(ValueError, match=message):
    config_file.find(asked)
