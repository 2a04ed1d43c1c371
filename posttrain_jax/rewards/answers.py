"""Rewards of whole answers, beside the verifier's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Example, PyTree, Rollout, TrainState
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig


def log_reward(part: Any, rewards: Array) -> Array:
  """log(max(reward, floor)) / temperature: what a GFlowNet loss aims at.

  Wrong answers are to be drawn in proportion to the floor, and there are very
  many of them: with a high floor they get nearly all of the mass. A very low
  one (1e-10 is published) makes them dominate the variance of the loss.
  """
  return jnp.log(jnp.maximum(rewards, part.floor)) / part.temperature


def prefix_log_rewards(
  part: Any, rewards: Array, prompt_lengths: Array, total: int
) -> Array:
  """[R, T] log-reward of the text before each token of the rows.

  rewards         [R, C] of a completion that stops before token c
  prompt_lengths  [R]
  """
  return rollout.place(log_reward(part, rewards), prompt_lengths, total)


def answer_scores(
  params: PyTree, model: ModelConfig, examples: Example, samples: Rollout
) -> Array:
  """[B, G] a reward model's score of each answer, read after its last token."""
  rows = sharding.rows(
    rollout.assemble_groups(examples.prompt, examples.prompt_mask, samples)
  )
  values = heads.sequence_values(
    params, model, rows.tokens, rows.mask, positions=rows.positions,
    segment_ids=rows.segment_ids,
  )  # fmt: skip
  return values.reshape(samples.mask.shape[:2])


def make_score(
  role: str, models: dict[str, ModelConfig]
) -> Callable[[TrainState, Example, Rollout], Array] | None:
  """(state, examples, samples) -> `answer_scores` of the run's reward model;
  None where the verifier judges.

  role  of the reward model; '' where there is none
  """
  if not role:
    return None

  def score(state: TrainState, examples: Example, samples: Rollout) -> Array:
    params = jax.lax.stop_gradient(state.model(role))
    return answer_scores(params, models[role], examples, samples)

  return score


def stopped_everywhere(verify: Callable) -> Callable[..., Array]:
  """A task's `verify` -> (example, completion [C], mask [C]) -> rewards [C]
  of the completion stopped before each of its tokens."""

  def rewards(example, completion, mask):
    size = mask.shape[0]
    before = jnp.tril(jnp.ones((size, size), mask.dtype), -1) * mask[None]
    judged = jax.vmap(verify, (None, None, 0))(example, completion, before)
    return judged['reward']

  return rewards
