"""What a step costs, so that methods are compared at equal compute.

Floating-point operations are counted from the model, not measured: two per
parameter and token of a forward pass, twice that again for the backward pass,
and the attention scores. Padding counts: it is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax.losses import preference
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers.rl import guests

__all__ = ['ITEMS', 'account', 'forward_flops', 'step_flops']

# What arms of a comparison are accounted in.
ITEMS = (
  'optimizer_steps',
  'tokens_trained',
  'tokens_generated',
  'verifier_calls',
  'demonstrations',
  'preference_labels',
  'flops',
  'seconds',
)


def forward_flops(model: ModelConfig, rows: int, length: int) -> float:
  """FLOPs of reading `rows` sequences of `length` tokens, with logits."""
  embedding = model.vocab_size * model.width
  # The input embedding is a look-up; the output product uses it when tied.
  weights = transformer.param_count(model)
  weights -= 0 if model.tie_embeddings else embedding
  scores = 2 * model.num_layers * model.num_heads * model.head_dim * length
  return 2.0 * rows * length * (weights + scores)


def _completions(source: str, group_size: int, length: int) -> int:
  """Completions that a source of rows generates for each problem."""
  return {
    'oracle': 0,
    'oracle_and_rollouts': group_size - 1,
    'oracle_vs_rollout': 1,
    'on_policy_mix': 1,
    'self_rehearsal': 2,
    'counterfactual': 1 + 2 * length,
  }.get(source, group_size)


def _given_flops(
  config: Any, sizes: Any, models: dict[str, ModelConfig]
) -> float:
  """FLOPs of a step's rows and of the frozen models that score them.

  Every frozen model is counted as scoring all rows once.
  """
  models = {'policy': models['policy'], **models}
  total = sum(
    forward_flops(model, sizes.rows, sizes.row_tokens)
    for role, model in models.items()
    if role != 'policy'
  )
  if config.data.source != 'task':
    return total
  count = _completions(
    config.collect.name, config.group_size, sizes.max_new_tokens
  )
  sampler = config.collect.get('sampler', 'policy')
  written = sizes.prompts_per_step * count
  return total + forward_flops(
    models.get(sampler, models['policy']), written, sizes.row_tokens
  )


def _rollout_flops(config: Any, model: ModelConfig, sizes: Any) -> float:
  """FLOPs of a group's answers; their prompt is read once."""
  total = forward_flops(model, sizes.prompts_per_step, sizes.prompt_length)
  answers = config.group_size
  answers += config.explore.per_prompt + config.prefix.per_prompt
  rows = sizes.prompts_per_step * answers
  whole = forward_flops(model, rows, sizes.row_tokens)
  return total + whole - forward_flops(model, rows, sizes.prompt_length)


def step_flops(
  config: Any,
  model: ModelConfig,
  sizes: Any,
  models: dict[str, ModelConfig] | None = None,
) -> float:
  """FLOPs of one step of a run: rollout, extra scoring, and the updates.

  models  {role: ModelConfig} of the frozen models, where there are any

  A rollout is counted to its longest possible completion.
  """
  forward = forward_flops(model, sizes.rows, sizes.row_tokens)
  total = 3.0 * forward * sizes.updates_per_rollout
  if config.paradigm != 'rl':
    return total + _given_flops(config, sizes, models or {'policy': model})
  total += _rollout_flops(config, model, sizes)
  own = sizes.prompts_per_step * config.group_size
  forward = forward_flops(model, own, sizes.row_tokens)
  if config.old_logps == 'learner' or config.advantage.name == 'gae':
    total += forward
  if config.kl.coef or config.kl_controller.name != 'none':
    total += forward
  if config.token_rewards.name == 'progress':
    total += (config.token_rewards.episodes + 1) * forward
  if config.reward.model:
    scorer = (models or {}).get(config.reward.model, model)
    total += forward_flops(scorer, own, sizes.row_tokens)
  if guests.contrasts(config):
    total += forward_flops(model, sizes.prompts_per_step, sizes.row_tokens)
  return total


def account(
  config: Any,
  sizes: Any,
  flops: float,
  rows: Sequence[Mapping[str, float]],
) -> dict[str, float]:
  """What a run took, by `ITEMS`; of its own training, not of its start.

  sizes  `run.sizes`
  flops  of a step, `step_flops`
  rows   the training rows of its metrics, one a step

  tokens_trained     tokens in the loss, once for every pass over them
  tokens_generated   that the policy or a frozen model wrote
  verifier_calls     answers judged
  demonstrations     answers of the oracle or of a file, counted again when
                     they are shown again
  preference_labels  pairs, or single labelled answers, compared
  seconds            steps times their median, so that compiling is left out
  """
  steps = len(rows)
  total = lambda name: float(sum(row.get(name, 0.0) for row in rows))
  shown = total('num_demonstrations')
  if config.paradigm in ('sft', 'distill') and config.data.source != 'task':
    shown = float(steps * sizes.rows)
  labels = 0.0
  if config.paradigm == 'preference':
    single = config.loss.name in preference.UNPAIRED
    labels = float(steps * (sizes.rows if single else sizes.rows // 2))
  return {
    'optimizer_steps': float(steps * sizes.updates_per_step),
    'tokens_trained': total('num_tokens') * sizes.updates_per_rollout,
    'tokens_generated': total('num_generated'),
    'verifier_calls': total('num_verified'),
    'demonstrations': shown,
    'preference_labels': labels,
    'flops': steps * flops,
    'seconds': steps * float(np.median([r['time/step'] for r in rows] or [0])),
  }
