"""Small slips of whoever starts a run, each told or refused."""

import json
import types

import pytest

from configs import base
from posttrain_jax import plan
from posttrain_jax.core.names import nearest
from posttrain_jax.rewards import entries
from posttrain_jax.run import (
  auto,
  build,
  command,
  file_notes,
  hub_keys,
  notes,
  stored,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import __main__ as sweep_command

SMOKE = 'configs/sft.py:smoke'


def load(spec=SMOKE, **items):
  pairs = [(key.replace('__', '.'), str(x)) for key, x in items.items()]
  return config_lib.load(spec, pairs)


def slips(name):
  """Every text that one slip makes of a name."""
  for i in range(len(name)):
    yield name[:i] + name[i + 1 :]
    yield name[:i] + 'q' + name[i:]
    yield name[:i] + 'q' + name[i + 1 :]
    if i:
      yield name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :]


@pytest.mark.parametrize('name', ['grpo', 'gspo', 'addition', 'optimizer.lr'])
def test_one_slip_leads_back(name):
  choices = ['grpo', 'gspo', 'addition', 'optimizer.lr', 'sft', 'dr_grpo']
  for slip in slips(name):
    if slip in ('gpo', 'gqpo'):  # of two names
      continue
    assert f'Did you mean "{name}"' in nearest(slip, choices), slip


@pytest.mark.parametrize('name, message', [
  ('mine.py:ok', 'without .py, as in "mine:ok"'),
  ('a/mine.py:ok', 'without .py, as in "a.mine:ok"'),
  ('mine.py', 'without .py, as in "mine:reward"'),
])  # fmt: skip
def test_a_reward_by_its_file(name, message):
  with pytest.raises(ValueError, match=message.replace('.', r'\.')):
    entries.read([{'name': name, 'weight': 1.0}])


def test_what_is_given_twice():
  flags = ['--config.seed=1', '--config.seed', '2']
  with pytest.raises(ValueError, match='config.seed is given twice, as 1 and'):
    config_lib.split_flags(flags)
  same = ['--config.seed=1', '--config.seed=1']
  assert config_lib.split_flags(same)[0] == [('seed', '1')] * 2
  with pytest.raises(ValueError, match='recipe is given twice, as a and b'):
    base.parse_arg('recipe=a,recipe=b', recipe='x')


@pytest.mark.parametrize('main, words', [
  (command.parse, ['--config', 'a.py', '--config=b.py']),
  (sweep_command.parse, ['--config=a', '--workdir', 'x', '--workdir', 'y']),
  (plan.read, ['--config', 'a', '--topology=v5e:2x4', '--topology=v4:2x2x1']),
])  # fmt: skip
def test_a_flag_given_twice(main, words):
  with pytest.raises(ValueError, match='is given twice, as .* leave one out'):
    main(words, '') if main is command.parse else main(words)


def test_a_whole_number_in_another_form():
  with pytest.raises(ValueError, match='num_steps=1e3: not an int'):
    load(num_steps='1e3')


# ---- Warmup.


@pytest.mark.parametrize('spec', [
  'configs/sft.py', 'configs/preference.py', 'configs/rl.py',
  'configs/distill.py',
])  # fmt: skip
def test_the_default_warmup_gives_way_and_another_does_not(spec):
  config = load(spec)
  asked, kind = config.optimizer.warmup_updates, config.paradigm
  assert asked == 'auto'
  default = auto.WARMUPS[kind]
  assert auto.warmup(asked, kind, max(default, 1)) == (default, '')
  if default:
    found, told = auto.warmup(asked, kind, default - 1)
    assert found == (1 if default < 12 else 2)
    assert f'warmup_updates={default}, the default' in told
  for given in (default, default + 1):
    assert auto.warmup(given, kind, 1) == (given, '')


def test_a_short_run_of_the_default_config():
  items = dict(num_steps=6, model__preset='depth-1', eval__num_problems=0)
  run = build.build(load('configs/sft.py', **items))
  assert run.config.optimizer.warmup_updates == 1
  assert any('the default, is more than' in line for line in notes.notes(run))
  for given in (19, 20):  # 20 is what a long run has by default
    with pytest.raises(ValueError, match=f'warmup_updates={given} is not in 0'):
      build.build(
        load('configs/sft.py', **items, optimizer__warmup_updates=given)
      )
  # A ratio rules where it is given.
  told = notes.notes(
    build.build(load('configs/sft.py', **items, optimizer__warmup_ratio=0.2))
  )
  assert not any('the default, is more than' in line for line in told)
  run = build.build(load(optimizer__lr='0'))
  assert any('optimizer.lr=0' in line for line in notes.notes(run))


def test_a_run_that_began_when_the_default_was_a_number():
  saved = load('configs/sft.py', num_steps=6).to_dict()
  saved['optimizer']['warmup_updates'] = 20
  rising = lambda: config_lib.completed(saved).optimizer.warmup_updates
  assert rising() == 'auto'
  saved['num_steps'] = 400
  assert rising() == 20


# ---- Files.


def test_notes_of_a_small_file(tmp_path):
  path = tmp_path / 'few.jsonl'
  rows = [{'prompt': f'{i}', 'completion': f'{i}'} for i in range(33)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  items = dict(data__path=path, model__preset='depth-1')
  config = load('configs/sft.py:data=jsonl', **items, data__eval_fraction=0.7)
  run = build.build(config)
  assert run.config.tokenizer == 'byte'  # it is text
  told = '\n'.join(file_notes.records(run))
  count = len(run.batches.source)
  times = 400 * 128 / count
  assert f'go round the {count} records {times:,.0f} times' in told
  assert '--config.data.num_epochs=3 --config.num_steps=0' in told
  assert f'evaluation takes {33 - count} of 33 records' in told
  assert 'task.name' not in told  # nobody asked for one
  # As it says.
  items |= dict(data__num_epochs=3, num_steps=0, task__name='sorting')
  run = build.build(load('configs/sft.py:data=jsonl', **items))
  told = '\n'.join(file_notes.records(run))
  assert 'task.name="sorting" is not read' in told
  assert run.config.num_steps == 1 and 'go round' not in told


def test_an_evaluation_that_is_smaller_than_it_was_to_be():
  config = load(eval__num_problems=8)
  told = lambda there: file_notes.records(
    types.SimpleNamespace(
      config=config, task=types.SimpleNamespace(num_heldout=there)
    )
  )
  assert told(None) == told(8) == []
  assert told(5)[0].startswith('eval.num_problems=8: 5 prompts are held out')


def test_an_older_run_keeps_its_tokenizer(tmp_path):
  config = load('configs/sft.py:data=jsonl')
  assert hub_keys.as_begun(config, tmp_path).tokenizer == 'auto'
  saved = {'config': {**config.to_dict(), 'tokenizer': 'task'}}
  stored.save_config(tmp_path, saved)
  assert hub_keys.as_begun(config, tmp_path).tokenizer == 'task'
  named = load('configs/sft.py:data=jsonl', tokenizer='byte')
  assert hub_keys.as_begun(named, tmp_path).tokenizer == 'byte'
