"""Reinforcement learning with verifiable rewards: one pure step.

  problems -> group rollout -> verifier -> advantages -> update

For in-graph tasks the whole step is one compiled program; host tasks run the
same two halves (`collect`'s rollout, then `learn`) around a Python verifier.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages as advantages_room
from posttrain_jax import diagnostics, masked, rollout, sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.trainers.objective import bind
from posttrain_jax.types import Array, Batch, Example, Rollout, TrainState

__all__ = ['make_learn', 'make_rollout', 'make_step']


def make_rollout(
  config: Any,
  model: ModelConfig,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int,
) -> Callable[..., Rollout]:
  """`generate(params, prompts, prompt_mask, prompt_ids, key) -> Rollout`."""
  decoder = bind(decoders, config.decoder)

  def generate(params, prompts, prompt_mask, prompt_ids, key):
    return rollout.generate(
      params,
      model,
      prompts,
      prompt_mask,
      key,
      group_size=config.group_size,
      max_new_tokens=max_new_tokens,
      decoder=decoder,
      eos_id=eos_id,
      pad_id=pad_id,
      prompt_ids=prompt_ids,
    )

  return generate


def _needs_reference(config: Any) -> bool:
  return bool(config.kl.coef)


def _make_token_advantages(config: Any) -> Callable[..., Batch]:
  """(rewards [B, G], batch, old_values) -> the batch with advantages [R, T],
  and with returns where there is a critic."""
  if config.advantage.name != 'gae':
    advantage_fn = bind(advantages_room, config.advantage)

    def of_completion(rewards, batch, old_values):
      del old_values
      spread = advantage_fn(rewards).reshape(-1)[:, None] * batch.mask
      return batch.replace(advantages=spread)

    return of_completion

  gamma, lam = config.advantage.gamma, config.advantage.lam
  whiten = config.advantage.whiten

  def of_token(rewards, batch, old_values):
    # The verifier's reward comes with the last token of the completion.
    columns = jnp.arange(batch.mask.shape[1])[None]
    last = jnp.max(jnp.where(batch.mask > 0, columns, -1), axis=1)[:, None]
    rewards = rewards.reshape(-1)[:, None]
    advantage, returns = advantages_room.gae(
      jnp.where(columns == last, rewards, 0.0),
      old_values,
      batch.mask,
      gamma=gamma,
      lam=lam,
    )
    if whiten:
      advantage = masked.whiten(advantage, batch.mask)
    return batch.replace(
      advantages=advantage, returns=returns, old_values=old_values
    )

  return of_token


def make_learn(
  config: Any, model: ModelConfig, update: Callable
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`learn(state, prompts, prompt_mask, rollout, rewards [B, G], key)`."""

  token_advantages = _make_token_advantages(config)

  def score(params, batch):
    return transformer.token_logps(
      params,
      model,
      batch.tokens,
      batch.mask,
      config.decoder.temperature,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
    )

  def learn(state, prompts, prompt_mask, samples, rewards, key):
    batch = rollout.assemble_groups(prompts, prompt_mask, samples)
    batch = sharding.rows(batch)
    metrics = diagnostics.rollout_metrics(
      rewards, samples.mask, samples.finished
    )
    old_values = None
    if config.old_logps == 'learner' or model.value_head:
      # The scoring program's own numbers: the first ratio is exactly 1.
      signals = jax.lax.stop_gradient(score(state.params, batch))
      metrics |= diagnostics.logp_gap(
        batch.old_logps, signals.logps, batch.mask
      )
      old_values = signals.values
      if config.old_logps == 'learner':
        batch = batch.replace(old_logps=signals.logps)
    if _needs_reference(config):
      ref = score(state.ref_params, batch)
      batch = batch.replace(ref_logps=ref.logps)
    batch = token_advantages(rewards, batch, old_values)
    state, update_metrics = update(state, batch, key)
    if 'rollout/logp_gap_max' not in metrics:
      difference = 'sampling/sampling_logp_difference'
      metrics['rollout/logp_gap_max'] = update_metrics[f'{difference}/max']
    metrics['num_tokens'] = masked.count(samples.mask)
    return state, {**update_metrics, **metrics}

  return learn


def make_step(
  sample_examples: Callable[[Array], Example],
  verify: Callable[[Example, Array, Array], dict[str, Array]],
  generate: Callable[..., Rollout],
  learn: Callable,
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
  """The whole step for an in-graph task: `step(state, key)`.

  sample_examples  (key) -> Example [B, ...]
  verify           a task's, unbatched: its 'reward' trains, the other
                   components are logged
  """
  # Over completions of one prompt, then over prompts.
  verify_all = jax.vmap(jax.vmap(verify, (None, 0, 0)), (0, 0, 0))

  def step(state: TrainState, key: Array):
    example_key, sample_key, update_key = jax.random.split(key, 3)
    examples = sharding.rows(sample_examples(example_key))
    samples = generate(
      state.params,
      examples.prompt,
      examples.prompt_mask,
      examples.prompt_id,
      sample_key,
    )
    samples = sharding.rows(samples)
    components = verify_all(examples, samples.completion, samples.mask)
    state, metrics = learn(
      state,
      examples.prompt,
      examples.prompt_mask,
      samples,
      components['reward'],
      update_key,
    )
    for name, component in components.items():
      if name != 'reward':
        metrics[f'rewards/{name}/mean'] = jnp.mean(component)
    return state, metrics

  return step
