"""Reinforcement learning with verifiable rewards, as a kind of trainer.

  problems -> group rollout -> verifier -> advantages -> update

checks.py      what a config asks for, and what cannot work
step.py        the pure step, and the learner's half of it
wiring.py      from a config to the functions that the step calls
objective.py   what an update minimises; terms.py: each term from its part
scoring.py     what models say of rollouts before the update
advantages.py  from rewards to what each token is told
guests.py      rows beside a group's own answers: which kinds there are
guest_rows.py  how those rows are drawn, and where they go
curriculum.py  what a step tells the weights that problems are drawn by
prefixes.py    answers that go on from the beginning of a demonstration
aside.py       what is done for a group, and drawn aside from it
hints.py       groups that are told the beginning of a demonstration
refined.py     second answers, told what was wrong with the first
partner.py     another model that reads the answers, or gives those to read
hard_buffer.py demonstrations of unsolved problems, learnt apart
imitation.py   imitation of rows that stand in no group
steering.py    numbers that controllers set
sampling.py    how answers are drawn; extras.py: what terms ask for beside
hybrid_checks.py  what cannot work of all that
"""

from collections.abc import Callable
from typing import Any

from posttrain_jax.rewards import entries
from posttrain_jax.trainers.curriculum import states as curriculum_states
from posttrain_jax.trainers.rl import (
  guests,
  hard_buffer,
  partner,
  refined,
  steering,
)
from posttrain_jax.trainers.rl.checks import (
  check,
  check_sizes,
  needs_greedy,
  needs_reference,
)
from posttrain_jax.trainers.rl.objective import make_controllers
from posttrain_jax.trainers.rl.objective import (
  needs_value_head as value_head,
)
from posttrain_jax.trainers.rl.terms import has_critic, loss_arrays, loss_room
from posttrain_jax.trainers.rl.wiring import HostStep, make_step

__all__ = [
  'LABEL',
  'HostStep',
  'check',
  'check_sizes',
  'controllers',
  'counts',
  'forwards',
  'loss_room',
  'make_step',
  'memories',
  'needs',
  'records',
  'roles',
  'rows_per_prompt',
  'scorers',
  'sources',
  'value_head',
]

LABEL = 'RL'


def controllers(config: Any) -> dict[str, Any]:
  """{what: what has its `init`} of all that moves beside the parameters."""
  return {**make_controllers(config), **curriculum_states(config)}


def records(config: Any) -> tuple[str, ...]:
  """It samples its own rows."""
  del config
  return ()


def sources(config: Any) -> tuple[tuple[str, ...], str]:
  """It samples its own rows."""
  del config
  return (), ''


def needs(config: Any, provided: Any) -> frozenset[str]:
  """No array by name: the learner makes those that its parts ask for."""
  del config, provided
  return frozenset()


def roles(config: Any, needs: frozenset[str], given: tuple[str, ...]) -> set:
  """Frozen models that a run holds."""
  del needs, given
  held = set(config.get('others', {}))
  return held | ({'ref'} if needs_reference(config) else set())


def scorers(config: Any) -> tuple[str, ...]:
  """Roles of the reward models among `config.rewards`."""
  return entries.roles(config.rewards)


def rows_per_prompt(config: Any) -> int:
  """Rows of one problem: the group's own answers, and those beside them."""
  return config.group_size + guests.rows_beside(config)


def memories(config: Any, sizes: Any) -> dict[str, Callable]:
  """The buffer of demonstrations of unsolved problems."""
  if not hard_buffer.used(config):
    return {}
  return {hard_buffer.CONTROL: hard_buffer.memory(config, sizes)}


def counts(config: Any, sizes: Any) -> dict[str, float]:
  """The step counts what it draws itself."""
  del config, sizes
  return {}


def forwards(
  config: Any, sizes: Any, models: Any
) -> list[tuple[float, str, int, int]]:
  """Passes of a step beside its updates: (times, role, rows, tokens a row).

  A rollout is counted to its longest possible completion; a group's prompt is
  read once.
  """
  del models
  prompts = sizes.prompts_per_step
  answers = config.group_size
  answers += config.explore.per_prompt + config.prefix.per_prompt
  answers += needs_greedy(config)
  own = prompts * config.group_size
  passes = [
    (1.0, 'policy', prompts, sizes.prompt_length),
    (1.0, 'policy', prompts * answers, sizes.row_tokens),
    (-1.0, 'policy', prompts * answers, sizes.prompt_length),
  ]
  if config.sampler.url:  # a server draws them, elsewhere
    passes = []
  proximal = 'proximal_logps' in loss_arrays(config)
  if config.old_logps == 'learner' or has_critic(config) or proximal:
    passes.append((1.0, 'policy', own, sizes.row_tokens))
  if config.kl.coef or config.kl_controller.name != 'none':
    passes.append((1.0, 'ref', own, sizes.row_tokens))
  if config.token_rewards.name == 'progress':
    times = config.token_rewards.episodes + 1.0
    passes.append((times, 'policy', own, sizes.row_tokens))
  for role in scorers(config):
    passes.append((1.0, role, own, sizes.row_tokens))
  if guests.contrasts(config):
    passes.append((1.0, 'policy', prompts, sizes.row_tokens))
  passes += partner.forwards(config, sizes)
  return passes + _hybrid_forwards(config, sizes)


def _hybrid_forwards(
  config: Any, sizes: Any
) -> list[tuple[float, str, int, int]]:
  """Passes for rows beside a group, and for what controllers read.

  A backward pass is two forward ones. An update on held demonstrations is
  counted in every step that could fill its buffer.
  """
  prompts, length = sizes.prompts_per_step, sizes.row_tokens
  passes = []
  if config.expert_old_logps == 'learner':
    passes.append((1.0, 'policy', prompts * config.demos_per_prompt, length))
  if refined.used(config):
    answer = sizes.max_new_tokens
    second = refined.width_of(config, sizes.prompt_length, answer) + answer
    passes.append((1.0, 'policy', prompts * config.group_size, second))
  if hard_buffer.used(config):
    held = min(config.hard_buffer.rows, prompts)
    passes.append((3.0, 'policy', held, length))
  if config.valid_per_step:
    passes.append((3.0, 'policy', config.valid_per_step, length))
  if steering.gradients_read(config):  # one more backward pass over all rows
    passes.append((2.0, 'policy', sizes.rows, length))
  return passes
