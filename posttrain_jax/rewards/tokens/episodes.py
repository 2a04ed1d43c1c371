"""Rewards of the episodes of a thought."""

import jax
import jax.numpy as jnp

from posttrain_jax import advantages, rollout
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.models import transformer
from posttrain_jax.rewards.tokens.common import (
  MARKER,
  Rewards,
  World,
  answer_length,
  ids_of,
  solve,
)
from posttrain_jax.tasks import base, vocab


def progress(
  world: World,
  params: PyTree,
  examples: Example,
  samples: Rollout,
  key: Array,
  *,
  alpha: float = 0.2,
  episodes: int = 4,
  boundaries: str = ';,',
) -> Rewards:
  """MRT: how much each episode of a thought raised the chance of the answer.

  J_j is the probability that the policy writes the oracle's final answer and
  the EOS, if it is stopped after episode j and the marker is written for it;
  J_0 if it may not think at all. Episode j earns alpha (J_j - J_{j-1}) on its
  last token, so that the rewards of a completion sum to alpha times
  (J_last - J_0).

  Episodes are the steps of the thought, the text before the last marker; the
  marker ends the last one, unless a boundary has just done so. A step that was
  cut off, an answer and what follows it are in no episode. Where a problem has
  several right answers, J is a lower bound: only the oracle's counts.

  Costs episodes + 1 forward passes over all rows, one after the other.

  Args:
    alpha: the paper's coefficient of progress.
    episodes: at most so many; in a longer thought steps are joined evenly.
    boundaries: the first of these characters that is in the oracle's thought
      ends a step: ';' where steps have commas inside, else ','.

  Metrics: means over completions of success_before (J_0), success_after
  (J_last) and the number of episodes.

  Raises:
    ValueError: episodes below 1, or a boundary that the tasks' vocabulary does
      not have.

  Reference: Qu et al. (2025), https://arxiv.org/abs/2503.07572 (J from sampled
  answers there)
  """
  check_episodes(episodes)
  group_size, size = samples.mask.shape[1:]
  solutions = solve(world.task, examples, key)
  ids = ids_of('boundaries', boundaries)
  boundary = jax.vmap(lambda text: _boundary(text, ids))(solutions)
  most = answer_length(world.task)
  answers = jax.vmap(
    lambda text: base.finish(
      base.final_text(text.tokens, text.mask, MARKER), most
    )
  )(solutions)

  flat = lambda x: x.reshape(-1, size)
  repeat = lambda x: jnp.repeat(x, group_size, axis=0)
  completion, mask = flat(samples.completion), flat(samples.mask)
  ends = jax.vmap(_episode_ends, (0, 0, 0, None))(
    completion, mask, repeat(boundary), episodes
  )
  # The marker of a finished thought is not part of what was thought.
  last = jnp.take_along_axis(completion, jnp.maximum(ends, 0), axis=1)
  kept = jnp.maximum(ends + 1 - (last == vocab.token(MARKER)), 0)
  kept = jnp.concatenate([jnp.zeros_like(kept[:, :1]), kept], axis=1)
  prompts = repeat(examples.prompt), repeat(examples.prompt_mask)
  answers = jax.tree.map(repeat, answers)
  chance = lambda lengths: _forced(
    world, params, *prompts, completion, lengths, answers
  )
  success = jax.lax.stop_gradient(jax.lax.map(chance, kept.T).T)
  start = success[:, 0]
  rises = advantages.progress_rewards(success[:, 1:], start, ends, mask)
  metrics = {
    'success_before': jnp.mean(start),
    'success_after': jnp.mean(start + jnp.sum(rises, axis=1)),
    'episodes': jnp.mean(jnp.sum(ends >= 0, axis=1).astype(jnp.float32)),
  }
  return (alpha * rises).reshape(samples.mask.shape), metrics


def _boundary(solution: vocab.Text, ids: Array) -> Array:
  """The token that ends a step in the oracle's thought, or -1."""
  marker = vocab.token(MARKER)
  answer = vocab.after_last(solution.tokens, solution.mask, marker)
  thought = jnp.where(answer == 0, solution.tokens, vocab.PAD)
  chosen = jnp.int32(-1)
  for token in ids[::-1].tolist():
    chosen = jnp.where(jnp.any(thought == token), token, chosen)
  return chosen


def _episode_ends(
  completion: Array, mask: Array, boundary: Array, episodes: int
) -> Array:
  """[episodes] columns of the last tokens of episodes; -1: there is none."""
  columns = jnp.arange(completion.shape[0])
  text = vocab.before_eos(completion, mask) != 0
  is_marker = text & (completion == vocab.token(MARKER))
  marker = jnp.max(jnp.where(is_marker, columns, -1))
  thought = text & ((columns < marker) | (marker < 0))
  steps = thought & (completion == boundary)
  finished = (marker > 0) & ~steps[jnp.maximum(marker - 1, 0)]
  steps |= finished & (columns == marker)

  count, rank = jnp.sum(steps), jnp.cumsum(steps)
  number = jnp.arange(1, episodes + 1)
  evenly = -(-number * count // episodes)
  number = jnp.where(count > episodes, evenly, number)
  hit = steps[None, :] & (rank[None, :] == number[:, None])
  return jnp.max(jnp.where(hit, columns[None, :], -1), axis=1)


def _forced(
  world: World,
  params: PyTree,
  prompts: Array,
  prompt_mask: Array,
  completion: Array,
  lengths: Array,
  answers: vocab.Text,
) -> Array:
  """[R] probability of the answer after `lengths` [R] tokens and a marker."""
  size = completion.shape[1] + 1 + answers.tokens.shape[1]
  offset = jnp.arange(size)[None, :] - lengths[:, None] - 1
  head = jnp.pad(completion, ((0, 0), (0, size - completion.shape[1])))
  place = jnp.clip(offset, 0, answers.tokens.shape[1] - 1)
  tail = jnp.take_along_axis(answers.tokens, place, axis=1)
  tokens = jnp.where(offset < -1, head, tail)
  tokens = jnp.where(offset == -1, vocab.token(MARKER), tokens)
  real = (offset < answers.length[:, None]).astype(jnp.float32)

  batch = rollout.assemble(prompts, prompt_mask, tokens, real)
  starts = prompt_mask.astype(jnp.int32).sum(axis=1)
  scored = rollout.place(real * (offset >= 0), starts, batch.tokens.shape[1])
  batch = sharding.rows(batch.replace(mask=scored))
  signals = transformer.token_logps(
    params,
    world.model,
    batch.tokens,
    batch.mask,
    world.temperature,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
  )
  return jnp.exp(masked.sum(signals.logps, batch.mask, axis=1))


def check_episodes(episodes: int) -> None:
  if episodes < 1:
    raise ValueError(f'token_rewards.episodes={episodes} is below 1')
