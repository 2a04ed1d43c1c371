"""Runs with beginnings of demonstrations that are refused, and why."""

import re
import types

import pytest
import recipe_runs
import test_rl_hybrid as hand

from posttrain_jax.rollout import guides
from posttrain_jax.run import build
from posttrain_jax.trainers.rl import (
  checks,
  prefixes,
)


def refused(message, *items, recipe='prefix_rft'):
  with pytest.raises(ValueError, match=re.escape(message)):
    checks.check(recipe_runs.load('rl', recipe, *items))


def test_configs_that_are_refused():
  refused('reads "proximal_logps"', ('loss.name', 'decoupled_ppo_clip'))
  c = recipe_runs.load('rl', 'prefix_rft')
  c.task.name = 'text:leg_counting'
  with pytest.raises(ValueError, match='needs demonstrations, which host tas'):
    checks.check(c)
  one = ('prefix.per_prompt', '1')
  refused('"trajectory_balance" reads no advantage', one,
          recipe='trajectory_balance')  # fmt: skip
  steering = ('guides', "[{'name': 'min_tokens', 'count': 1}]")
  refused('and prefix.per_prompt adds or scores others', steering)


def test_ranks_need_the_whole_minibatch():
  split = [('prompts_per_step', '2'), ('microbatch_rows', '8')]
  with pytest.raises(ValueError, match='microbatch_rows=8: prefix.top_fracti'):
    build.build(recipe_runs.load('rl', 'prefix_rft', *split))
  build.build(
    recipe_runs.load('rl', 'prefix_rft', *split, ('prefix.top_fraction', '1'))
  )


def test_tasks_in_turns_are_refused():
  task = types.SimpleNamespace(guide=guides.forced_prefix())
  c = recipe_runs.load('rl', 'prefix_rft')
  with pytest.raises(ValueError, match='answers in turns'):
    prefixes.check_task(c, task)
  prefixes.check_task(c, hand.run_of('prefix_rft').task)
