"""What the token weights share: ranks, quantiles, normalisation."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals

# exp(80) is 5.5e34: its products with a batch still fit float32.
MAX_EXPONENT = 80.0


def require(signals: TokenSignals, name: str) -> Array:
  """The array of `signals` called `name`.

  Raises:
    ValueError: it is None.
  """
  array = getattr(signals, name)
  if array is None:
    raise ValueError(
      f'these token weights need signals.{name}, which is None: compute it '
      'in the forward pass'
    )
  return array


def detach(weights: Array, mask: Array) -> Array:
  """0 under the mask, and no gradient."""
  return jax.lax.stop_gradient(masked.select(weights, mask))


def kept(keep: Array, mask: Array, normalize: bool) -> Array:
  """Boolean `keep` as weights: 1, or N / kept so that a mean is over the kept.

  N and kept are counted over the whole batch.
  """
  weights = jnp.where(keep, mask, 0.0)
  if normalize:
    weights = weights * jnp.sum(mask) / jnp.maximum(jnp.sum(weights), 1.0)
  return detach(weights, mask)


def top(score: Array, mask: Array, fraction, scope: str) -> Array:
  """True on the highest `fraction` of counted tokens, at least one.

  ceil(fraction * N) of them over the batch or in each row; of equal scores the
  earlier token goes first.

  Raises:
    ValueError: an unknown `scope`.
  """
  if scope not in ('batch', 'sequence'):
    raise ValueError(f'unknown scope "{scope}". Valid: batch, sequence')
  shape = (1, -1) if scope == 'batch' else mask.shape
  counted = mask.reshape(shape)
  score = jnp.where(counted != 0, score.reshape(shape), -jnp.inf)
  rank = jnp.argsort(jnp.argsort(-score, axis=1, stable=True), axis=1)
  total = jnp.sum(counted, axis=1, keepdims=True)
  # 0.2 * 5 is a little more than 1 in float32.
  size = jnp.maximum(jnp.ceil(fraction * total - 1e-3), 1.0)
  return ((rank < size) & (counted != 0)).reshape(mask.shape)


def quantile(x: Array, live: Array, q) -> Array:
  """Linear-interpolation quantile of x [B] over the rows that are `live`."""
  ordered = jnp.sort(jnp.where(live, x, jnp.inf))
  position = q * jnp.maximum(jnp.sum(live) - 1, 0)
  low = jnp.floor(position).astype(int)
  high = jnp.ceil(position).astype(int)
  at_low, at_high = ordered[low], ordered[high]
  value = at_low + (position - low) * (at_high - at_low)
  return jnp.where(jnp.any(live), value, 0.0)


def unit(x: Array, live: Array, axis=None) -> Array:
  """Min-max to [0, 1] over `live` entries; 0 where all are equal."""
  counted = live.astype(x.dtype)
  low = masked.minimum(x, counted, axis=axis)
  high = masked.maximum(x, counted, axis=axis)
  if axis is not None:
    low, high = jnp.expand_dims(low, axis), jnp.expand_dims(high, axis)
  span = jnp.where(high > low, high - low, 1.0)
  return jnp.where(live, (jnp.where(live, x, low) - low) / span, 0.0)
