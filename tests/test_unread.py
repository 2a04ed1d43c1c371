"""Keys that a run does not read are told, and no others."""

import json

import pytest
import unread_keys

from posttrain_jax.run import build, unread
from posttrain_jax.run import config as config_lib

ROWS = {
  'sft': {'prompt': 'q', 'completion': 'a'},
  'preference': {'prompt': 'q', 'chosen': 'a', 'rejected': 'b'},
  'rl': {'prompt': 'q', 'answer': 'a'},
}
ROWS['distill'] = ROWS['sft']
TINY = {
  'prompts_per_step': '4', 'optimizer.lr': '1e-3', 'model.preset': 'depth-1',
}  # fmt: skip
FILE = {'data.max_length': '16'}
TEACHER = {'others.teacher': 'tests/goldens/qwen3'}
JUDGED = {'rewards': '[{"name": "exact_match"}]', 'max_new_tokens': '8'}
# {what a run is of: (arguments of its config, keys)}
RUNS = {
  'sft': ('smoke', {}),
  'sft file': ('smoke,data=jsonl', FILE),
  'sft held': ('smoke,data=jsonl', {**FILE, 'data.eval_fraction': '0.2'}),
  'sft text': ('smoke,task=text:chain_sum', {}),
  'preference': ('smoke', {'group_size': '4'}),
  'preference file': ('smoke,data=jsonl', FILE),
  'distill': ('smoke', TEACHER),
  'rl': ('smoke', {}),
  'rl file': ('smoke,data=jsonl', JUDGED),
  'rl text': ('smoke,task=text:chain_sum', {'max_new_tokens': '8'}),
}


@pytest.fixture
def load(tmp_path):
  """(name of RUNS, **keys) -> its config."""

  def make(name, keys=()):
    paradigm = name.split()[0]
    args, items = RUNS[name]
    if 'data=jsonl' in args:
      path = tmp_path / 'rows.jsonl'
      rows = [{**ROWS[paradigm], 'prompt': f'q{i}'} for i in range(60)]
      path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
      items = {**items, 'data.path': str(path)}
    items = {**TINY, **items, **dict(keys)}
    return config_lib.load(f'configs/{paradigm}.py:{args}', list(items.items()))

  return make


def others(config, keys):
  """{key: another value} of keys that have one."""
  found = {key: unread_keys.other(config, key) for key in keys}
  return {k: x for k, x in found.items() if x is not None}


@pytest.mark.parametrize('name', RUNS)
def test_what_is_told_changes_nothing(name, load):
  """All keys that a run is said not to read, changed at once."""
  config = load(name)
  before, run = unread_keys.fingerprint(config)
  assert run is not None, before
  assert unread.notes(run) == []  # of what the shipped config says
  names = [key for key in unread.unread(run) if not key.endswith('.name')]
  changed = others(config, names)
  assert len(changed) > 4
  after, run = unread_keys.fingerprint(config_lib.with_values(config, changed))
  assert after == before
  told = ' '.join(unread.notes(run))
  assert [key for key in changed if f'{key}=' not in told] == []


@pytest.mark.parametrize('name', RUNS)
def test_every_key_changes_something_or_is_told(name, load):
  """Key by key: programs, sizes and evaluators, a refusal, or a note."""
  config = load(name)
  before, _ = unread_keys.fingerprint(config)
  names = [
    key for key in config_lib.keys(config)
    if not key.startswith(unread_keys.HOST) and not key.endswith('.name')
  ]  # fmt: skip
  silent, false = [], []
  for key, value in others(config, names).items():
    made = config_lib.with_values(config, {key: value})
    after, run = unread_keys.fingerprint(made)
    told = run is None or any(f'{key}=' in x for x in unread.notes(run))
    if after == before and not told:
      silent.append(f'{key}={value}')
    elif after != before and run is not None:
      false += [key] * (key in unread.unread(run))
  assert (silent, false) == ([], [])


def test_a_recipe_is_no_change_of_ones_own(load):
  """The nearest shipped config says what is usual: here one of RL's recipes."""
  for items, told in (
    ([], []),
    ([('problems.seed', '7')], [
      'problems.seed=7 is not read by this run of RL: problems.count=0'
    ]),
  ):  # fmt: skip
    config = config_lib.load('configs/rl.py:recipe=ppo', items)
    assert unread.notes(build.build(config)) == told


def test_what_is_told_of_a_run_on_a_file(load):
  keys = {'group_size': 4, 'max_new_tokens': 8, 'eval.samples': 3}
  assert unread.notes(build.build(load('sft file', keys))) == [
    'eval.samples=3 is not read by this run of SFT: an evaluation asks for no '
    'answers here',
    'group_size=4 is not read by this run of SFT: the rows are of a file',
    'max_new_tokens=8 is not read by this run of SFT: rows and evaluation are '
    'of a file',
  ]
  model = {'init_from': 'tests/goldens/qwen3', 'model.preset': 'small'}
  assert unread.notes(build.build(load('sft', model))) == [
    'model.preset="small" is not read by this run of SFT: '
    'init_from=tests/goldens/qwen3 says what the model is'
  ]


def test_a_run_that_goes_on_is_not_told_what_it_began_with(load):
  """What 'auto' was stands in its config."""
  config = load('sft file')
  known = config_lib.keys(config)
  began = {k: x for k, x in config_lib.DECIDED.items() if k in known}
  made = config_lib.with_values(config, began)
  assert unread.notes(build.build(made)) == []


@pytest.mark.parametrize('name', ['sft', 'sft file', 'rl', 'rl file'])
def test_what_is_switched_off_is_no_key_that_is_not_read(name, load):
  """A value that asks for nothing gets it."""
  keys = {'eval.num_problems': 0, 'eval.every': 0, 'eval.samples': 0}
  assert unread.notes(build.build(load(name, keys))) == []
