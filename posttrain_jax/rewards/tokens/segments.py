"""Rewards of the segments of a final answer."""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.rewards.tokens.common import (
  MARKER,
  Rewards,
  World,
  ids_of,
  solve,
)
from posttrain_jax.tasks import vocab

RIGHT = 0.5  # an answer with a reward above it is right


def fine_grained(
  world: World,
  params: PyTree,
  examples: Example,
  samples: Rollout,
  key: Array,
  *,
  weight: float = 0.3,
  missing: float = 0.3,
  at_end: float = 0.0,
  separators: str = ' ,;\n+-*/',
) -> Rewards:
  """Fine-grained RLHF: a reward for each segment, on the token that ends it.

  A segment ends with a separator, which belongs to it, with the EOS, or where
  the completion was cut off. It is right if the oracle's segment of the same
  index is the same to the token; one that the oracle does not have is wrong.
  Thoughts have no segments. Where the oracle thinks and a completion has no
  marker, it has no answer and lacks every segment.

  A problem may have other right answers than the oracle's. In a completion
  that the verifier accepts no segment is wrong: together they earn what the
  oracle's would, each the same, so that a longer form of a right answer earns
  no more. A wrong answer is still held against the oracle's only. A task that
  knows better has a method

    task.segments(example, completion [C], mask [C]) -> rewards [S], ends [S]

  with rewards in -1..1 and the column of each segment's last token (-1: there
  is no such segment). It takes the place of all the above; only `weight` and
  `at_end` still apply.

  Args:
    weight: a right segment earns it, a wrong one loses it. The paper has 0.3
      for the relevance of parts of sentences, 0.5 for facts in sentences.
    missing: lost on the last token for each segment that the oracle has
      beyond those of a wrong answer, in place of the paper's reward for
      completeness. Below `weight`, stopping early can pay.
    at_end: share of what segments earn that is paid on the last token; at 1
      all of it, in the same total: what rewards of segments are compared with.
    separators: characters that end a segment; '' ends one at every token, for
      digits, moves and cells.

  Metrics: segments and segments_missing of a completion, and the share
  segments_right.

  Raises:
    ValueError: a separator that the tasks' vocabulary does not have.

  Reference: Wu et al. (2023), https://arxiv.org/abs/2306.01693 (rewards by
  learned models there)
  """
  del params
  ids = ids_of('separators', separators)
  graded, ends, lacking = _judged(world.task, examples, samples, key, ids)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  mask = flat(samples.mask)
  rewards = advantages.segment_rewards(weight * flat(graded), flat(ends), mask)
  rewards -= advantages.last_token_rewards(missing * flat(lacking), mask)
  late = advantages.last_token_rewards(jnp.sum(rewards, axis=1), mask)
  rewards = (1.0 - at_end) * rewards + at_end * late
  exists = (ends >= 0).astype(jnp.float32)
  metrics = {
    'segments': jnp.mean(jnp.sum(exists, axis=-1)),
    'segments_right': masked.mean((graded > 0).astype(jnp.float32), exists),
    'segments_missing': jnp.mean(lacking),
  }
  return rewards.reshape(samples.mask.shape), metrics


def _judged(
  task: Any, examples: Example, samples: Rollout, key: Array, ids: Array
) -> tuple[Array, Array, Array]:
  """(rewards [B, G, S] of segments, columns [B, G, S] of their ends, how many
  [B, G] are missing), by the task itself or against its oracle."""
  if hasattr(task, 'segments'):
    judge = _over_group(task.segments)
    graded, ends = judge(examples, samples.completion, samples.mask)
    return graded, ends, jnp.zeros(graded.shape[:2])
  solutions = solve(task, examples, key)

  def judge_one(oracle, example, completion, mask):
    verdict = task.verify(example, completion, mask)
    # Behind a condition, the reward may weigh more than being right.
    accepted = verdict.get('task_reward', verdict['reward']) > RIGHT
    return _against_oracle(oracle, completion, mask, accepted, ids)

  over_group = jax.vmap(judge_one, (None, None, 0, 0))
  return jax.vmap(over_group)(
    solutions, examples, samples.completion, samples.mask
  )


def _over_group(f):
  """Over completions of one prompt, then over prompts."""
  return jax.vmap(jax.vmap(f, (None, 0, 0)), (0, 0, 0))


def _cut(tokens: Array, counted: Array, separators: Array):
  """(index [L] of each token's segment, [L] whether it ends it, starts [L]).

  The index of a token that does not count is L, and so is the start of a
  segment that does not exist.
  """
  size = tokens.shape[0]
  columns = jnp.arange(size)
  stops = jnp.ones((size,), bool)
  if separators.size:
    stops = (tokens == vocab.EOS) | jnp.isin(tokens, separators)
  last = jnp.max(jnp.where(counted, columns, -1))
  ends = counted & (stops | (columns == last))
  index = jnp.where(counted, jnp.cumsum(ends) - ends, size)
  starts = jnp.full((size,), size).at[index].min(columns, mode='drop')
  return index, ends, starts


def _against_oracle(
  oracle: vocab.Text,
  completion: Array,
  mask: Array,
  accepted: Array,
  separators: Array,
) -> tuple[Array, Array, Array]:
  """(rewards [C] of segments, columns [C] of their ends, how many are missing)
  of one completion [C]."""
  marker = vocab.token(MARKER)
  answer = vocab.after_last(completion, mask, marker) != 0
  wanted = vocab.after_last(oracle.tokens, oracle.mask, marker) != 0
  thinks = jnp.any((oracle.tokens == marker) & (oracle.mask != 0))
  answers = jnp.any((completion == marker) & (mask != 0))
  answer &= answers | ~thinks | accepted

  size, length = completion.shape[0], oracle.tokens.shape[0]
  index, ends, starts = _cut(completion, answer, separators)
  theirs, their_ends, their_starts = _cut(oracle.tokens, wanted, separators)
  # Where the oracle has the token that stands at this place of its segment.
  segment = jnp.minimum(index, size - 1)
  begins = their_starts[jnp.minimum(segment, length - 1)]
  at = begins + jnp.arange(size) - starts[segment]
  inside = jnp.clip(at, 0, length - 1)
  same = (
    (at == inside)
    & (theirs[inside] == index)
    & (oracle.tokens[inside] == completion)
    & (their_ends[inside] == ends)
  )
  differ = jnp.zeros((size,), bool).at[index].max(~same, mode='drop')

  columns = jnp.where(ends, index, size)
  places = jnp.full((size,), -1).at[columns].set(jnp.arange(size), mode='drop')
  own, full = jnp.sum(ends), jnp.sum(their_ends)
  graded = jnp.where(differ, -1.0, 1.0)
  graded = jnp.where(accepted, full / jnp.maximum(own, 1), graded)
  lacking = jnp.where(accepted, 0, jnp.maximum(full - own, 0))
  graded = jnp.where(places >= 0, graded, 0.0)
  return graded, places, lacking.astype(jnp.float32)
