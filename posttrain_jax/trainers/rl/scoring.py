"""What models say of rollouts before an update reads them."""

from collections.abc import Callable
from typing import Any

import jax

from posttrain_jax import diagnostics
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.losses import regularizers
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.guide import Guide
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.rl import objective, steering
from posttrain_jax.trainers.rl.terms import has_critic
from posttrain_jax.trainers.shared import Shared

__all__ = ['make_score_rows']


def make_score_rows(
  config: Any,
  models: dict[str, ModelConfig],
  shared: Shared | None,
  guide: Guide | None,
) -> Callable:
  """(state, batch) -> batch with what models say of it, old values, the KL
  penalty [R, T] that rewards lose, metrics."""
  model, view_of = models['policy'], steering.make_view(config, guide)
  proximal = 'proximal_logps' in objective.loss_arrays(config)
  critic = has_critic(config)
  rescored = config.old_logps == 'learner' or critic or proximal
  in_reward = objective.penalised(config, 'reward')
  on_logits = config.kl.name in regularizers.LOGITS
  referred = in_reward or (
    objective.penalised(config, 'loss') and not on_logits
  )

  if in_reward:
    divergence = objective.bind_kl(config.kl)
    coef = steering.coefficient(config, 'kl', config.kl.coef)

  own = None if shared is None else shared.with_group(config.group_size)

  def read(state, params, model, batch):
    if own is None:
      return score(params, model, batch, view_of(state))
    return own.score_once(params, model, batch, view_of(state))

  def score_rows(state: TrainState, batch: Batch):
    old_values = penalty = None
    metrics: dict[str, Array] = {}
    if rescored:
      # The scoring program's own numbers: the first ratio is exactly 1.
      signals = read(state, state.params, model, batch)
      signals = jax.lax.stop_gradient(signals)
      metrics |= diagnostics.logp_gap(
        batch.need('old_logps'), signals.logps, batch.mask
      )
      old_values = signals.values
      if config.old_logps == 'learner':
        batch = batch.replace(old_logps=signals.logps)
      if proximal:
        batch = batch.replace(extras={'proximal_logps': signals.logps})
    if referred:
      ref = read(state, state.model('ref'), models['ref'], batch)
      batch = batch.replace(ref_logps=ref.logps)
    if in_reward:
      estimate, _ = divergence(batch.old_logps, batch.ref_logps, batch.mask)
      metrics['kl'] = masked.mean(estimate, batch.mask)
      penalty = jax.lax.stop_gradient(coef(state) * estimate)
    return batch, old_values, penalty, metrics

  return score_rows
