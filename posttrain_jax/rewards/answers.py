"""Rewards of whole answers, beside the verifier's own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core.types import Array, Example, Rollout, TrainState
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import arrays, mixing
from posttrain_jax.rewards.entries import MODEL, VERIFIER, Entry
from posttrain_jax.rollout.scored import answer_scores


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


def make_scores(
  entries: Sequence[Entry], models: dict[str, ModelConfig]
) -> Callable[[TrainState, Example, Rollout], dict[str, Array]] | None:
  """(state, examples, samples) -> {label: `answer_scores`} of the entries that
  are reward models; None where there are none."""
  judges = [entry for entry in entries if entry.kind == MODEL]
  if not judges:
    return None

  def scores(state: TrainState, examples: Example, samples: Rollout):
    out = {}
    for entry in judges:
      role = entry.params['role']
      params = jax.lax.stop_gradient(state.model(role))
      out[entry.label] = answer_scores(params, models[role], examples, samples)
    return out

  return scores


def make_mix(
  entries: Sequence[Entry], models: dict[str, ModelConfig], num_steps: int = 0
) -> Callable[..., dict[str, Array]] | None:
  """(state, examples, samples, parts) -> components [B, G]: 'reward', their
  weighted sum; each entry by its label; and what else the verifier found, its
  own reward as 'verified'. None where the verifier alone is the reward.

  parts      {name: [B, G]} of the task's verifier
  num_steps  of the run, for rewards that change with it
  """
  if not entries:
    return None
  scores = make_scores(entries, models)
  timed = any(entry.timed for entry in entries)

  def mix(
    state: TrainState,
    examples: Example,
    samples: Rollout,
    parts: dict[str, Array],
  ) -> dict[str, Array]:
    found = scores(state, examples, samples) if scores else {}
    for entry in entries:
      if entry.kind == VERIFIER:
        found[entry.label] = parts[entry.params['part']]
    facts = arrays.Facts(
      samples.mask.sum(axis=-1), samples.finished, samples.mask.shape[-1]
    )
    if timed:
      done = jnp.minimum(state.step / max(num_steps, 1), 1.0)
      facts = facts._replace(done=done)
    mixed = mixing.completed(entries, found, facts)
    rewards, _ = mixing.total(entries, mixed)
    others = {k: x for k, x in parts.items() if k != 'reward'}
    return {'reward': rewards, 'verified': parts['reward'], **others, **mixed}

  return mix


def stopped_everywhere(verify: Callable) -> Callable[..., Array]:
  """A task's `verify` -> (example, completion [C], mask [C]) -> rewards [C]
  of the completion stopped before each of its tokens."""

  def rewards(example, completion, mask):
    size = mask.shape[0]
    before = jnp.tril(jnp.ones((size, size), mask.dtype), -1) * mask[None]
    judged = jax.vmap(verify, (None, None, 0))(example, completion, before)
    return judged['reward']

  return rewards
