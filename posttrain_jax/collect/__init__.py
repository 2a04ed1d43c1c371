"""Where the rows of a step come from: the oracle, a model, or both.

Every function is called the same way:

  batch, metrics = collect(world, state, key, **hparams)

  world    `World`: problems, the oracle, the verifier, the models
  state    TrainState before the step; its models may write answers
  batch    Batch; `extras` holds what the function's docstring lists
  metrics  {name: scalar}

`SINGLE` functions give one row a problem, `GROUPS` `group_size` rows next to
each other, `PAIRS` two: chosen, then rejected. No gradient flows through an
answer. `sampler` names the model that writes: 'policy' as it is now, 'ref' (the
start, or a past iterate with `ref.refresh_every`), or a role of
`config.others` such as 'teacher'.
"""

import sys
from typing import Any

from posttrain_jax.collect.groups import (
  labelled,
  oracle_and_rollouts,
  rollouts,
)
from posttrain_jax.collect.marks import counterfactual, oracle_with_wrong
from posttrain_jax.collect.pairs import best_vs_worst, oracle_vs_rollout
from posttrain_jax.collect.single import (
  best_of,
  on_policy_mix,
  oracle,
  self_rehearsal,
)
from posttrain_jax.collect.world import World as World
from posttrain_jax.resolve import nearest, resolve

SINGLE = (
  'best_of',
  'counterfactual',
  'on_policy_mix',
  'oracle',
  'oracle_with_wrong',
  'self_rehearsal',
)
GROUPS = ('labelled', 'oracle_and_rollouts', 'rollouts')
# What the `keep` of a source may be.
KEEP = {
  'oracle_vs_rollout': ('all', 'wrong'),
  'rollouts': ('all', 'correct', 'mixed'),
}
PAIRS = ('best_vs_worst', 'oracle_vs_rollout')

# Names of the extras that come with the rows.
_VERDICTS = ('scores', 'correct', 'correct_rate', 'negative')
PROVIDES = {
  'best_of': ('scores',),
  'best_vs_worst': ('scores',),
  'counterfactual': ('critical',),
  'labelled': (*_VERDICTS, 'mismatched'),
  'on_policy_mix': (),
  'oracle': ('scores',),
  'oracle_and_rollouts': (*_VERDICTS, 'expert'),
  'oracle_vs_rollout': ('scores',),
  'oracle_with_wrong': ('changed', 'keys', 'wrong', 'wrong_changed'),
  'rollouts': (*_VERDICTS, 'whole'),
  'self_rehearsal': (),
}

__all__ = [
  'best_of',
  'best_vs_worst',
  'counterfactual',
  'labelled',
  'on_policy_mix',
  'oracle',
  'oracle_and_rollouts',
  'oracle_vs_rollout',
  'oracle_with_wrong',
  'rollouts',
  'self_rehearsal',
]


def rows_per_prompt(name: str, group_size: int) -> int:
  """Rows that a source gives for each problem."""
  if name in PAIRS:
    return 2
  return group_size if name in GROUPS else 1


def completions_per_prompt(name: str, group_size: int, length: int) -> int:
  """Completions that a source generates for each problem (for accounting).

  length  tokens of the longest completion
  """
  return {
    'oracle': 0,
    'oracle_and_rollouts': group_size - 1,
    'oracle_vs_rollout': 1,
    'on_policy_mix': 1,
    'self_rehearsal': 2,
    'counterfactual': 1 + 2 * length,
  }.get(name, group_size)


def roles(part: dict) -> set[str]:
  """Models that write rows, besides the policy and the oracle."""
  named = {part.get('sampler'), part.get('other')}
  return named - {None, 'policy', 'oracle'}


def check(config: Any) -> None:
  """Raises ValueError for a source that cannot work with the run's config."""
  part = dict(config.collect)
  resolve(sys.modules[__name__], part.pop('name'), **part)
  name = config.collect.name
  wanted = {'sft': SINGLE + GROUPS, 'distill': SINGLE + GROUPS}.get(
    config.paradigm, PAIRS + ('labelled',)
  )
  if name not in wanted:
    raise ValueError(
      f'collect.name="{name}" gives no rows for paradigm "{config.paradigm}".'
      + nearest(name, wanted)
    )
  known = {'policy', 'ref', *config.get('others', {})}
  if name == 'on_policy_mix':
    known.add('oracle')
  for key in ('sampler', 'other'):
    if key in part and part[key] not in known:
      raise ValueError(
        f'collect.{key}="{part[key]}" is no model of this run.'
        + nearest(part[key], known)
      )
  if 'keep' in part and part['keep'] not in KEEP[name]:
    raise ValueError(
      f'collect.keep="{part["keep"]}".' + nearest(part['keep'], KEEP[name])
    )
  least = 2 if name in ('best_vs_worst', 'oracle_and_rollouts') else 1
  if config.group_size < least:
    raise ValueError(
      f'group_size={config.group_size}: collect "{name}" needs at least {least}'
    )
  if name in ('oracle', 'self_rehearsal') and config.group_size != 1:
    raise ValueError(
      f'group_size={config.group_size}: collect "{name}" gives one row a '
      'problem; leave group_size=1'
    )
