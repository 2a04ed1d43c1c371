"""What 'auto' stands for, and that it is told and can be overridden."""

import dataclasses

import jax
import pytest

from posttrain_jax import train
from posttrain_jax.run import auto, build, checkpoint, loop
from posttrain_jax.run import config as config_lib

# A GRPO step of 16 x 8 answers of up to 96 tokens, as the benchmark's work a.
LONG = auto.Work(
  backend='cpu', devices=1, rollouts=True, share_prompts=True, rows=128,
  minibatch_rows=128, group_size=8, row_tokens=104, max_new_tokens=96,
  num_steps=200,
)  # fmt: skip


def first(**changed):
  return auto.choices(dataclasses.replace(LONG, **changed))[0]


def test_long_answers_on_a_cpu_take_slots_streams_and_micro_batches():
  choice = first()
  assert (choice.slots, choice.token_buckets, choice.cache_stages) == (32, 4, 1)
  # 16 rows of 104 tokens are within the bound, 32 are not.
  assert choice.microbatch_rows == 16
  assert 'real tokens' in choice.why and 'slots' in choice.why


def test_short_answers_take_micro_batches_alone():
  choice = first(rows=512, minibatch_rows=512, row_tokens=16, max_new_tokens=6)
  assert (choice.slots, choice.token_buckets) == (0, 1)
  assert choice.microbatch_rows == 64  # of 16 tokens; 128 are too many


@pytest.mark.parametrize(
  'changed',
  [
    {'backend': 'tpu'},
    {'devices': 4},
    {'num_steps': 2},
    {'rows': 16, 'minibatch_rows': 16},
    {'group_size': 3},
  ],
)
def test_all_rows_at_a_time_elsewhere(changed):
  choice = first(**changed)
  assert choice.token_buckets == 1
  assert choice.microbatch_rows == {**vars(LONG), **changed}['minibatch_rows']
  assert choice.why


@pytest.mark.parametrize('group_size', [1, 2, 8])
@pytest.mark.parametrize('row_tokens', [5, 104, 4096])
def test_micro_batches_are_whole_groups_of_a_minibatch(group_size, row_tokens):
  for choice in auto.choices(
    dataclasses.replace(LONG, group_size=group_size, row_tokens=row_tokens)
  ):
    assert LONG.minibatch_rows % choice.microbatch_rows == 0
    assert choice.microbatch_rows % group_size == 0


def test_deep_models_compile_one_layer():
  assert auto.scan_layers('auto', 24) and not auto.scan_layers('auto', 3)
  assert auto.scan_layers(True, 3) and not auto.scan_layers(False, 24)


def load(*items):
  return config_lib.load(
    'configs/rl.py:task=countdown',
    [('max_new_tokens', '96'), *items],
  )


def test_a_run_on_this_backend_is_as_chosen():
  sizes = build.build(load()).sizes
  one = jax.default_backend() == 'cpu'
  assert (sizes.slots > 0) == one and (sizes.token_buckets > 1) == one
  assert sizes.why


@pytest.mark.parametrize(
  'key, value',
  [
    ('slots', 16),
    ('token_buckets', 2),
    ('microbatch_rows', 128),
    ('microbatch_rows', 0),
  ],
)
def test_what_the_config_says_holds(key, value):
  sizes = build.build(load((key, str(value)))).sizes
  expected = value or sizes.minibatch_rows
  assert getattr(sizes, key) == expected


def test_a_stage_of_the_cache_and_slots_do_not_go_together():
  with pytest.raises(ValueError, match='cache_stages=3: a slot'):
    build.build(load(('cache_stages', '3'), ('slots', '16')))
  assert build.build(load(('cache_stages', '3'))).sizes.slots == 0


def test_a_method_on_whole_minibatches_is_not_split():
  c = config_lib.load(
    'configs/rl.py:recipe=kl_cov,task=countdown', [('max_new_tokens', '96')]
  )
  sizes = build.build(c).sizes
  assert sizes.microbatch_rows == sizes.minibatch_rows


def test_what_is_fixed_and_what_is_chosen_are_both_checked():
  with pytest.raises(ValueError, match='token_buckets=4 is of shared prompts'):
    build.build(load(('token_buckets', '4'), ('share_prompts', 'false')))


def test_runs_mapped_side_by_side_take_all_rows_at_a_time():
  sizes = build.build(config_lib.plain(load())).sizes
  assert (sizes.slots, sizes.token_buckets, sizes.why) == (0, 1, '')
  assert sizes.microbatch_rows == sizes.minibatch_rows


@pytest.mark.parametrize('text', ['many', '1.5', ''])
def test_neither_auto_nor_a_number_is_refused(text):
  with pytest.raises(ValueError, match='slots'):
    load(('slots', text))


def test_auto_can_be_asked_for_again():
  assert load(('slots', '4'), ('slots', 'auto')).slots == 'auto'


def test_dry_run_says_what_was_chosen_and_why(capsys):
  argv = ['--config', 'configs/rl.py:task=countdown', '--dry_run',
          '--config.max_new_tokens=96']  # fmt: skip
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert 'slots' in out and ' auto  ' in out and 'micro-batches' in out


@pytest.mark.parametrize(
  'fixed, expected, said, unsaid',
  [
    ({'cache_stages': 3}, {'token_buckets': 4, 'slots': 0}, 'real tokens', ''),
    ({'slots': 0}, {'slots': 0, 'microbatch_rows': 16}, 'cache', 'slots'),
    ({'microbatch_rows': 128}, {'slots': 32}, 'slots', 'micro-batches'),
  ],
)
def test_what_is_fixed_leaves_the_rest_to_be_chosen(
  fixed, expected, said, unsaid
):
  # A trainer refuses slots beside stages of the cache.
  choice = next(
    choice
    for choice in auto.choices(LONG, fixed)
    if not (choice.slots and choice.cache_stages > 1)
  )
  assert {key: getattr(choice, key) for key in fixed} == fixed
  assert {key: getattr(choice, key) for key in expected} == expected
  assert said in choice.why and (not unsaid or unsaid not in choice.why)


def test_an_arm_of_the_quickstart_takes_numbers_too():
  c = config_lib.load('configs/quickstart.py', [('grpo.slots', '8')])
  assert c.grpo.slots == 8


def test_a_folder_that_says_numbers_is_gone_on_with(tmp_path):
  c = config_lib.load('configs/rl.py:smoke')
  checkpoint.save_config(tmp_path, {'config': config_lib.plain(c).to_dict()})
  loop.check_continues(c, tmp_path)
  with pytest.raises(ValueError, match='group_size: 4 -> 2'):
    loop.check_continues(
      config_lib.load('configs/rl.py:smoke', [('group_size', '2')]), tmp_path
    )


def test_remax_may_draw_one_answer():
  c = config_lib.load('configs/rl.py:recipe=remax,smoke', [('group_size', '1')])
  assert build.build(c).sizes.group_size == 1


def test_a_penalty_does_not_move_rewards_across_a_threshold():
  c = config_lib.load(
    'configs/rl.py:recipe=topr,smoke',
    [('kl.coef', '0.1'), ('kl.place', 'reward')],
  )
  with pytest.raises(ValueError, match='above a threshold'):
    build.build(c)
