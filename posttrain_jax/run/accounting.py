"""What a step costs, so that methods are compared at equal compute.

Floating-point operations are counted from the model, not measured: two per
parameter and token of a forward pass, twice that again for the backward pass,
and the attention scores. Padding counts: it is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain_jax import trainers
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import adapters, make_adapter

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


def _multiplied(model: ModelConfig) -> int:
  """Parameters that a token is multiplied by."""
  # The input embedding is a look-up; the output product uses it when tied.
  looked_up = model.vocab_size * model.width
  whole = transformer.active_param_count(model)
  return whole - (0 if model.tie_embeddings else looked_up)


def forward_flops(model: ModelConfig, rows: int, length: int) -> float:
  """FLOPs of reading `rows` sequences of `length` tokens, with logits.

  Of experts, those that a token meets.
  """
  weights = _multiplied(model)
  scores = 2 * model.num_layers * model.num_heads * model.head_dim * length
  return 2.0 * rows * length * (weights + scores)


def _update_flops(config: Any, model: ModelConfig, sizes: Any) -> float:
  """FLOPs of one forward and backward pass over the rows of a step.

  With adapters the gradient of the frozen weights is left out, a third of what
  their products cost; what the adapters do is added.
  """
  total = 3.0 * forward_flops(model, sizes.rows, sizes.row_tokens)
  adapter = make_adapter(config.get('adapter'))
  if adapter is None:
    return total
  beside = adapter.count(adapters.shapes_in(model))
  tokens = sizes.rows * sizes.row_tokens
  return total + 2.0 * tokens * (3 * beside - _multiplied(model))


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
  held = {'policy': model, **(models or {})}
  total = _update_flops(config, model, sizes) * sizes.updates_per_rollout
  kind = trainers.kind(config.paradigm)
  for times, role, rows, length in kind.forwards(config, sizes, held):
    total += times * forward_flops(held.get(role, model), rows, length)
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
  counted = trainers.kind(config.paradigm).counts(config, sizes)
  # Examples of a packed row, on average.
  packed = total('num_segments') / max(steps * sizes.rows, 1) or 1.0
  shown = steps * packed * counted.get('demonstrations', 0.0)
  return {
    'optimizer_steps': float(steps * sizes.updates_per_step),
    'tokens_trained': total('num_tokens') * sizes.updates_per_rollout,
    'tokens_generated': total('num_generated'),
    'verifier_calls': total('num_verified'),
    'demonstrations': shown or total('num_demonstrations'),
    'preference_labels': (
      steps * packed * counted.get('preference_labels', 0.0)
    ),
    'flops': steps * flops,
    'seconds': steps * float(np.median([r['time/step'] for r in rows] or [0])),
  }
