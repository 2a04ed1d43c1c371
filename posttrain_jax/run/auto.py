"""What 'auto' stands for in a config's sizes, and why.

Measured on two CPU cores (experiments/benchmarks, `grpo_auto`): XLA:CPU gives
memory back after every step and faults it in again, so that an update is faster
in micro-batches of about a thousand tokens; a rollout whose answers differ in
length is faster in few slots; and an update on the real tokens alone is faster
than one on padded rectangles. Short or small runs are not worth the programs
that this takes to compile. Elsewhere nothing was measured, and all rows are
taken at a time.
"""

import dataclasses
import math
from typing import Any

__all__ = ['AUTO', 'Choice', 'Work', 'choices', 'scan_layers']

AUTO = 'auto'

# Tokens of a micro-batch on a CPU.
MICRO_TOKENS = 1300
# Answers that may be longer than this differ in length: worth slots.
LONG_ANSWER = 32
SLOTS = 32
BUCKETS = 4
# Tokens of a step, and of a run, from which on it is worth compiling more.
STEP_TOKENS = 4096
RUN_TOKENS = 400_000
# Layers from which on one is compiled for all.
DEEP = 8


@dataclasses.dataclass(frozen=True)
class Work:
  """What a choice depends on.

  backend         of jax: 'cpu', 'gpu', 'tpu'
  devices         of the mesh
  rollouts        whether the step samples groups (RL)
  share_prompts   whether the update may read a group's prompt once
  rows, minibatch_rows, group_size, row_tokens, max_new_tokens, num_steps
                  as in `sizes.Sizes`
  """

  backend: str
  devices: int
  rollouts: bool
  share_prompts: bool
  rows: int
  minibatch_rows: int
  group_size: int
  row_tokens: int
  max_new_tokens: int
  num_steps: int


@dataclasses.dataclass(frozen=True)
class Choice:
  """Sizes of a run; `why` is a sentence for whoever asks."""

  slots: int
  token_buckets: int
  cache_stages: int
  microbatch_rows: int
  why: str


def _plain(work: Work, why: str) -> Choice:
  return Choice(0, 1, 1, work.minibatch_rows, why)


def _micro(work: Work) -> int:
  """The divisor of a minibatch, whole groups, nearest to MICRO_TOKENS."""
  wanted = MICRO_TOKENS / work.row_tokens
  sizes = [
    size
    for size in range(work.group_size, work.minibatch_rows + 1, work.group_size)
    if work.minibatch_rows % size == 0
  ]
  return min(sizes, key=lambda size: abs(math.log(size / wanted)))


def choices(work: Work) -> list[Choice]:
  """What 'auto' may stand for, best first; the last always works.

  A method that compares a whole minibatch, or whose groups micro-batches would
  cut, takes the first that its trainer allows.
  """
  if work.backend != 'cpu' or work.devices > 1:
    return [
      _plain(work, f'{work.devices} x {work.backend}: all rows at a time')
    ]
  tokens = work.rows * work.row_tokens
  if tokens < STEP_TOKENS or tokens * work.num_steps < RUN_TOKENS:
    return [_plain(work, 'a small run: all rows at a time compile fastest')]
  whole = _plain(work, 'this method compares all rows of a minibatch')
  if work.minibatch_rows % work.group_size:
    return [whole]
  long = work.rollouts and work.max_new_tokens > LONG_ANSWER
  slots = SLOTS if long and work.rows >= 2 * SLOTS else 0
  micro = Choice(
    slots, 1, 1, _micro(work), 'a CPU: micro-batches that its cache holds'
    + (', answers of many lengths in slots' if slots else ''),
  )  # fmt: skip
  wholes = [dataclasses.replace(whole, slots=slots), whole]
  if not (long and work.share_prompts):
    return [micro, *wholes]
  streams = dataclasses.replace(
    micro, token_buckets=BUCKETS, why=micro.why + ', updates on real tokens'
  )
  return [streams, micro, *wholes]


def scan_layers(value: Any, num_layers: int) -> bool:
  """`config.model.scan_layers` as a bool: deep models compile one layer."""
  return num_layers > DEEP if value == AUTO else bool(value)
