"""What the supervised losses share."""

import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals

TokenLoss = tuple[Array, dict[str, Array]]


def require(signals: TokenSignals, name: str) -> Array:
  """The array of `signals` called `name`.

  Raises:
    ValueError: it is None.
  """
  array = getattr(signals, name)
  if array is None:
    raise ValueError(
      f'this loss needs signals.{name}, which is None: compute it in the '
      'forward pass'
    )
  return array


def log_ratio(logps: Array, other: Array, mask: Array) -> Array:
  """`logps - other` [B, T] on counted tokens, 0 with no gradient elsewhere."""
  return masked.select(logps, mask) - masked.select(other, mask)


def spread(sequence_loss: Array, mask: Array) -> Array:
  """[B] to [B, T]: evenly over the counted tokens, so that a row sums to it."""
  share = mask / masked.count(mask, axis=1, keepdims=True)
  return masked.select(share * sequence_loss[:, None], mask)


def keep_mean(keep: Array, mask: Array) -> Array:
  """Scales 0/1 `keep` so that a mean over `mask` is a mean over `keep`."""
  kept = jnp.sum(keep)
  return keep * jnp.sum(mask) / jnp.maximum(kept, 1.0)
