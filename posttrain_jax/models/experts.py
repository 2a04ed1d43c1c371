"""An MLP of experts: a router sends each token to a few of many small MLPs.

Shazeer et al. (2017), https://arxiv.org/abs/1701.06538, in the form of
Qwen3-MoE (https://arxiv.org/abs/2505.09388): weights are a softmax over all
experts, of which the largest `experts_per_token` are used, and none is dropped
for want of room. The router is trained by the loss of the run alone: the
auxiliary loss that balances experts in pretraining is not part of this code.

Suffix letters: M tokens, E experts, D width, X expert size.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import EXPERT_SHARDS, LOGICAL
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
  names = ('expert_gate', 'expert_up', 'expert_down')
  experts = [layer[name] for name in names]
  if sharding.split():
    return _over_devices(x_BTD, layer['router'], experts, activation, config)
  x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
  weights, chosen = route(layer['router'], x_MD, config)
  out = _apply(x_MD, weights, chosen, experts, activation)
  return out.reshape(x_BTD.shape)


def _apply(
  x_MD: Array,
  weights: Array,
  chosen: Array,
  experts: Sequence[Array],
  activation: Callable,
  some: bool = False,
) -> Array:
  """[M, D] what the experts that are here add to tokens.

  weights, chosen  [M, k]
  experts          matrices [E, ...] of gate, up and down
  some             whether `chosen` may name others, beyond 0 .. E - 1
  """
  gate, up, down = experts
  count, k = gate.shape[0], chosen.shape[1]
  # Copies of tokens in the order of their experts, and the way back.
  expert = chosen.reshape(-1)
  if some:
    here = (expert >= 0) & (expert < count)
    expert = jnp.where(here, expert, count)
  order = jnp.argsort(expert, stable=True)
  back = jnp.argsort(order)
  copies = jnp.repeat(x_MD, k, axis=0)[order]
  if some:  # those of no expert are last, and in no product
    copies = jnp.where(here[order][:, None], copies, 0)
  which = jnp.arange(count, dtype=expert.dtype)
  sizes = jnp.sum(expert[:, None] == which[None], axis=0, dtype=jnp.int32)
  product = lambda x, weight: jax.lax.ragged_dot(
    x, weight.astype(x.dtype), sizes
  )
  inner = activation(product(copies, gate))
  inner = inner * product(copies, up)
  out = product(inner, down)[back]
  if some:
    out = jnp.where(here[:, None], out, 0)
  out = out.reshape(*weights.shape, -1) * weights[..., None]
  return jnp.sum(out, axis=1)


def _over_devices(
  x_BTD: Array,
  router: Array,
  experts: list[Array],
  activation: Callable,
  config: ModelConfig,
) -> Array:
  """`mlp` on a mesh: each device has some experts, for the tokens of its group.

  Tokens of the devices along axis expert are gathered, each device adds what
  its experts say of them, and the sums go back to where the tokens are.
  """
  wide = P('expert', EXPERT_SHARDS, 'tensor')
  narrow = P('expert', 'tensor', EXPERT_SHARDS)
  lie = [
    sharding.lies(spec, x.shape)
    for spec, x in zip((wide, wide, narrow), experts)
  ]
  rows = sharding.lies(P(LOGICAL['rows'], 'sequence', None), x_BTD.shape)
  within = lambda axis, part: axis in sharding.names_of(part)
  split = within('expert', lie[0][0])
  apart, columns = within('expert', rows[0]), within('tensor', lie[0][2])
  count = experts[0].shape[0] // (sharding.size('expert') if split else 1)

  def whole(weight: Array, spec: P) -> Array:
    """A stored weight [E, ...] but for its experts and columns."""
    narrower = jnp.dtype(config.dtype).itemsize < weight.dtype.itemsize
    weight = weight.astype(config.dtype) if narrower else weight
    for axis in (1, 2):
      over = sharding.names_of(spec[axis])
      if over and over != ('tensor',):
        weight = jax.lax.all_gather(weight, over, axis=axis, tiled=True)
    return checkpoint_name(weight, sharding.GATHERED)

  def body(x, router, *stored):
    x_MD = x.reshape(-1, x.shape[-1])
    weights, chosen = route(router, x_MD, config)
    here = list(map(whole, stored, lie))
    if split and apart:
      x_MD, weights, chosen = (
        jax.lax.all_gather(part, 'expert', tiled=True)
        for part in (x_MD, weights, chosen)
      )
    if split:
      chosen = chosen - count * jax.lax.axis_index('expert')
    out = _apply(x_MD, weights, chosen, here, activation, some=split)
    if split and apart:
      out = jax.lax.psum_scatter(out, 'expert', tiled=True)
    elif split:
      out = jax.lax.psum(out, 'expert')
    if columns:
      out = jax.lax.psum(out, 'tensor')
    return out.reshape(x.shape)

  run = jax.shard_map(
    body, in_specs=(rows, P(), *lie), out_specs=rows, check_vma=False
  )
  return run(x_BTD, router, *experts)
