"""What a step costs, so that methods are compared at equal compute.

Floating-point operations are counted from the model, not measured: two per
parameter and token of a forward pass, twice that again for the backward pass,
and the attention scores. Padding counts: it is computed.
"""

from typing import Any

from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig

__all__ = ['forward_flops', 'step_flops']


def forward_flops(model: ModelConfig, rows: int, length: int) -> float:
  """FLOPs of reading `rows` sequences of `length` tokens, with logits."""
  embedding = model.vocab_size * model.width
  # The input embedding is a look-up; the output product uses it when tied.
  weights = transformer.param_count(model)
  weights -= 0 if model.tie_embeddings else embedding
  scores = 2 * model.num_layers * model.num_heads * model.head_dim * length
  return 2.0 * rows * length * (weights + scores)


def step_flops(config: Any, model: ModelConfig, sizes: Any) -> float:
  """FLOPs of one step of a run: rollout, extra scoring, and the updates.

  A rollout is counted to its longest possible completion.
  """
  forward = forward_flops(model, sizes.rows, sizes.row_tokens)
  total = 3.0 * forward * sizes.updates_per_rollout
  if config.paradigm != 'rl':
    return total
  prompts = forward_flops(model, sizes.prompts_per_step, sizes.prompt_length)
  whole = forward_flops(model, sizes.rows, sizes.row_tokens)
  prompt_part = forward_flops(model, sizes.rows, sizes.prompt_length)
  total += prompts + whole - prompt_part
  if config.old_logps == 'learner' or model.value_head:
    total += forward
  if config.kl.coef:
    total += forward
  return total
