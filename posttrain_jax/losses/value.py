"""Losses of a value head: one loss per token.

Every function is called the same way and averages nothing:

  token_loss, metrics = loss(values, returns, old_values, mask, **hparams)

  values      [B, T]  prediction for the state before each token
  returns     [B, T]  target (no gradient)
  old_values  [B, T]  prediction when the batch was sampled (no gradient)
  mask        [B, T]  1.0 on tokens that count; elsewhere nothing has an effect
  metrics     dict of detached [B, T] arrays, 0 where masked:
    value_error  |values - returns|
    clip_value   1.0 where clipping stops the token's gradient
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes

__all__ = ['clipped_value', 'huber', 'unclipped']

Array = jax.Array
TokenLoss = tuple[Array, dict[str, Array]]


def _clean(values, returns, old_values, mask):
  """The inputs, 0 where masked; only `values` carries a gradient."""
  return (
    masked.select(values, mask),
    jax.lax.stop_gradient(masked.select(returns, mask)),
    jax.lax.stop_gradient(masked.select(old_values, mask)),
  )


def unclipped(
  values: Array, returns: Array, old_values: Array, mask: Array
) -> TokenLoss:
  """Half the squared error. `old_values` has no effect.

  Reference: Schulman et al. (2016), https://arxiv.org/abs/1506.02438 section 5
  """
  values, returns, _ = _clean(values, returns, old_values, mask)
  error = values - returns
  metrics = {'value_error': jax.lax.stop_gradient(jnp.abs(error))}
  return 0.5 * jnp.square(error), metrics


def clipped_value(
  values: Array,
  returns: Array,
  old_values: Array,
  mask: Array,
  *,
  clip_value: float = 0.2,
) -> TokenLoss:
  """PPO's value loss: the worse of the moved and the clipped prediction.

  A prediction that left `old_values +- clip_value` towards its return learns
  nothing more; one that left it away from its return still does.

  Args:
    clip_value: in units of reward.

  Reference: Schulman et al. (2016), https://arxiv.org/abs/1506.02438 (the
  critic); Engstrom et al. (2020), https://arxiv.org/abs/2005.12729 section 3
  (the clipping, a choice of PPO's code that its paper does not mention)
  """
  values, returns, old_values = _clean(values, returns, old_values, mask)
  clipped = old_values + jnp.clip(values - old_values, -clip_value, clip_value)
  plain_loss = jnp.square(values - returns)
  clipped_loss = jnp.square(clipped - returns)
  metrics = {
    'value_error': jax.lax.stop_gradient(jnp.abs(values - returns)),
    'clip_value': (clipped_loss > plain_loss).astype(values.dtype),
  }
  return 0.5 * jnp.maximum(plain_loss, clipped_loss), metrics


def huber(
  values: Array,
  returns: Array,
  old_values: Array,
  mask: Array,
  *,
  delta: float = 1.0,
) -> TokenLoss:
  """Squared near the return, linear beyond `delta`: outliers pull less.

  `old_values` has no effect.

  Reference: Huber (1964), https://doi.org/10.1214/aoms/1177703732
  """
  values, returns, _ = _clean(values, returns, old_values, mask)
  error = values - returns
  size = jnp.abs(error)
  token_loss = jnp.where(
    size <= delta, 0.5 * jnp.square(error), delta * (size - 0.5 * delta)
  )
  return token_loss, {'value_error': jax.lax.stop_gradient(size)}


shapes.checked(globals(), __all__)
