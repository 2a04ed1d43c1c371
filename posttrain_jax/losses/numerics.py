"""Functions of log-probabilities that stay finite at their limits."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array

# exp(80) is 5.5e34: its products with a batch still fit float32.
MAX_EXPONENT = 80.0


def exp(x: Array) -> Array:
  """exp(min(x, 80)); the gradient is 0 above the clamp."""
  return jnp.exp(jnp.where(x > MAX_EXPONENT, MAX_EXPONENT, x))


def log1mexp(x: Array, *, ceiling: float = -1e-6) -> Array:
  """log(1 - exp(x)) for x <= 0, accurate at both ends.

  `x` above `ceiling` counts as `ceiling`, with the gradient of that point: the
  product with the softmax gradient (1 - p) then has its right limit, where a
  plain clamp would stop learning at p = 1.

  Reference: Maechler (2012), eq. 7,
  https://cran.r-project.org/web/packages/Rmpfr/vignettes/log1mexp-note.pdf
  """
  # The difference is taken only above the ceiling: at -inf it would be NaN.
  excess = jnp.where(x > ceiling, x - ceiling, 0.0)
  x = x - jax.lax.stop_gradient(excess)
  is_near = x > -jnp.log(2.0)
  near = jnp.log(-jnp.expm1(jnp.where(is_near, x, -0.5)))
  far = jnp.log1p(-jnp.exp(jnp.where(is_near, -1.0, x)))
  return jnp.where(is_near, near, far)


def straight_through(x: Array, value: Array) -> Array:
  """`value` with the gradient of `x`."""
  return x + jax.lax.stop_gradient(value - x)


def kl(log_p: Array, log_q: Array) -> Array:
  """KL(p || q) over the last axis; a term with p = 0 is 0.

  log q counts as at least -1e4, so that a token which only p can produce costs
  much but not infinity.
  """
  is_possible = log_p > -jnp.inf
  safe_p = jnp.where(is_possible, log_p, 0.0)
  safe_q = jnp.where(is_possible, jnp.maximum(log_q, -1e4), 0.0)
  terms = jnp.exp(safe_p) * (safe_p - safe_q)
  return jnp.sum(jnp.where(is_possible, terms, 0.0), axis=-1)
