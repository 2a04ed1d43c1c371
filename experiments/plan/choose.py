"""Which settings of a cell to compile: arithmetic first, then one or two.

A step may keep more or less of a layer for its backward pass
(`models.remat`): what keeps most is computed twice least. A rollout may decode
fewer answers at a time. Both are ordered by what they cost, and the first that
should fit is compiled; where XLA disagrees, its number corrects the arithmetic.
"""

import dataclasses
from typing import Any

from posttrain_jax.core import sharding
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.run import build
from posttrain_jax.run.plan import memory, topology

__all__ = [
  'Choice', 'again', 'choices', 'following', 'keeping_more', 'rollouts',
]  # fmt: skip

# Of a chip's memory, what arithmetic may fill at first.
SHARE = 0.9
LEVELS = (
  'none', 'save_all_but_up', 'save_all_but_mlp', 'save_branches',
  'save_attention', 'dots_no_batch', 'full',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Choice:
  """Settings of an update.

  values    {key: value} of its config
  again     FLOPs of a token that a layer computes twice
  estimate  bytes of a chip, by arithmetic
  """

  values: dict[str, Any]
  again: float
  estimate: int


def again(model: ModelConfig, level: str, length: int) -> float:
  """FLOPs of a token that the backward pass of a layer computes again, under a
  kernel for causal attention over `length` tokens."""
  heads = model.num_heads * model.head_dim
  asked = 2.0 * model.width * (heads + 2 * model.num_kv_heads * model.head_dim)
  up = 2.0 * model.width * model.mlp_dim * (2 if model.gated else 1)
  out, found = 2.0 * heads * model.width, 2.0 * heads * length
  return {
    'none': 0.0,
    'save_all_but_up': up / 2 if model.gated else up,
    'save_all_but_mlp': up,
    'save_branches': up + asked,
    'save_attention': up + asked + out,
    'dots_no_batch': found,
    'full': up + asked + out + found,
  }[level]


def _mesh(config: Any) -> Any:
  return topology.abstract_mesh(sharding.axis_sizes(config.mesh))


def _keeping(run: build.Run, level: str) -> build.Run:
  """The run with another `model.remat`: enough for arithmetic."""
  model = dataclasses.replace(run.model, remat=level)
  return dataclasses.replace(run, models={**run.models, 'policy': model})


def _decoding(run: build.Run, slots: int) -> build.Run:
  """The run with other `slots`."""
  sizes = dataclasses.replace(run.sizes, slots=slots)
  return dataclasses.replace(run, sizes=sizes)


def choices(run: build.Run) -> list[Choice]:
  """What an update may keep, the cheapest to compute first. Of two that cost as
  much, or take as much, the better."""
  mesh, found = _mesh(run.config), []
  for level in LEVELS:
    estimate = memory.arithmetic(_keeping(run, level), mesh, 'learn')
    cost = again(run.model, level, run.sizes.row_tokens)
    found.append(Choice({'model.remat': level}, cost, estimate))
  found.sort(key=lambda one: (one.again, one.estimate))
  kept: list[Choice] = []
  for one in found:
    if not kept or one.estimate < kept[-1].estimate:
      kept.append(one)
  return kept


def following(
  rest: list[Choice], limit: int, last: tuple[int, int] | None = None
) -> list[Choice]:
  """Those of `rest` that should fit, cheapest first; none may.

  limit  bytes of a chip
  last   (estimate, bytes that XLA asked for) of one that did not fit
  """
  room = SHARE * limit
  if last is not None:
    room = min(room, 0.97 * limit * last[0] / last[1])
  return [one for one in rest if one.estimate <= room]


def keeping_more(
  every: list[Choice], chosen: Choice, limit: int, used: int
) -> list[Choice]:
  """Those of `every` that compute less twice than one that fits and should fit
  too, cheapest first.

  used  bytes that XLA asked for, of the one that fits
  """
  room = 0.97 * limit * chosen.estimate / used
  less = [one for one in every if one.again < chosen.again]
  return [one for one in less if one.estimate <= room]


def rollouts(run: build.Run, limit: int) -> list[dict[str, Any]]:
  """Settings of a rollout that should fit, fastest first: all answers at a
  time, or a half of them, and so on down to one a chip; at least one, which is
  empty where nothing is decoded."""
  if run.generate is None:
    return [{}]
  mesh = _mesh(run.config)
  rows = run.sizes.prompts_per_step * run.config.group_size
  parts, found, slots = sharding.row_parts(mesh.shape), [], rows
  while True:
    values = {'slots': 0 if slots == rows else slots}
    asked = _decoding(run, values['slots'])
    if memory.arithmetic(asked, mesh, 'rollout') <= SHARE * limit:
      found.append(values)
    if slots % 2 or slots // 2 < parts:
      return found or [values]
    slots //= 2
