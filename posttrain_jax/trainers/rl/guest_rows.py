"""What a step draws beside a group's own answers, and where the rows go.

`guests` says which kinds of rows there are, and who reads them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Batch, Rollout, TrainState
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import guides
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.rl import guests, prefixes, refined, steering
from posttrain_jax.trainers.rl.experience import Experience
from posttrain_jax.trainers.shared import Shared

__all__ = ['make_join', 'make_sources']


def make_sources(
  config: Any, task: Any, make_rollout: Callable, width: int, pad_id: int
) -> dict[str, Callable[..., Rollout]]:
  """{kind: (ask, state, examples, key) -> answers [B, k, width]}.

  make_rollout  `rl.make_rollout` of the run, for `beside` and `guide`

  ask(generate, state, examples, key, **given) has the policy write answers.
  """
  sources = {}
  moving = steering.make_controllers(config)

  if guests.with_experts(config) and not refined.used(config):

    def demonstrate(ask, state, examples, key):
      del ask, state
      key, _ = jax.random.split(key)
      return guests.demonstrations(
        task, examples, key, config.demos_per_prompt, width, pad_id
      )

    sources['expert'] = demonstrate

  if guests.exploring(config):
    explore_rows = make_rollout(beside=config.explore.per_prompt)
    hot = moving['explore']

    def explore(ask, state, examples, key):
      _, key = jax.random.split(key)
      at = hot.value(state.control['explore'])
      return ask(explore_rows, state, examples, key, temperature=at)

    sources['explore'] = explore

  if prefixes.used(config):
    go_on = make_rollout(
      beside=config.prefix.per_prompt, guide=guides.forced_prefix()
    )
    begin = prefixes.make_beginnings(config, task, width, pad_id)
    low = moving['prefix']

    def go_on_from_prefix(ask, state, examples, key):
      begin_key, key = jax.random.split(jax.random.fold_in(key, 2))
      at = low.value(state.control['prefix'])
      begun = begin(examples, at, begin_key)
      return ask(go_on, state, examples, key, guide_state=begun)

    sources['prefix'] = go_on_from_prefix
  return sources


def _make_score_experts(
  config: Any, model: ModelConfig, shared: Shared | None
) -> Callable[[TrainState, Batch], Batch]:
  """(state, demonstrations) -> the same, with the policy's old probabilities
  where `config.expert_old_logps` wants them; else 1 stands for them."""
  if config.expert_old_logps != 'learner' or not guests.joins_experts(config):
    return lambda state, rows: rows
  view_of = steering.make_view(config)
  own = None
  if shared is not None:
    own = shared.with_group(config.demos_per_prompt)

  def scored(state: TrainState, rows: Batch) -> Batch:
    read = score if own is None else own.score_once
    signals = read(state.params, model, rows, view_of(state))
    return rows.replace(old_logps=jax.lax.stop_gradient(signals.logps))

  return scored


def make_join(
  config: Any, model: ModelConfig, shared: Shared | None = None
) -> Callable[..., tuple[Batch, dict[str, Array]]]:
  """(state, own, experience, expert_advantages) -> groups of own rows with
  those beside, metrics.

  own                Batch of the group's own answers
  expert_advantages  [B, D], or None

  shared  reads each prompt once for all of its rows
  """
  prefix_rows = prefixes.make_rows(config, model, shared)
  score_experts = _make_score_experts(config, model, shared)

  def join(
    state: TrainState,
    own: Batch,
    lived: Experience,
    expert_advantages: Array | None,
  ):
    if not guests.rows_beside(config):
      return own, {}
    prompts, prompt_mask = lived.prompts, lived.prompt_mask
    others, metrics = {}, {}
    if guests.joins_experts(config):
      samples, given = lived.guests['expert']
      rows = rollout.assemble_groups(prompts, prompt_mask, samples)
      if expert_advantages is not None:
        spread = expert_advantages.reshape(-1)[:, None] * rows.mask
        rows = rows.replace(advantages=spread)
      others['expert'] = score_experts(state, rows)
      metrics['rewards/expert/mean'] = jnp.mean(given)
    if guests.exploring(config):
      samples, given = lived.guests['explore']
      kept = guests.useful(lived.rewards, given)
      samples = samples.replace(mask=samples.mask * kept[..., None])
      others['explore'] = rollout.assemble_groups(prompts, prompt_mask, samples)
      metrics['rewards/explore/mean'] = jnp.mean(given)
      metrics['explore/frac_rows_kept'] = jnp.mean(kept)
    if prefixes.used(config):
      others['prefix'], seen = prefix_rows(
        state, prompts, prompt_mask, lived.rewards, *lived.guests['prefix']
      )
      metrics |= seen
    return sharding.rows(guests.join(own, others, prompts.shape[0])), metrics

  return join
