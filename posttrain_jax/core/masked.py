"""Masked reductions with safe denominators: a fully masked row gives 0.

`mask` is 1.0 where an element counts. Values under the mask are selected, not
multiplied, so that an inf or NaN on a masked element never leaks.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def select(x: Array, mask: Array) -> Array:
  """`x` where the mask is non-zero, 0 elsewhere, with zero gradient there."""
  return jnp.where(mask != 0, x, jnp.zeros_like(x))


def sum(x: Array, mask: Array, axis=None, keepdims: bool = False) -> Array:  # noqa: A001
  """Sum of `x * mask` over `axis`."""
  return jnp.sum(select(x, mask) * mask, axis=axis, keepdims=keepdims)


def count(mask: Array, axis=None, keepdims: bool = False) -> Array:
  """Number of counted elements, at least 1: a safe denominator."""
  return jnp.maximum(jnp.sum(mask, axis=axis, keepdims=keepdims), 1.0)


def mean(x: Array, mask: Array, axis=None, keepdims: bool = False) -> Array:
  """Mean over counted elements; 0 where nothing counts."""
  return sum(x, mask, axis, keepdims) / count(mask, axis, keepdims)


def var(x: Array, mask: Array, axis=None, ddof: int = 0) -> Array:
  """Variance over counted elements; 0 where no more than `ddof` count."""
  centered = x - mean(x, mask, axis, keepdims=True)
  total = sum(jnp.square(centered), mask, axis)
  return total / jnp.maximum(jnp.sum(mask, axis=axis) - ddof, 1.0)


def whiten(
  x: Array, mask: Array, *, center: bool = True, epsilon: float = 1e-8
) -> Array:
  """Unit variance over all counted elements; 0 on the others.

  Bessel-corrected, as in TRL's and verl's `masked_whiten`.
  """
  average = mean(x, mask)
  scaled = (x - average) * jax.lax.rsqrt(var(x, mask, ddof=1) + epsilon)
  return select(scaled if center else scaled + average, mask)


def maximum(x: Array, mask: Array, axis=None) -> Array:
  """Largest counted element; 0 where nothing counts."""
  top = jnp.max(jnp.where(mask != 0, x, -jnp.inf), axis=axis)
  return jnp.where(jnp.isfinite(top), top, 0.0)


def minimum(x: Array, mask: Array, axis=None) -> Array:
  """Smallest counted element; 0 where nothing counts."""
  return -maximum(-x, mask, axis)
