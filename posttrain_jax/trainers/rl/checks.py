"""What an RL config asks for, and what cannot work."""

import functools
from collections.abc import Callable
from typing import Any

from posttrain_jax import advantages as advantages_room
from posttrain_jax import token_weights
from posttrain_jax.core import sharding
from posttrain_jax.core.resolve import (
  active,
  arrays_of,
  hparams_of,
  lookup,
  nearest,
)
from posttrain_jax.core.stops import Ends
from posttrain_jax.core.types import Example, PyTree
from posttrain_jax.losses import (
  contrastive,
  flow,
  policy_gradient,
  regularizers,
  supervised,
)
from posttrain_jax.rollout import environments, guides
from posttrain_jax.rollout.guide import Chain, Guide, chain
from posttrain_jax.trainers import curriculum
from posttrain_jax.trainers.rl import (
  guests,
  hard_buffer,
  hints,
  hybrid_checks,
  objective,
  partner,
  prefixes,
  reward_checks,
)
from posttrain_jax.trainers.rl.terms import (
  has_critic,
  loss_room,
  scores_tokens,
)
from posttrain_jax.trainers.step import from_file, refuse_split

__all__ = [
  'check',
  'check_sizes',
  'make_guide',
  'make_start',
  'needs_greedy',
  'needs_prefixes',
  'needs_reference',
]


def needs_reference(config: Any) -> bool:
  """Whether a run keeps the policy that it started from."""
  return any(objective.penalised(config, x) for x in ('loss', 'reward'))


def needs_greedy(config: Any) -> bool:
  """Whether the advantage compares with the greedy answer (ReMax)."""
  if scores_tokens(config.advantage.name):
    return False
  named = lookup(advantages_room, config.advantage.name)
  return 'greedy_rewards' in arrays_of(named)


def _needs_graph(config: Any) -> str:
  """What only an in-graph task gives and the config asks for, or ''."""
  if needs_greedy(config):
    return f'advantage "{config.advantage.name}" needs greedy answers'
  if guests.with_experts(config):
    return f'demos_per_prompt={config.demos_per_prompt} needs demonstrations'
  if guests.exploring(config):
    return f'explore.per_prompt={config.explore.per_prompt} needs more answers'
  if prefixes.used(config):
    return f'prefix.per_prompt={config.prefix.per_prompt} needs demonstrations'
  if hints.used(config):
    return f'hints.chunks={config.hints.chunks} needs demonstrations'
  if hard_buffer.used(config):
    return f'hard_buffer.rows={config.hard_buffer.rows} needs demonstrations'
  if objective.steered(config, 'temperature'):
    named = config.temperature_controller.name
    return f'temperature_controller "{named}" needs its own sampler'
  if config.token_rewards.name != 'none':
    return f'token_rewards "{config.token_rewards.name}" needs the oracle'
  if partner.used(config):
    return f'partner.place="{config.partner.place}" needs a second reader'
  if needs_prefixes(config):
    return f'loss "{config.loss.name}" needs rewards of unfinished answers'
  return ''


def needs_prefixes(config: Any) -> bool:
  """Whether unfinished answers are judged too."""
  return 'state_log_rewards' in objective.loss_arrays(config)


def make_guide(
  config: Any, task: Any, eos_id: Ends, vocab_size: int
) -> Guide | None:
  """What steers a run's own answers: the task's environment, then
  `config.guides`."""
  own = guides.make(config.guides, eos_id=eos_id, vocab_size=vocab_size)
  return chain(environments.of(task), own)


def make_start(
  task: Any, guide: Guide | None
) -> Callable[[Example], PyTree] | None:
  """(examples) -> states [B, ...] of `make_guide`'s guide, where the task has
  an environment; None: a guide knows how to start."""
  environment = environments.of(task)
  if environment is None:
    return None
  own = guide.parts[1] if isinstance(guide, Chain) else None
  return functools.partial(environments.starts, task, own)


def check(config: Any) -> None:
  """Raises ValueError for parts of an RL config that cannot work together."""
  if config.decoder.name == 'greedy':
    raise ValueError(
      'decoder "greedy" draws nothing, and there is nothing to learn from '
      'equal answers; take "sample" or one that truncates, such as "top_p"'
    )
  guests.check(config)
  hybrid_checks.check(config)
  partner.check(config)
  _check_prefix(config)
  _check_guides(config)
  _check_coefficients(config)
  _check_kl(config)
  _check_flow(config)
  _check_groups(config)
  reward_checks.check(config)
  curriculum.check(config)
  reason = _needs_graph(config)
  if reason and reward_checks.is_hosted(config):
    what = 'prompts of a file' if from_file(config) else (
      f'host tasks such as "{config.task.name}"'
    )  # fmt: skip
    raise ValueError(f'{reason}, which {what} do not make')


def check_sizes(config: Any, sizes: Any) -> None:
  """Raises ValueError for batches, micro-batches and streams of tokens that
  cannot work."""
  _check_rollout(sizes)
  _check_streams(config, sizes)
  is_split = sizes.microbatch_rows != sizes.minibatch_rows
  if is_split and prefixes.ranks(config):
    raise ValueError(
      f'microbatch_rows={sizes.microbatch_rows}: prefix.top_fraction='
      f'{config.prefix.top_fraction} compares the given tokens of all '
      f'{sizes.minibatch_rows} rows of a minibatch; leave microbatch_rows=0, '
      'or set prefix.top_fraction=1'
    )
  parts = [(loss_room(config.loss.name), config.loss.name)]
  if config.expert_loss.name != 'none':
    parts.append((policy_gradient, config.expert_loss.name))
  if guests.imitates(config):
    parts.append((supervised, config.sft_loss.name))
    parts.append((token_weights, config.sft_weights.name))
  if guests.contrasts(config):
    parts.append((contrastive, config.contrastive.name))
  parts.append((token_weights, config.weights.name))
  refuse_split(sizes, parts)


def _check_rollout(sizes: Any) -> None:
  if sizes.slots and sizes.cache_stages > 1:
    raise ValueError(
      f'cache_stages={sizes.cache_stages}: a slot has its whole cache from '
      'the beginning; take cache_stages=1, or slots=0'
    )


def _check_streams(config: Any, sizes: Any) -> None:
  """Raises ValueError for `token_buckets` that cannot work."""
  if sizes.token_buckets == 1:
    return
  if not config.share_prompts or sizes.microbatch_rows % sizes.group_size:
    raise ValueError(
      f'token_buckets={sizes.token_buckets} is of shared prompts: set '
      'share_prompts=true and microbatch_rows to a multiple of the '
      f'{sizes.group_size} rows of a problem'
    )
  mesh = sharding.axis_sizes(config.mesh)
  parts = sharding.row_parts(mesh)
  prompts = sizes.microbatch_rows // sizes.group_size
  if prompts % parts or mesh['sequence'] > 1:
    raise ValueError(
      f'token_buckets={sizes.token_buckets}: the {prompts} problems of a '
      f'micro-batch cannot be split into streams of {parts} devices of the '
      f'mesh {sharding.shown_as(mesh)}; take token_buckets=1'
    )


def _check_guides(config: Any) -> None:
  names = guides.names(config.guides)
  if not names:
    return
  for key, there in (
    ('demos_per_prompt', config.demos_per_prompt),
    ('explore.per_prompt', config.explore.per_prompt),
    ('prefix.per_prompt', config.prefix.per_prompt),
    ('token_rewards.name', config.token_rewards.name != 'none'),
  ):
    if there:
      raise ValueError(
        f'guides={names} steer the own answers only, and {key} adds or scores '
        'others; leave one of them out'
      )


def _check_prefix(config: Any) -> None:
  if not prefixes.used(config):
    return
  count = config.prefix.per_prompt
  if config.loss.name in flow.__all__:
    raise ValueError(
      f'prefix.per_prompt={count}: loss "{config.loss.name}" reads no '
      'advantage; take prefix.per_prompt=0, or a policy-gradient loss'
    )
  wanted = objective.loss_arrays(config)
  if wanted:
    raise ValueError(
      f'prefix.per_prompt={count}: loss "{config.loss.name}" reads '
      f'"{wanted[0]}", which rows beside the own ones do not have; take '
      'prefix.per_prompt=0, or "ppo_clip"'
    )


def _check_coefficients(config: Any) -> None:
  for what, coef in (
    ('kl', config.kl.coef),
    ('entropy', config.entropy_coef),
    ('sft', config.sft_loss.coef),
  ):
    if active(coef) and objective.steered(config, what):
      raise ValueError(
        f'{what}_controller.name="{config[what + "_controller"].name}" sets '
        f'the coefficient of {what}: leave its fixed one, {coef}, at 0'
      )


def _check_kl(config: Any) -> None:
  penalty = config.kl.name
  in_reward = objective.penalised(config, 'reward')
  if in_reward and (
    penalty in regularizers.LOGITS
    or 'old_logps' in arrays_of(lookup(regularizers, penalty))
  ):
    raise ValueError(
      f'kl.name="{penalty}": a KL in the reward is an estimate on the taken '
      'tokens; take "kl_k1", "kl_k2" or "kl_k3"'
    )
  named = lookup(advantages_room, config.advantage.name)
  if in_reward and 'threshold' in hparams_of(named):
    raise ValueError(
      f'kl.place="reward": advantage "{config.advantage.name}" asks which '
      'rewards are above a threshold, and a penalty would move them across it; '
      'take kl.place="loss"'
    )
  steering = objective.make_controllers(config)
  for what, controller in steering.items():
    if 'kl' in controller.reads and not needs_reference(config):
      raise ValueError(
        f'{what}_controller.name="{config[what + "_controller"].name}" reads '
        'the KL, and the run has none: set kl.coef'
      )


def _check_flow(config: Any) -> None:
  if config.loss.name not in flow.__all__:
    return
  if objective.penalised(config, 'reward'):
    raise ValueError(
      f'kl.place="reward": loss "{config.loss.name}" reads no advantage; take '
      'kl.place="loss"'
    )
  # Weights by verdict, expert losses and critics belong to policy gradients.
  if config.expert_loss.name != 'none' or config.advantage.name != 'raw':
    raise ValueError(
      f'loss "{config.loss.name}" balances flows, not advantages: take '
      'expert_loss.name="none" and advantage.name="raw"'
    )
  if config.token_rewards.name != 'none':
    raise ValueError(
      f'loss "{config.loss.name}" reads no advantage: take '
      'token_rewards.name="none"'
    )
  size = config.loss.get('group_size', 1)
  if size not in (1, config.group_size):
    raise ValueError(
      f'loss.group_size={size}: it is the group_size of the run, '
      f'{config.group_size}; leave it at 1'
    )


def _check_groups(config: Any) -> None:
  name = config.advantage.name
  baseline = config.advantage.get('baseline', 'none')
  alone = name in advantages_room.ALONE and baseline == 'none'
  shared = config.expert_loss.name != 'none'
  shared = shared and config.expert_advantage.name == 'none'
  compared = config.group_size + shared * config.demos_per_prompt
  if not alone and compared < 2:
    raise ValueError(
      f'group_size={config.group_size}: advantage "{name}" '
      'compares completions of one problem and needs at least 2'
    )
  k = config.advantage.get('k', 1)
  if k > compared:
    raise ValueError(
      f'advantage.k={k}: a set is drawn from the {compared} completions of a '
      f'problem (group_size={config.group_size}); nearest valid: {compared}'
    )
  if config.loss.name == 'trajectory_balance_group' and config.group_size < 2:
    raise ValueError(
      f'group_size={config.group_size}: loss "{config.loss.name}" compares '
      'completions of one problem and needs at least 2'
    )
  expert = config.expert_advantage.name
  if scores_tokens(expert):
    raise ValueError(
      f'expert_advantage.name="{expert}" scores tokens, not demonstrations; '
      'take one of answers, such as "group_centered"'
    )
  if expert not in ('none', *advantages_room.__all__):
    raise ValueError(
      f'expert_advantage.name="{expert}": demonstrations are compared with '
      'their group.' + nearest(expert, ('none', *advantages_room.__all__))
    )
  if config.expert_loss.name == 'none':
    if expert != 'none':
      raise ValueError(
        f'expert_advantage.name="{expert}" is for expert_loss, which is "none"'
      )
  elif scores_tokens(name) and expert == 'none':
    who = 'a critic' if has_critic(config) else f'advantage "{name}"'
    raise ValueError(
      f'expert_loss: {who} gives demonstrations no advantage; set '
      'expert_advantage.name, such as "group_centered"'
    )
