"""What a model says of a whole sequence: a scalar, or an embedding."""

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import SHARDS
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.losses import contrastive
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.transformer import hidden_states

__all__ = ['sequence_embedding', 'sequence_values']


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
  if sharding.size('sequence') > 1:  # each device has some of the positions
    state = jnp.sum(jnp.where(columns[..., None] == at, hidden, 0), axis=1)
  else:
    state = jnp.take_along_axis(hidden, at, axis=1)[:, 0]
  head = params['value_head']
  kernel = sharding.gathered(head['kernel'], P(SHARDS))
  value = jnp.einsum('bd,d->b', state, kernel) + head['bias']
  return jnp.where(last >= 0, value.astype(jnp.float32), 0.0)


def sequence_embedding(
  params: PyTree,
  config: ModelConfig,
  tokens: Array,
  mask: Array,
  *,
  positions: Array | None = None,
  segment_ids: Array | None = None,
) -> Array:
  """[B, D] mean of the last layer's states at the counted tokens.

  Weighted by the softmax of the value head, where the model has one (Zhu et
  al. (2025), CARFT, https://arxiv.org/abs/2508.15868, has a projection to 64
  numbers in between).
  """
  hidden, _ = hidden_states(params, config, tokens, positions, segment_ids)
  hidden = hidden.astype(jnp.float32)
  values = jnp.zeros(mask.shape, jnp.float32)
  if config.value_head:
    head = params['value_head']
    kernel = sharding.gathered(head['kernel'], P(SHARDS))
    values = jnp.einsum('btd,d->bt', hidden, kernel) + head['bias']
  return contrastive.value_pooled(hidden, values, mask)
