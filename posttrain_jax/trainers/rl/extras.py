"""What the terms of an objective ask for beside log-probabilities."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout, token_weights
from posttrain_jax.core.resolve import arrays_of, lookup
from posttrain_jax.core.types import Batch, TrainState
from posttrain_jax.losses import flow
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rewards import answers
from posttrain_jax.trainers.rl import guests
from posttrain_jax.trainers.rl.experience import Experience

__all__ = ['make_extras']


def make_extras(config: Any, model: ModelConfig) -> Callable[..., Batch]:
  """Adds what the terms of an objective ask for beside log-probabilities."""
  weights = lookup(token_weights, config.weights.name)
  contrasts = guests.contrasts(config)
  verdicts = 'correct' in arrays_of(weights) or contrasts

  def annotated(state, prompts, prompt_mask, samples):
    """[B, D] embeddings of demonstrations, one a problem."""
    batch = rollout.assemble_groups(prompts, prompt_mask, samples)
    made = heads.sequence_embedding(
      state.params, model, batch.tokens, batch.mask,
      segment_ids=batch.segment_ids,
    )  # fmt: skip
    return jax.lax.stop_gradient(made)

  def add(state: TrainState, batch: Batch, lived: Experience) -> Batch:
    extras = dict(batch.extras)
    flat, group_size = lived.rewards.reshape(-1), lived.rewards.shape[1]
    if verdicts:
      extras['correct'] = (flat > guests.RIGHT).astype(jnp.float32)
    if config.loss.name in flow.__all__:
      extras['log_rewards'] = answers.log_reward(config.log_reward, flat)
    judged = lived.prefix_rewards
    if judged is not None:
      lengths = lived.prompt_mask.astype(jnp.int32).sum(axis=1)
      extras['state_log_rewards'] = answers.prefix_log_rewards(
        config.log_reward,
        judged.reshape(-1, judged.shape[-1]),
        jnp.repeat(lengths, group_size),
        batch.mask.shape[1],
      )
    if contrasts:
      shown, _ = lived.guests['expert']
      anchors = annotated(state, lived.prompts, lived.prompt_mask, shown)
      if config.contrastive.annotation == 'another':  # that of the next one
        anchors = jnp.roll(anchors, -1, axis=0)
      extras['anchors'] = jnp.repeat(anchors, group_size, axis=0)
    return batch.replace(extras=extras)

  return add
