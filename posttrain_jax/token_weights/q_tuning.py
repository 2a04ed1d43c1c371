"""Q-Tuning: rows and tokens pruned on the plane of perplexity and entropy."""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, TokenSignals
from posttrain_jax.token_weights.common import (
  MAX_EXPONENT,
  kept,
  quantile,
  require,
  top,
  unit,
)

__all__ = ['q_tuning']


def _quadrants(
  perplexity: Array, entropy: Array, live: Array, width
) -> tuple[Array, Array]:
  """Rows of quadrants 2 and 4, [B] each, for thresholds `width` from the ends.

  2: high perplexity, low entropy (misconceptions); 4: low perplexity, high
  entropy (to calibrate).
  """
  high = lambda x: x >= quantile(x, live, 1.0 - width)
  low = lambda x: x <= quantile(x, live, width)
  second = live & high(perplexity) & low(entropy)
  # A degenerate batch, all rows equal, would put a row in both.
  fourth = live & low(perplexity) & high(entropy) & ~second
  return second, fourth


def _rows(perplexity, entropy, live, sample_fraction) -> tuple[Array, Array]:
  """Rows to keep and, of them, those of quadrant 2; [B] each."""
  total = jnp.sum(live)
  wanted = jnp.ceil(sample_fraction * total - 1e-3)

  def halve(_, bounds):
    low, high = bounds
    middle = 0.5 * (low + high)
    second, fourth = _quadrants(perplexity, entropy, live, middle)
    is_few = jnp.sum(second | fourth) < wanted
    return jnp.where(is_few, middle, low), jnp.where(is_few, high, middle)

  start = (jnp.zeros_like(entropy[0]), jnp.full_like(entropy[0], 0.49))
  _, width = jax.lax.fori_loop(0, 10, halve, start)
  second, fourth = _quadrants(perplexity, entropy, live, width)
  keep = second | fourth
  # Too few: fill up with the rows nearest to those two corners.
  distance = jnp.abs(unit(perplexity, live) - unit(entropy, live))
  priority = jnp.where(keep, 2.0, jnp.where(live, distance, -1.0))
  rank = jnp.argsort(jnp.argsort(-priority, stable=True))
  return keep | (live & (rank < wanted)), second


def q_tuning(
  signals: TokenSignals,
  mask: Array,
  *,
  sample_fraction: float = 0.25,
  token_fraction: float = 0.5,
  neighbor_weight: float = 0.5,
  normalize: bool = True,
) -> Array:
  """Keeps confident mistakes, without their noise, and unsure successes.

  A row's perplexity is exp of its mean token loss, its entropy the mean token
  entropy. Rows kept: high perplexity with low entropy (quadrant 2) and the
  reverse (quadrant 4), between quantile thresholds at distance a from the ends,
  a in [0, 0.49] found by bisection so that `sample_fraction` of the rows are
  kept; missing ones are filled up by |perplexity - entropy|, both min-max
  scaled. In quadrant 2 only the `token_fraction` of tokens with the lowest
  s_t = (1 - c) e_t + c (e_{t-1} + e_{t+1}) stay, e = exp(token loss),
  c = `neighbor_weight`.

  Exponents are clamped at 80. Quantiles need a batch of many rows: it
  should hold 8 rows or more. Reads `logps` and `entropy`.

  Reference: Wang et al. (2025), https://arxiv.org/abs/2509.23873

  Raises:
    ValueError: `signals.entropy` is None.
  """
  live = jnp.sum(mask, axis=1) > 0
  loss = -masked.select(signals.logps, mask)
  entropy = masked.mean(require(signals, 'entropy'), mask, axis=1)
  exponent = jnp.minimum(masked.mean(loss, mask, axis=1), MAX_EXPONENT)
  rows, second = _rows(jnp.exp(exponent), entropy, live, sample_fraction)
  local = masked.select(jnp.exp(jnp.minimum(loss, MAX_EXPONENT)), mask)
  before = jnp.pad(local, ((0, 0), (1, 0)))[:, :-1]
  after = jnp.pad(local, ((0, 0), (0, 1)))[:, 1:]
  score = (1.0 - neighbor_weight) * local + neighbor_weight * (before + after)
  tokens = top(-score, mask, token_fraction, 'sequence')
  keep = rows[:, None] & (tokens | ~second[:, None])
  return kept(keep, mask, normalize)
