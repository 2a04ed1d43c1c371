"""Every recipe of configs/rl.py trains: the reward rises on its problems."""

import pytest
import recipe_runs

from configs import recipes

QUICK = ('grpo', 'ppo', 'rloo')


def rows(names):
  return [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in names
  ]


@pytest.mark.parametrize('name', rows(recipes.RL))
def test_the_reward_rises(name):
  found = recipe_runs.repeat_step('rl', name, ('optimizer.lr', '2e-3'))
  reward = found['reward']
  assert reward[-3:].mean() > reward[0], reward
