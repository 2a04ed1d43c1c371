"""Terms that hold a policy near a reference, or keep it from collapsing.

Functions in `__all__` see the taken tokens only:

  token_loss, metrics = f(logps, ref_logps, mask, **hparams)

  logps      [B, T]  log-probability of each taken token, trained policy
  ref_logps  [B, T]  the same under the frozen reference (no gradient)
  mask       [B, T]  1.0 on tokens that count; elsewhere nothing has an effect
  metrics    {'kl': [B, T]}, detached

With d = logps - ref_logps and tokens drawn from the trained policy, k1 = d and
k3 = exp(-d) - 1 + d have the mean KL(policy || ref), and k2 = d^2 / 2 does not.
Their gradients, as terms of a loss, are another matter: that of k1 has mean 0,
that of k2 is the gradient of KL(policy || ref), that of k3 is the gradient of
KL(ref || policy). `kl_k3_plus` has the value of k3 and the gradient of k2.

Coefficients are applied by the caller.
"""

import jax
import jax.numpy as jnp

from posttrain_jax import masked

__all__ = ['kl_k1', 'kl_k2', 'kl_k3', 'kl_k3_plus']

Array = jax.Array
TokenLoss = tuple[Array, dict[str, Array]]

# exp(20) = 4.9e8: the penalty stays finite where the reference finds the token
# vastly more likely.
_MAX_LOG_RATIO = 20.0


def _log_ratio(logps: Array, other: Array, mask: Array) -> Array:
  """logps - other within +-20, 0 where masked; no gradient to `other`."""
  difference = masked.select(logps, mask) - jax.lax.stop_gradient(
    masked.select(other, mask)
  )
  return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _finish(token_loss: Array, mask: Array) -> TokenLoss:
  token_loss = masked.select(token_loss, mask)
  return token_loss, {'kl': jax.lax.stop_gradient(token_loss)}


def _k3(d: Array) -> Array:
  """exp(-d) - 1 + d, never negative.

  Near 0 the terms cancel to less than one rounding of d, so a series stands in.
  """
  series = jnp.square(d) * (0.5 - d / 6.0 + jnp.square(d) / 24.0)
  return jnp.where(jnp.abs(d) < 0.01, series, jnp.expm1(-d) + d)


def kl_k1(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """d: unbiased value, and a gradient with mean 0. For rewards and metrics.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html
  """
  return _finish(_log_ratio(logps, ref_logps, mask), mask)


def kl_k2(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """d^2 / 2: biased value, the gradient of KL(policy || ref) on-policy.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html
  """
  return _finish(0.5 * jnp.square(_log_ratio(logps, ref_logps, mask)), mask)


def kl_k3(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """exp(-d) - 1 + d: unbiased and never negative; GRPO's penalty.

  Reference: Schulman (2020), http://joschu.net/blog/kl-approx.html;
  Shao et al. (2024), https://arxiv.org/abs/2402.03300 eq. 4
  """
  return _finish(_k3(_log_ratio(logps, ref_logps, mask)), mask)


def kl_k3_plus(logps: Array, ref_logps: Array, mask: Array) -> TokenLoss:
  """Value of k3 with the gradient of k2, which is that of KL(policy || ref).

  Reference: the identities above; verl's `kl_penalty='k3+'`
  """
  d = _log_ratio(logps, ref_logps, mask)
  k2 = 0.5 * jnp.square(d)
  value = jax.lax.stop_gradient(_k3(d) - k2)
  return _finish(value + k2, mask)
