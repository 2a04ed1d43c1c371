"""What every policy-gradient loss does first and last."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked

Array = jax.Array
TokenLoss = tuple[Array, dict[str, Array]]

# exp(20) = 4.9e8: far outside every clip range, far inside float32.
MAX_LOG_RATIO = 20.0


def clean(
  logps: Array, old_logps: Array, advantages: Array, mask: Array
) -> tuple[Array, Array, Array]:
  """The three inputs, 0 where masked; only `logps` carries a gradient.

  Selected before any arithmetic: an inf or NaN under the mask would otherwise
  come back as a NaN gradient (0 * inf) through a `where` on the result.
  """
  return (
    masked.select(logps, mask),
    jax.lax.stop_gradient(masked.select(old_logps, mask)),
    jax.lax.stop_gradient(masked.select(advantages, mask)),
  )


def clamp(log_ratio: Array) -> Array:
  """A log-ratio held within +-20."""
  return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def exp_clamped(log_ratio: Array) -> Array:
  """exp of a log-ratio held within +-20."""
  return jnp.exp(clamp(log_ratio))


def sequence_ratio(log_ratio: Array, mask: Array) -> Array:
  """[B, 1] ratio of whole sequences: exp of the sum over counted tokens."""
  total = masked.sum(clamp(log_ratio), mask, axis=1, keepdims=True)
  return exp_clamped(total)


def finish(token_loss: Array, mask: Array, **metrics: Array) -> TokenLoss:
  """Masked loss; masked, detached metrics in its dtype. All [B, T]."""
  detached = {
    name: jax.lax.stop_gradient(
      masked.select(
        jnp.broadcast_to(value, mask.shape).astype(token_loss.dtype), mask
      )
    )
    for name, value in metrics.items()
  }
  return masked.select(token_loss, mask), detached


def surrogate(
  ratio: Array,
  advantages: Array,
  clip_low: Array | float,
  clip_high: Array | float,
) -> tuple[Array, dict[str, Array]]:
  """PPO's pessimistic loss, unmasked, and its three metrics.

  `ratio` may be [B, T] or [B, 1].
  """
  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  token_loss = -jnp.minimum(ratio * advantages, clipped * advantages)
  return token_loss, {
    'ratio': ratio,
    'clip_low': (ratio < 1.0 - clip_low) & (advantages < 0),
    'clip_high': (ratio > 1.0 + clip_high) & (advantages > 0),
  }


def weighted(
  weight: Array, logps: Array, advantages: Array, mask: Array, **metrics: Array
) -> TokenLoss:
  """-sg(weight) A log pi, whose gradient is weight times REINFORCE's."""
  weight = jax.lax.stop_gradient(weight)
  token_loss = -weight * advantages * logps
  return finish(token_loss, mask, weight=weight, **metrics)
