"""What cannot work of hints, held demonstrations, second answers and shares."""

from typing import Any

from posttrain_jax.core.resolve import active
from posttrain_jax.losses import flow
from posttrain_jax.trainers.gradients import TOWARD
from posttrain_jax.trainers.rl import (
  guests,
  hard_buffer,
  hints,
  refined,
  steering,
)

__all__ = ['LABEL', 'check', 'reads_valid']

# The advantage whose group has the demonstration as its last member.
LABEL = 'label_in_group'


def reads_valid(config: Any) -> bool:
  """Whether a controller reads the gradient of held-out demonstrations."""
  read = steering.gradients_read(config)
  return any(TOWARD in name.split('/') for name in read)


def check(config: Any) -> None:
  """Raises ValueError for parts of an RL config that cannot work together, or
  would have no effect."""
  _check_label(config)
  _check_refined(config)
  _check_hard(config)
  _check_hints(config)
  _check_gradients(config)
  _check_temperature(config)


def _check_label(config: Any) -> None:
  by_learner = config.expert_old_logps == 'learner'
  if by_learner and config.expert_loss.name == 'none':
    raise ValueError(
      'expert_old_logps="learner" is for expert_loss, which is "none"'
    )
  if config.expert_loss.name == 'ppo_clip' and not by_learner:
    raise ValueError(
      'expert_loss.name="ppo_clip" compares with old probabilities, and '
      'demonstrations have none: set expert_old_logps="learner"'
    )
  for key in ('advantage', 'expert_advantage'):
    if config[key].name != LABEL:
      continue
    if config.expert_loss.name == 'none' or config.demos_per_prompt != 1:
      raise ValueError(
        f'{key}.name="{LABEL}" takes the last of a group for a demonstration: '
        'set expert_loss.name and demos_per_prompt=1'
      )
    if key == 'advantage' and config.expert_advantage.name != 'none':
      raise ValueError(
        f'advantage.name="{LABEL}": own answers are compared with the '
        'demonstration; take expert_advantage.name="none"'
      )


def _check_refined(config: Any) -> None:
  if not refined.used(config):
    return
  refined.check(config)
  if config.demos_per_prompt != 1 or not guests.joins_experts(config):
    raise ValueError(
      f'demos_from="refined" with demos_per_prompt={config.demos_per_prompt}: '
      'one second answer a problem is a guest; set demos_per_prompt=1, and '
      'expert_loss.name or sft_loss.coef'
    )
  if guests.contrasts(config):
    raise ValueError(
      f'contrastive "{config.contrastive.name}" takes demonstrations of the '
      'task: set demos_from="oracle"'
    )


def _check_hard(config: Any) -> None:
  part = config.hard_buffer
  if hard_buffer.used(config):
    return
  if active(part.rate - 1.0) or part.choose != 'unsolved':
    raise ValueError(
      f'hard_buffer.rate={part.rate} and hard_buffer.choose="{part.choose}" '
      'are of demonstrations that are held, and none are: set hard_buffer.rows'
    )


def _check_hints(config: Any) -> None:
  part = config.hints
  if not hints.used(config):
    if active(part.coef) or part.draw != 'binomial':
      raise ValueError(
        f'hints.coef={part.coef} and hints.draw="{part.draw}" are of hints, '
        'and there are none: set hints.chunks'
      )
    return
  for key, there in (
    ('demos_per_prompt', config.demos_per_prompt),
    ('explore.per_prompt', config.explore.per_prompt),
    ('prefix.per_prompt', config.prefix.per_prompt),
    ('token_rewards.name', config.token_rewards.name != 'none'),
    ('guides', len(config.guides)),
    (f'loss.name="{config.loss.name}"', config.loss.name in flow.__all__),
    ('advantage.name="remax"', config.advantage.name == 'remax'),
  ):
    if there:
      raise ValueError(
        f'hints.chunks={part.chunks}: all answers of a problem begin as they '
        f'are told, and {key} brings others, or reads whole answers; leave one '
        'of them out'
      )


def _check_gradients(config: Any) -> None:
  read = steering.gradients_read(config)
  valid = reads_valid(config)
  if valid != (config.valid_per_step > 0):
    raise ValueError(
      f'valid_per_step={config.valid_per_step}: '
      + (
        'a controller reads the gradient of held-out demonstrations, and there '
        'are none; set it to at least 1'
        if valid
        else 'no controller reads held-out demonstrations; set it to 0'
      )
    )
  if not read:
    return
  who = ', '.join(
    f'{what}_controller.name="{config[what + "_controller"].name}"'
    for what, controller in steering.make_controllers(config).items()
    if set(controller.reads) & read
  )
  if not guests.imitates(config):
    raise ValueError(
      f'{who} reads the gradient of imitation, and there is none: set '
      'sft_loss.coef or sft_controller.name'
    )
  if config.sft_loss.mix == 'convex':
    raise ValueError(
      f'{who} reads gradients of imitation and of all else, and sft_loss.mix='
      '"convex" shares with the policy alone; take "between", "coin" or "add"'
    )


def _check_temperature(config: Any) -> None:
  name = config.temperature_controller.name
  if name == 'none':
    return
  if 'temperature' not in config.decoder:
    raise ValueError(
      f'temperature_controller.name="{name}": decoder '
      f'"{config.decoder.name}" has no temperature; take "sample"'
    )
  for key, there in (
    ('token_rewards.name', config.token_rewards.name != 'none'),
    ('explore.per_prompt', config.explore.per_prompt),
    ('prefix.per_prompt', config.prefix.per_prompt),
    ('demos_from="refined"', refined.used(config)),
  ):
    if there:
      raise ValueError(
        f'temperature_controller.name="{name}" sets the temperature of the '
        f"group's own answers, and {key} draws others; leave one of them out"
      )
