"""Configs: overrides, their errors, batch arithmetic, and no dead keys."""

import json
import re
from pathlib import Path

import ml_collections
import pytest

from configs import base, recipes
from posttrain_jax import train
from posttrain_jax.lab import alike
from posttrain_jax.run import build, later, model_folder, values
from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent
PARADIGMS = ('sft', 'preference', 'rl', 'distill')
FILES = {
  'sft': 'configs/sft.py',
  'rl': 'configs/rl.py',
  'ppo': 'configs/rl.py:recipe=ppo',
  'mixture': 'configs/sft.py:task=mixture',
  'preference': 'configs/preference.py',
  'unpaired': 'configs/preference.py:recipe=kto',
  'distill': 'configs/distill.py',
}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(spec='configs/rl.py', **items):
  pairs = [(key.replace('__', '.'), value) for key, value in items.items()]
  return config_lib.load(spec, pairs)


def test_overrides_take_the_type_of_what_they_replace():
  c = load(
    optimizer__lr='1e-4', num_steps='7', task__chain_of_thought='true',
    optimizer__freeze='embed/.*,final_norm', loss__clip_high='0.28',
  )  # fmt: skip
  assert c.optimizer.lr == 1e-4 and c.num_steps == 7
  assert c.task.chain_of_thought is True and c.loss.clip_high == 0.28
  assert tuple(c.optimizer.freeze) == ('embed/.*', 'final_norm')


@pytest.mark.parametrize('text, expected', [
  ('[{"a": true}, {"b": null}]', ({'a': True}, {'b': None})),
  ("[{'a': True, 'b': None}]", ({'a': True, 'b': None},)),
  ('{"a": [1, false]}', ({'a': [1, False]},)),
  ('["a,b"]', ('a,b',)), ('a,b', ('a', 'b')), ('("a",)', ('a',)), ('', ()),
])  # fmt: skip
def test_lists_are_json_or_python(text, expected):
  assert load(guides=text).guides == expected


@pytest.mark.parametrize('text', [
  '[{"a": 1, "a": 2}]', '[{"a": tru}]', '("abc")', '[1', '{1, 2}', '{"a"',
])  # fmt: skip
def test_lists_that_are_none(text):
  with pytest.raises(ValueError, match=r'--config.guides=.*: not a tuple'):
    load(guides=text)


def test_a_new_name_brings_its_own_defaults():
  c = load(loss__name='cispo', loss__clip_high='3.0', task__name='sorting')
  assert c.loss.name == 'cispo' and c.loss.clip_high == 3.0
  assert 'dual_clip' not in c.loss
  assert c.task.name == 'sorting' and 'num_digits' not in c.task
  assert load(kl__name='kl_k2', kl__coef='0.1').kl.coef == 0.1


def test_names_inside_arms_bring_their_own_defaults():
  c = load('configs/quickstart.py', grpo__loss__name='reinforce')
  assert set(c.grpo.loss) == {'name'}


@pytest.mark.parametrize(
  'items, message',
  [
    ({'optimizer__lrr': '1'}, 'Did you mean "optimizer.lr"'),
    ({'loss__name': 'ppo_clipp'}, 'Did you mean "ppo_clip"'),
    ({'loss__name': 'cispo', 'loss__dual_clip': '1'}, 'loss.dual_clip'),
    ({'task__name': 'countdwon'}, 'Did you mean "countdown"'),
    ({'num_steps': 'many'}, '--config.num_steps=many: not an int'),
    ({'task__chain_of_thought': 'maybe'}, '(it is False now); true or false'),
  ],
)
def test_bad_overrides_name_key_and_nearest(items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    load(**items)


@pytest.mark.parametrize(
  'spec, message',
  [
    ('configs/rll.py', 'Did you mean "configs/rl.py"'),
    ('configs/rl.py:recipe=grpoo', 'Did you mean "grpo"'),
    ('configs/rl.py:recipes=grpo', 'Did you mean "recipe"'),
    ('configs/rl.py:smoke=maybe', 'smoke="maybe" is not true or false'),
    ('configs/sft.py:task=additon', 'Did you mean "addition"'),
    ('configs/__init__.py', 'defines no get_config'),
  ],
)
def test_bad_files_and_arguments(spec, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    config_lib.load(spec)


@pytest.mark.parametrize(
  'items, message',
  [
    ({'minibatch_rows': '100'}, 'minibatch_rows=100 does not divide rows=256'),
    ({'microbatch_rows': '48'}, 'nearest valid: 16, 32, 64'),
    (
      {'prompts_per_step': '0'},
      'prompts_per_step=0 is not a whole number >= 1',
    ),
    ({'group_size': '1'}, 'needs at least 2'),
    ({'decoder__name': 'greedy'}, 'nothing to learn from'),
    ({'old_logps': 'teacher'}, 'old_logps="teacher"'),
    ({'heldout_fraction': '1.5'}, 'heldout_fraction=1.5'),
    ({'model__preset': 'nanoo'}, 'Did you mean "nano"'),
    ({'tokenizer': 'byte'}, 'in-graph tasks speak'),
    ({'eval__num_problems': '100'}, 'nearest valid: 128'),
    ({'init_from': 'runs/nothing'}, 'no checkpoint under'),
    ({'optimizer__name': 'adam'}, 'Did you mean "adamw"'),
    ({'paradigm': 'rll'}, 'Did you mean "rl"'),
    ({'reduce__name': 'prompt_mean', 'microbatch_rows': '4'}, 'group_size=8'),
    ({'task__num_digits': '0'}, 'num_digits=0 is not in 1..8'),
  ],
)
def test_impossible_runs_fail_before_compiling(items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(load(**items))


def test_sizes_by_hand():
  c = load(minibatch_rows='64', microbatch_rows='32', updates_per_rollout='2')
  sizes = build.build(c).sizes
  assert (sizes.rows, sizes.minibatch_rows, sizes.microbatch_rows) == (
    256, 64, 32,
  )  # fmt: skip
  assert sizes.updates_per_step == 8 and sizes.num_updates == 8 * 200
  assert sizes.row_tokens == 8 + 5  # '123+456=' and '1234' with its end


def test_the_smallest_hint_is_one():
  with pytest.raises(ValueError, match='unknown config key'):
    load(x='1')
  with pytest.raises(ValueError, match='has no value'):
    config_lib.split_flags(['--config.num_steps'])


@pytest.mark.parametrize('argv, message', [
  (['--config', 'configs/rl.py'], '--workdir is missing'),
  (['--config', 'configs/rl.py', '--workdri=x'], 'Did you mean "--workdir"'),
])  # fmt: skip
def test_bad_command_lines(argv, message, capsys):
  assert train.main(argv) == 2
  assert message in capsys.readouterr().err


def test_dry_run_prints_config_and_sizes(capsys):
  argv = ['--config', 'configs/rl.py:task=countdown', '--dry_run',
          '--config.group_size=4']  # fmt: skip
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert re.search(r'rows +128\n', out) and 'clip_high: 0.2' in out


class Recorder(ml_collections.ConfigDict):
  """A config that remembers which of its keys were read."""

  def __init__(self, config_, prefix, log):
    object.__setattr__(self, '_record', (prefix, log))
    super().__init__()
    for key, value in config_.items():
      nested = isinstance(value, ml_collections.ConfigDict)
      child = Recorder(value, f'{prefix}{key}.', log) if nested else value
      super().__setitem__(key, child)
    log.clear()

  def __getitem__(self, key):
    prefix, log = object.__getattribute__(self, '_record')
    log.add(prefix + key)
    return super().__getitem__(key)


@pytest.mark.parametrize('name', FILES)
def test_every_key_is_read(name, monkeypatch):
  """A key that nothing reads is a flag that does nothing."""
  plain = model_folder.settled(config_lib.load(FILES[name]))
  # Where it is 'auto', what is built has a copy with a number, and no recorder.
  plain = config_lib.with_values(plain, {config_lib.WARMUP: 0})
  log: set[str] = set()
  recorder = Recorder(plain, '', log)
  log.clear()
  # It looks at every key and does nothing with it.
  monkeypatch.setattr(values, 'check', lambda config: None)
  build.build(recorder)
  # What is read later, in the loop or while a step is traced, is named there.
  loop = (ROOT / 'posttrain_jax' / 'run' / 'loop.py').read_text()
  loop += (ROOT / 'posttrain_jax' / 'run' / 'build.py').read_text()
  for path in (ROOT / 'posttrain_jax' / 'trainers' / 'rl').glob('*.py'):
    loop += path.read_text()
  loop += (ROOT / 'posttrain_jax' / 'run' / 'drivers.py').read_text()
  loop += (ROOT / 'posttrain_jax/core/sharding/mesh.py').read_text()
  unread = [
    key for key in config_lib.keys(plain)
    if key not in log
    and f'config.{key}' not in loop
    and not (key.startswith('mesh.') and f"'{key[5:]}'" in loop)
  ]  # fmt: skip
  allowed = {'task.name'} if name != 'mixture' else set()
  # Read only where their part is switched on.
  switched = (
    'kl.', 'value_loss.', 'data.', 'log_reward.', 'sft_', 'prefix',
    'hints_controller.', 'refine.',
        'problems.seed', 'reward_pool.', 'sampler.',
  )  # fmt: skip
  assert [
    k for k in unread if k not in allowed and not k.startswith(switched)
  ] == []


EVERY = [(p, r) for p in PARADIGMS for r in recipes.rows(p)]


@pytest.mark.parametrize('paradigm, recipe', EVERY)
def test_every_recipe_builds(paradigm, recipe):
  build.build(config_lib.load(f'configs/{paradigm}.py:recipe={recipe}'))


def test_a_recipe_of_another_paradigm_names_its_file():
  with pytest.raises(ValueError, match='"dpo" is in configs/preference.py'):
    config_lib.load('configs/sft.py:recipe=dpo')


@pytest.mark.parametrize(
  'spec, items, message',
  [
    ('sft.py', {'collect.name': 'best_vs_worst'}, 'gives no rows for paradigm'),
    ('sft.py', {'collect.name': 'rolouts'}, 'Did you mean "rollouts"'),
    (
      'sft.py',
      {'collect.name': 'rollouts', 'collect.sampler': 'teacher'},
      'collect.sampler="teacher" is no model of this run',
    ),
    (
      'sft.py',
      {'collect.name': 'rollouts', 'collect.keep': 'corect'},
      'Did you mean "correct"',
    ),
    ('sft.py', {'group_size': '2'}, 'leave group_size=1'),
    ('sft.py', {'loss.name': 'nft'}, 'needs the array "correct"'),
    ('sft.py', {'weights.name': 'fait'}, 'needs the array "changed"'),
    ('sft.py:recipe=forgetting', {'loss.name': 'nll'}, 'config.negative marks'),
    ('sft.py', {'ref.refresh_every': '5'}, 'no reference'),
    ('sft.py', {'condition.name': 'feedbck'}, 'Did you mean "feedback"'),
    (
      'sft.py',
      {'collect.name': 'feedback', 'group_size': '4'},
      'writes verdicts into prompts',
    ),
    (
      'sft.py:task=text:chain_sum',
      {'condition.name': 'feedback'},
      'is for in-graph tasks',
    ),
    (
      'sft.py:recipe=talr',
      {'microbatch_rows': '16'},
      '"talr" compares all 128 rows',
    ),
    ('preference.py', {'minibatch_rows': '1'}, 'would cut the 2 rows'),
    ('preference.py', {'group_size': '1'}, 'needs at least 2'),
    ('preference.py:recipe=kto', {'nll_coef': '1'}, 'for losses on pairs'),
    (
      'preference.py:data=jsonl,recipe=kto',
      {'data.path': 'x', 'data.packing': 'true'},
      'data.packing=true is for demonstrations',
    ),
    ('preference.py', {'data.source': 'jsonl', 'data.path': 'x'}, 'makes its'),
    ('distill.py', {'others.teacher': 'runs/nothing'}, 'no checkpoint under'),
    ('rl.py', {'kl.name': 'full_entropy'}, 'no "full_entropy" in losses'),
  ],
)
def test_parts_that_do_not_fit_are_refused(spec, items, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(config_lib.load(f'configs/{spec}', list(items.items())))


def test_parse_arg_types():
  arg = base.parse_arg('smoke,task=x', task='', smoke=False, count=3)
  assert arg.smoke is True and arg.task == 'x' and arg.count == 3
  with pytest.raises(ValueError, match='count="x" is no int'):
    base.parse_arg('count=x', count=3)


def test_saved_runs_get_the_keys_that_are_newer():
  c = config_lib.load('configs/rl.py:recipe=ppo', [('optimizer.lr', '7e-4')])
  saved = json.loads(json.dumps(c.to_dict()))
  del saved['guides'], saved['eval']['beams'], saved['problems']
  del saved['loss']['clip_low']
  found = config_lib.completed(saved)
  assert found.problems.count == 0 and found.eval.beams == 0
  assert found.optimizer.lr == 7e-4 and found.advantage.name == 'gae'
  # What belongs to a function is that function's default.
  assert 'clip_low' not in found.loss
  assert config_lib.completed({'paradigm': 'odd', 'x': 1}).to_dict() == {
    'paradigm': 'odd', 'x': 1,
  }  # fmt: skip


def test_older_runs_with_parts_that_have_learnt_a_key():
  now = config_lib.load('configs/sft.py:smoke', [('adapter.name', 'lora')])
  saved = json.loads(json.dumps(now.to_dict()))
  del saved['optimizer']['warmup_ratio'], saved['adapter']['dropout']
  del saved['eval']['temperature'], saved['eval']['top_p']
  found = json.loads(json.dumps(config_lib.completed(saved).to_dict()))
  assert found == json.loads(json.dumps(now.to_dict()))


def test_older_runs_on_pairs_go_on_as_they_are():
  """Nobody erred in their pairs, and none was turned round."""
  now = config_lib.load('configs/preference.py:recipe=reward_model')
  saved = json.loads(json.dumps(now.to_dict()))
  del saved['collect']['noise'], saved['strength'], saved['flip_fraction']
  del saved['meta'], saved['others']
  found = json.loads(json.dumps(config_lib.completed(saved).to_dict()))
  assert found == json.loads(json.dumps(now.to_dict()))


# A config file that has the part of each name.
SPECS = {
  'best_of': 'configs/sft.py:recipe=raft',
  'best_vs_worst': 'configs/preference.py:recipe=dpo',
  'oracle': 'configs/sft.py',
  'oracle_and_rollouts': 'configs/sft.py:recipe=una',
  'carft': 'configs/rl.py:recipe=carft',
  'fine_grained': 'configs/rl.py:recipe=fine_grained',
  'formats': 'configs/sft.py:task=formats',
  'question_free': 'configs/sft.py:recipe=qfft',
}


@pytest.mark.parametrize('part, name', [
  (part, name) for part, names in later.LATER.items() for name in names
])  # fmt: skip
def test_older_runs_go_on_without_keys_of_later(part, name):
  """A run that was begun before a part had a key is of the same config."""
  now = json.loads(json.dumps(config_lib.load(SPECS[name]).to_dict()))
  assert now[part]['name'] == name
  saved = json.loads(json.dumps(now))
  for key, value in later.LATER[part][name].items():
    assert saved[part].pop(key) == value
  found = json.loads(json.dumps(config_lib.completed(saved).to_dict()))
  assert found == now
  # Nor is a stage of a study another one for them.
  learnt = alike.learns(config_lib.load(SPECS[name]))
  assert not {f'{part}.{key}' for key in later.LATER[part][name]} & set(learnt)


def test_a_reward_model_of_a_role_is_given_beside_it():
  rewards = '[{"name": "model", "role": "judge"}]'
  items = [('others.judge', 'runs/x'), ('rewards', rewards)]
  c = config_lib.load('configs/rl.py', items)
  assert c.others.judge == 'runs/x'


def test_a_model_is_named_by_who_asks_for_it():
  spec = 'configs/preference.py:recipe=dpo'
  path = ('others.teacher', 'runs/x')
  c = config_lib.load(spec, [path, ('collect.sampler', 'teacher')])
  assert c.others.teacher == 'runs/x'
  told = 'unknown config key "others.teacher". Did you mean "others.teachr"'
  with pytest.raises(ValueError, match=told):
    config_lib.load(spec, [path, ('collect.sampler', 'teachr')])
  with pytest.raises(ValueError, match='unknown config key "others.teacher"'):
    config_lib.load(spec, [path])
  judged = [path, ('collect.judge', 'teacher')]
  c = config_lib.load('configs/sft.py:recipe=raft', judged)
  assert c.others.teacher == 'runs/x'
