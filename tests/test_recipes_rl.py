"""Every recipe of configs/rl.py trains: the reward rises on its problems."""

import pytest
import recipe_runs

from configs import recipes

QUICK = ('grpo', 'ppo', 'rloo', 'chord')
# Squares of log-rewards: they need small steps, and more of them.
FLOWS = (
  'trajectory_balance',
  'gflowvlm_var_tb',
  'gflowvlm_db',
  'gflowvlm_sub_tb',
)
# The flow of every state is learnt, from the end of the answer backwards: until
# that has reached the start the policy follows a wrong one, and its reward is
# no measure.
BACKWARDS = ('detailed_balance', 'sub_trajectory_balance')
# Its reward is a trained model's: tests/test_learned_reward.py.
LEARNED = ('rlhf',)


def rows(names):
  return [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in names
  ]


@pytest.mark.parametrize(
  'name', rows(x for x in recipes.RL if x not in (*BACKWARDS, *LEARNED))
)
def test_the_reward_rises(name):
  rate, steps = ('5e-4', 24) if name in FLOWS else ('2e-3', 8)
  items = ('optimizer.lr', rate)
  reward = recipe_runs.repeat_step('rl', name, items, steps=steps)['reward']
  assert reward[-3:].mean() > reward[0], reward


@pytest.mark.parametrize('name', rows(BACKWARDS))
def test_the_balance_of_flows_improves(name):
  items = ('optimizer.lr', '2e-3')
  loss = recipe_runs.repeat_step('rl', name, items, steps=24)['loss']
  assert loss[-3:].mean() < 0.8 * loss[0], loss
