"""The sizes of a run: rows, lengths, updates."""

import dataclasses
import math
from typing import Any

from posttrain_jax import trainers
from posttrain_jax.core import sharding, target
from posttrain_jax.run import auto
from posttrain_jax.trainers.step import from_file

__all__ = ['Sizes', 'resolve']


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The batch arithmetic of a run, resolved and checked.

  prompts_per_step     problems or records of a step
  group_size           rows of one problem
  rows                 of a step
  minibatch_rows       of one optimizer update
  microbatch_rows      of one forward and backward pass
  updates_per_rollout  passes over the rows of a step
  updates_per_step     optimizer updates of a step
  num_updates          of the whole run
  prompt_length        tokens a prompt may have; None: rows are a file's
  max_new_tokens       tokens an answer may have; None: rows are a file's
  row_tokens           tokens of a row
  tokens_per_step      rows * row_tokens
  slots                completions decoded at a time, of RL; 0: all
  cache_stages         in which the cache of a rollout grows
  token_buckets        sizes that an update is compiled for, to skip padding
  why                  why the last of these and microbatch_rows are what they
                       are, where the config leaves them to 'auto'
  """

  prompts_per_step: int
  group_size: int
  rows: int
  minibatch_rows: int
  microbatch_rows: int
  updates_per_rollout: int
  updates_per_step: int
  num_updates: int
  prompt_length: int | None = None
  max_new_tokens: int | None = None
  row_tokens: int = 0
  tokens_per_step: int = 0
  slots: int = 0
  cache_stages: int = 1
  token_buckets: int = 1
  why: str = ''

  def to_dict(self) -> dict[str, int]:
    """{name: number} of the sizes that the run has."""
    every = dataclasses.asdict(self)
    return {name: x for name, x in every.items() if isinstance(x, int)}


def _divides(name: str, part: int, whole: int, of: str) -> None:
  """Raises with the nearest valid sizes unless `part` divides `whole`."""
  if whole % part:
    valid = [d for d in range(1, whole + 1) if whole % d == 0]
    near = sorted(valid, key=lambda d: abs(d - part))[:3]
    raise ValueError(
      f'{name}={part} does not divide {of}={whole}; nearest valid: '
      + ', '.join(str(d) for d in sorted(near))
    )


def resolve(config: Any, task: Any) -> Sizes:
  """The sizes that a config, its task and its data give.

  task  None where the run has none

  Raises:
    ValueError: sizes that do not divide, with the nearest that do, or
      micro-batches that would change the result.
  """
  kind = trainers.kind(config.paradigm)
  group = kind.rows_per_prompt(config)
  rows = config.prompts_per_step * group
  minibatch = config.minibatch_rows or rows
  _divides('minibatch_rows', minibatch, rows, 'rows')
  per_step = rows // minibatch * config.updates_per_rollout
  prompt = None if task is None else task.prompt_length
  new = None if task is None else task.completion_length
  new = config.get('max_new_tokens', 0) or new
  on_records = from_file(config) and kind.records(config)
  length = config.data.max_length if on_records else prompt + new
  sizes = Sizes(
    prompts_per_step=config.prompts_per_step,
    group_size=group,
    rows=rows,
    minibatch_rows=minibatch,
    microbatch_rows=minibatch,
    updates_per_rollout=config.updates_per_rollout,
    updates_per_step=per_step,
    num_updates=per_step * config.num_steps,
    prompt_length=prompt,
    max_new_tokens=new,
    row_tokens=length,
    tokens_per_step=rows * length,
  )
  return _decided(config, sizes, kind)


def _check(config: Any, sizes: Sizes, kind: Any) -> None:
  micro = sizes.microbatch_rows
  _divides('microbatch_rows', micro, sizes.minibatch_rows, 'minibatch_rows')
  if 'reduce' in config and config.reduce.name == 'prompt_mean':
    _divides('group_size', sizes.group_size, micro, 'microbatch_rows')
  kind.check_sizes(config, sizes)


def _work(config: Any, sizes: Sizes) -> auto.Work:
  devices = math.prod(sharding.axis_sizes(config.mesh).values())
  return auto.Work(
    backend=target.backend(),
    devices=devices,
    rollouts='share_prompts' in config,
    share_prompts=bool(config.get('share_prompts', False)),
    rows=sizes.rows,
    minibatch_rows=sizes.minibatch_rows,
    group_size=sizes.group_size,
    row_tokens=sizes.row_tokens,
    max_new_tokens=sizes.max_new_tokens or 0,
    num_steps=config.num_steps,
  )


def _decided(config: Any, sizes: Sizes, kind: Any) -> Sizes:
  """The sizes with what the config says of their parts, or 'auto' for it.

  Raises:
    ValueError: of the last choice, where none can work.
  """
  keys = ('slots', 'cache_stages', 'token_buckets', 'microbatch_rows')
  asked = {key: config.get(key, auto.AUTO) for key in keys}
  fixed = {key: x for key, x in asked.items() if x != auto.AUTO}
  if fixed.get('microbatch_rows') == 0:
    fixed['microbatch_rows'] = sizes.minibatch_rows
  for choice in auto.choices(_work(config, sizes), fixed):
    chosen = dataclasses.asdict(choice)
    if len(fixed) == len(keys):
      chosen['why'] = ''
    made = dataclasses.replace(sizes, **chosen)
    try:
      _check(config, made, kind)
      return made
    except ValueError as error:
      wrong = error
  raise wrong
