"""Where the rows of a step come from: the oracle, a model, or both.

Every function is called the same way:

  batch, metrics = collect(setting, state, key, **hparams)

  setting    `Setting`: problems, the oracle, the verifier, the models
  state    TrainState before the step; its models may write answers
  batch    Batch; `extras` holds what the function's docstring lists
  metrics  {name: scalar}

`SINGLE` functions give one row a problem, `GROUPS` `group_size` rows next to
each other, `PAIRS` two, chosen, then rejected, `TURNS` two, one behind the
other. No gradient flows through an
answer. `sampler` names the model that writes: 'policy' as it is now, 'ref' (the
start, or a past iterate with `ref.refresh_every`), or a role of
`config.others` such as 'teacher'.
"""

import sys
from typing import Any

from posttrain_jax.collect import groups, pairs, second_tries
from posttrain_jax.collect.groups import (
  feedback,
  labelled,
  oracle_and_rollouts,
  rollouts,
)
from posttrain_jax.collect.labelled_rows import (
  counterfactual,
  oracle_with_wrong,
)
from posttrain_jax.collect.pairs import best_vs_worst, oracle_vs_rollout
from posttrain_jax.collect.principles import principle_pairs
from posttrain_jax.collect.second_tries import retries
from posttrain_jax.collect.setting import Setting as Setting
from posttrain_jax.collect.setting import Spent as Spent
from posttrain_jax.collect.single import (
  best_of,
  on_policy_mix,
  oracle,
  question_free,
  self_rehearsal,
)
from posttrain_jax.core.resolve import active, nearest, resolve

SINGLE = (
  'best_of',
  'counterfactual',
  'on_policy_mix',
  'oracle',
  'oracle_with_wrong',
  'question_free',
  'self_rehearsal',
)
GROUPS = ('feedback', 'labelled', 'oracle_and_rollouts', 'rollouts')
# Two rows a problem, the second behind the first.
TURNS = ('retries',)
PAIRS = ('best_vs_worst', 'oracle_vs_rollout', 'principle_pairs')
# Sources that take one answer of each problem.
LONE = (
  'counterfactual',
  'on_policy_mix',
  'oracle',
  'oracle_vs_rollout',
  'principle_pairs',
  'question_free',
  'self_rehearsal',
)
# What the `keep` of a source may be.
KEEP = {
  'oracle_vs_rollout': pairs.KEEP,
  'retries': second_tries.KEEP,
  'rollouts': groups.KEEP,
}
PICK = second_tries.PICK

__all__ = [
  'best_of',
  'best_vs_worst',
  'counterfactual',
  'feedback',
  'labelled',
  'on_policy_mix',
  'oracle',
  'oracle_and_rollouts',
  'oracle_vs_rollout',
  'oracle_with_wrong',
  'principle_pairs',
  'question_free',
  'retries',
  'rollouts',
  'self_rehearsal',
]


def written_per_prompt(name: str, group_size: int, length: int) -> int:
  """Answers that models write for each problem, for `accounting`.

  length  tokens that an answer may have
  """
  return {
    'oracle': 0,
    'oracle_and_rollouts': group_size - 1,
    'oracle_vs_rollout': 1,
    'principle_pairs': 2,
    'question_free': 0,
    'retries': 1 + group_size,
    'on_policy_mix': 1,
    'self_rehearsal': 2,
    'counterfactual': 1 + 2 * length,
  }.get(name, group_size)


def rows_per_prompt(name: str, group_size: int) -> int:
  """Rows that a source gives for each problem."""
  if name in (*PAIRS, *TURNS):
    return 2
  return group_size if name in GROUPS else 1


def roles(part: dict) -> set[str]:
  """Models that write rows or choose them, besides the policy and the
  oracle."""
  named = {part.get('sampler'), part.get('other'), part.get('judge')}
  return named - {None, '', 'policy', 'oracle'}


def check(config: Any, wanted: tuple[str, ...], whom: str) -> None:
  """Raises ValueError for a source that cannot work with the run's config.

  wanted  sources that make rows for `whom`
  """
  part = dict(config.collect)
  resolve(sys.modules[__name__], part.pop('name'), **part)
  name = config.collect.name
  if name not in wanted:
    raise ValueError(
      f'collect.name="{name}" gives no rows for {whom}.' + nearest(name, wanted)
    )
  models = {'policy', 'ref', *config.get('others', {})}
  known = {
    'sampler': models,
    'other': models | {'oracle'},
    'judge': {'', *config.get('others', {})},
  }
  for key in known:
    if key in part and part[key] not in known[key]:
      raise ValueError(
        f'collect.{key}="{part[key]}" is no model of this run.'
        + nearest(part[key], known[key])
      )
  _check_sizes(config, name, part)


def _check_sizes(config: Any, name: str, part: dict) -> None:
  least = 2 if name in ('best_vs_worst', 'oracle_and_rollouts') else 1
  if name == 'feedback' and config.condition.name != 'feedback':
    raise ValueError(
      'collect "feedback" writes verdicts into prompts: take '
      f'condition.name="feedback", not "{config.condition.name}"'
    )
  if name == 'retries' and config.condition.name != 'seen_answer':
    raise ValueError(
      'collect "retries" asks again behind an answer: take '
      f'condition.name="seen_answer", not "{config.condition.name}"'
    )
  if name == 'feedback' and part.get('oracle', True):
    least = 2
  if config.group_size < least:
    raise ValueError(
      f'group_size={config.group_size}: collect "{name}" needs at least {least}'
    )
  if name in LONE and config.group_size != 1:
    raise ValueError(
      f'group_size={config.group_size}: collect "{name}" takes one answer a '
      'problem; leave group_size=1'
    )
  # Last: a sweep may trace a share, and does where there are rows enough.
  if config.prompts_per_step < 2 and (
    name == 'labelled'
    or any(active(part.get(key)) for key in ('slips', 'shuffled'))
    # Of pairs it turns round what is there.
    or (name != 'best_vs_worst' and active(part.get('noise')))
  ):
    raise ValueError(
      f'prompts_per_step={config.prompts_per_step}: collect "{name}" takes '
      'answers of other problems and needs at least 2'
    )
