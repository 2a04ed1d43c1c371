"""An MLP of experts: a router sends each token to a few of many small MLPs.

Shazeer et al. (2017), https://arxiv.org/abs/1701.06538, in the form of
Qwen3-MoE (https://arxiv.org/abs/2505.09388): weights are a softmax over all
experts, of which the largest `experts_per_token` are used, and none is dropped
for want of room. The router is trained by the loss of the run alone: the
auxiliary loss that balances experts in pretraining is not part of this code.

Suffix letters: M tokens, E experts, D width, X expert size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models.config import ModelConfig

__all__ = ['mlp', 'route']


def route(
  router: Array, x_MD: Array, config: ModelConfig
) -> tuple[Array, Array]:
  """(weights [M, k], experts [M, k] int32) of each token; router [D, E]."""
  scores = x_MD @ router.astype(x_MD.dtype)
  wide = jnp.promote_types(scores.dtype, jnp.float32)
  shares = jax.nn.softmax(scores.astype(wide), axis=-1)
  weights, chosen = jax.lax.top_k(shares, config.experts_per_token)
  if config.norm_experts:
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
  return weights.astype(x_MD.dtype), chosen


def mlp(
  layer: PyTree, x_BTD: Array, activation: Callable, config: ModelConfig
) -> Array:
  """Gated experts; each computes the tokens that chose it."""
  x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
  weights, chosen = route(layer['router'], x_MD, config)
  # Copies of tokens in the order of their experts, and the way back.
  expert = chosen.reshape(-1)
  order = jnp.argsort(expert, stable=True)
  back = jnp.argsort(order)
  copies = jnp.repeat(x_MD, config.experts_per_token, axis=0)[order]
  which = jnp.arange(config.num_experts, dtype=expert.dtype)
  sizes = jnp.sum(expert[:, None] == which[None], axis=0, dtype=jnp.int32)
  product = lambda x, name: jax.lax.ragged_dot(
    x, layer[name].astype(x.dtype), sizes
  )
  inner = activation(product(copies, 'expert_gate'))
  inner = inner * product(copies, 'expert_up')
  out = product(inner, 'expert_down')[back]
  out = out.reshape(*weights.shape, -1) * weights[..., None]
  return jnp.sum(out, axis=1).reshape(x_BTD.shape)
