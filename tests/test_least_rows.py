"""What compares the rows of a batch refuses a batch with nothing to compare."""

import types

import pytest

from posttrain_jax import token_weights
from posttrain_jax.losses import contrastive, preference
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import sizes as run_sizes

LEAST = list(preference.LEAST)
TASK = types.SimpleNamespace(prompt_length=4, completion_length=4)


def load(name, *items):
  c = config_lib.load('configs/preference.py', [('loss.name', name)])
  if name in preference.UNPAIRED:
    config_lib.override(c, [('collect.name', 'labelled'), ('group_size', '1')])
  config_lib.override(c, items)
  return c


def check(c):
  run_sizes.resolve(c, TASK)


@pytest.mark.parametrize('name', LEAST)
def test_one_prompt_is_refused(name):
  check(load(name, ('prompts_per_step', '2')))
  with pytest.raises(ValueError, match=f'prompts_per_step=1: "{name}" compare'):
    check(load(name, ('prompts_per_step', '1')))


@pytest.mark.parametrize('name', LEAST)
@pytest.mark.parametrize('key', ['minibatch_rows', 'microbatch_rows'])
def test_a_part_of_one_row_or_pair_is_refused(name, key):
  size = '1' if name in preference.UNPAIRED else '2'
  with pytest.raises(ValueError, match=f'{key}={size}: "{name}" compares'):
    check(load(name, (key, size)))


def test_what_judges_rows_by_themselves_takes_one():
  for name in set(preference.__all__) - set(LEAST) - {'bradley_terry'}:
    check(load(name, ('prompts_per_step', '1')))


def test_quantiles_need_another_row():
  assert set(token_weights.LEAST) <= set(token_weights.WHOLE_BATCH)
  load = lambda size: config_lib.load(
    'configs/sft.py:recipe=q_tuning', [('prompts_per_step', size)]
  )
  check(load('2'))
  with pytest.raises(ValueError, match='prompts_per_step=1: "q_tuning" compar'):
    check(load('1'))


def test_a_contrast_needs_another_row():
  assert set(contrastive.LEAST) == set(contrastive.WHOLE_BATCH)
  carft = 'configs/rl.py:recipe=carft'
  check(config_lib.load(carft))
  one = config_lib.load(carft, [('minibatch_rows', '1')])
  with pytest.raises(ValueError, match='minibatch_rows=1: "carft" compares'):
    check(one)
