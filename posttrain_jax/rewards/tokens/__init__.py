"""Rewards of tokens, beside the verifier's reward of the whole answer.

Every function in `__all__` is called the same way, in the compiled step:

  rewards, metrics = f(world, params, examples, samples, key, **hparams)

  world     `World`: the task, the policy's shape
  params    the policy as it is before the step; no gradient flows
  examples  Example [B, ...]
  samples   Rollout [B, G, C] of the policy's own answers
  key       randomness of the oracle
  rewards   [B, G, C], aligned to completion tokens, 0 where the mask is; the
            verifier's own reward is not in them
  metrics   {name: scalar}

An in-graph task writes its final answer after the last '>' of a completion,
and all of it is the answer where there is none, as its verifier reads it.
`check` says before anything is compiled what cannot work, and
`group_advantages` makes advantages of rewards of tokens without a critic.
"""

import sys
from typing import Any

import jax

from posttrain_jax import advantages
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import Array
from posttrain_jax.rewards.tokens.common import World as World
from posttrain_jax.rewards.tokens.common import ids_of, thinks
from posttrain_jax.rewards.tokens.episodes import check_episodes, progress
from posttrain_jax.rewards.tokens.segments import fine_grained

__all__ = ['fine_grained', 'progress']


def check(part: Any, task: Any) -> None:
  """Raises ValueError for a config part {name, **hparams} that cannot work.

  The name 'none' stands for no rewards of tokens and is fine with every task.
  """
  hparams = dict(part)
  name = hparams.pop('name')
  if name == 'none':
    return
  function = resolve(sys.modules[__name__], name, **hparams)
  for key in ('separators', 'boundaries'):
    if key in function.keywords:
      ids_of(key, function.keywords[key])
  if name == 'progress':
    check_episodes(hparams.get('episodes', 1))
    if not thinks(task):
      raise ValueError(
        'token_rewards.name="progress" rewards the steps of a thought, and the '
        'task writes none: set task.chain_of_thought=True, or take a task that '
        'has this knob'
      )


def group_advantages(
  rewards: Array, mask: Array, *, gamma: float = 1.0
) -> Array:
  """[B, G, C] what was still to come at each token, less the group's mean.

  The mean is over all G completions at the same token of the completion; one
  that has ended has nothing to come. Added to an advantage of the verifier's
  reward, which is the same on all tokens, where there is no critic to take
  the rewards themselves.

  rewards, mask  [B, G, C]
  """
  flat = lambda x: x.reshape(-1, x.shape[-1])
  to_come = advantages.discounted_returns(
    flat(rewards), flat(mask), gamma=gamma
  )
  columns = to_come.reshape(rewards.shape)
  centered = jax.vmap(advantages.group_centered, 2, 2)(columns)
  return masked.select(centered, mask)
