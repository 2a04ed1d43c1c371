"""The sizes of a run: rows, lengths, and what may be split."""

from typing import Any

from posttrain_jax import token_weights
from posttrain_jax.losses import contrastive, policy_gradient
from posttrain_jax.losses import preference as preference_room
from posttrain_jax.losses import supervised as supervised_room
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import inputs
from posttrain_jax.trainers.rl import guests, objective, prefixes

__all__ = ['check_micro', 'resolve', 'shares_prompts']


def resolve(config: Any, task: Any) -> Any:
  """`config.sizes` and what the task or the data say of lengths.

  Adds prompt_length, max_new_tokens (of a run with a task), row_tokens and
  tokens_per_step.
  """
  sizes = config_lib.sizes(config)
  if task is not None:
    sizes.prompt_length = task.prompt_length
    sizes.max_new_tokens = task.completion_length
  if config.get('max_new_tokens', 0):
    sizes.max_new_tokens = config.max_new_tokens
  if inputs.on_data(config):
    sizes.row_tokens = config.data.max_length
  else:
    sizes.row_tokens = sizes.prompt_length + sizes.max_new_tokens
  sizes.tokens_per_step = sizes.rows * sizes.row_tokens
  return sizes


def check_micro(config: Any, sizes: Any) -> None:
  """Refuses micro-batches for parts that look at a whole minibatch."""
  if sizes.microbatch_rows == sizes.minibatch_rows:
    return
  named = []
  if config.paradigm == 'rl':
    if prefixes.ranks(config):
      raise ValueError(
        f'microbatch_rows={sizes.microbatch_rows}: prefix.top_fraction='
        f'{config.prefix.top_fraction} compares the given tokens of all '
        f'{sizes.minibatch_rows} rows of a minibatch; leave microbatch_rows=0, '
        'or set prefix.top_fraction=1'
      )
    named.append((objective.loss_room(config.loss.name), config.loss.name))
    if config.expert_loss.name != 'none':
      named.append((policy_gradient, config.expert_loss.name))
    if guests.imitates(config):
      named.append((supervised_room, config.sft_loss.name))
      named.append((token_weights, config.sft_weights.name))
    if guests.contrasts(config):
      named.append((contrastive, config.contrastive.name))
  elif config.paradigm != 'distill':
    rooms = {'sft': supervised_room, 'preference': preference_room}
    named.append((rooms[config.paradigm], config.loss.name))
  if 'weights' in config:
    named.append((token_weights, config.weights.name))
  for room, name in named:
    if name in room.WHOLE_BATCH:
      raise ValueError(
        f'microbatch_rows={sizes.microbatch_rows}: "{name}" compares all '
        f'{sizes.minibatch_rows} rows of a minibatch; leave microbatch_rows=0'
      )


def shares_prompts(config: Any, sizes: Any) -> bool:
  """Whether the learner reads a prompt once for all of its rows.

  Raises:
    ValueError: `token_buckets` that cannot work.
  """
  whole = sizes.microbatch_rows % sizes.group_size == 0
  shares = bool(config.share_prompts) and whole
  if config.token_buckets < 1:
    raise ValueError(f'token_buckets={config.token_buckets} is below 1')
  if config.token_buckets > 1:
    if not shares:
      raise ValueError(
        f'token_buckets={config.token_buckets} is of shared prompts: set '
        'share_prompts=true and microbatch_rows to a multiple of the '
        f'{sizes.group_size} rows of a problem'
      )
    mesh = dict(config.mesh)
    if any(mesh[axis] != 1 for axis in ('data', 'fsdp')):
      raise ValueError(
        f'token_buckets={config.token_buckets}: a stream of tokens cannot lie '
        f'on several devices (mesh.data={mesh["data"]}, mesh.fsdp='
        f'{mesh["fsdp"]}); take token_buckets=1'
      )
  return shares
