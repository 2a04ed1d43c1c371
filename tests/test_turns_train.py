"""RL on games: the environment's tokens are read and never learned from."""

import jax
import numpy as np
import pytest

from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

GUIDES = '[{"name": "banned_tokens", "tokens": [0, 2, 3]}]'
COMMON = [
  ('task.size', '2'),
  ('eval.num_problems', '0'),
  ('model.preset', 'depth-1'),
  ('prompts_per_step', '8'),
  ('group_size', '8'),
  ('optimizer.lr', '2e-3'),
  ('guides', GUIDES),
]


def _train(steps, *overrides):
  config = config_lib.load(
    'configs/rl.py:task=frozen_lake_game', [*COMMON, *overrides]
  )
  run = build.build(config)
  params = build.transformer.init(jax.random.key(0), run.model)
  state = jax.jit(run.init)({'policy': params})
  step, history = jax.jit(run.step), []
  for i in range(steps):
    state, metrics = step(state, jax.random.key(i))
    history.append(jax.device_get(metrics))
  return history


def test_ratios_are_of_what_was_drawn():
  (first,) = _train(1, ('decoder.name', 'top_k'), ('decoder.k', '12'))
  assert first['sampling/sampling_logp_difference/max'] < 1e-5
  # The transcript is twice as long as what the model itself has said.
  told = 1.0 - first['num_tokens'] / (64 * first['completions/mean_length'])
  assert 0.3 < told < 0.6


@pytest.mark.slow
def test_the_reward_rises():
  history = _train(40, ('slots', '24'))
  reward = [metrics['reward'] for metrics in history]
  assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.15
