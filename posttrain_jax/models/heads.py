"""Scalars of whole sequences, from a model with a value head."""

import jax.numpy as jnp

from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.transformer import hidden_states
from posttrain_jax.types import Array, PyTree

__all__ = ['sequence_values']


def sequence_values(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  mask: Array,
  *,
  positions: Array | None = None,
  segment_ids: Array | None = None,
) -> Array:
  """[B] the head's value after the last counted token: a reward model's score.

  tokens, mask  [B, T]; 0 for rows in which nothing counts

  Raises:
    ValueError: the model has no value head.
  """
  if not config.value_head:
    raise ValueError('the model has no value head: set value_head=True')
  hidden, _ = hidden_states(params, config, tokens, positions, segment_ids)
  columns = jnp.arange(tokens.shape[1])[None]
  last = jnp.max(jnp.where(mask > 0, columns, -1), axis=1)
  at = jnp.maximum(last, 0)[:, None, None]
  state = jnp.take_along_axis(hidden, at, axis=1)[:, 0]
  head = params['value_head']
  value = jnp.einsum('bd,d->b', state, head['kernel']) + head['bias']
  return jnp.where(last >= 0, value.astype(jnp.float32), 0.0)
