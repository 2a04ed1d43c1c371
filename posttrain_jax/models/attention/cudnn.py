"""Attention on GPU by cuDNN's flash attention, as `jax.nn` calls it."""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array

__all__ = ['over']

# 'xla' is the same call by its definition, on any device: for tests.
IMPLEMENTATION: Any = 'cudnn'


def over(
  q: Array,
  k: Array,
  v: Array,
  q_ids: Array,
  k_ids: Array,
  offset: int | Array,
  window: int,
) -> Array:
  """Attention of q [B, N, R, T, K], already scaled, over k, v [B, N, S, K].

  q_ids, k_ids  [B, T], [B, S]: what is seen has one's own id; 0 or less: no
                token. Every query has to see a key
  offset        query i sees keys up to offset + i; may be traced
  window        and only so many of them; 0: all

  Whether rows are one segment each, with nothing but padding after it, is seen
  as it runs: causality then says it all, and there is no mask. What padding
  finds has no meaning.
  """
  b, n, r, t, size = q.shape
  flat = q.reshape(b, n * r, t, size).transpose(0, 2, 1, 3)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  near = (window - 1, 0) if window else None
  found = lambda **how: jax.nn.dot_product_attention(
    flat, k, v, scale=1.0, implementation=IMPLEMENTATION, **how
  )

  def masked() -> Array:
    query = offset + jnp.arange(t)[:, None]
    key = jnp.arange(k.shape[1])[None]
    sees = key <= query
    if window:
      sees &= query - key < window
    sees = sees[None] & (q_ids[:, :, None] == k_ids[:, None])
    return found(mask=sees[:, None])

  if t != k.shape[1]:
    out = masked()
  else:
    alone = jnp.all((q_ids == q_ids[:, :1]) | (q_ids <= 0))
    after = jnp.all((q_ids[:, 1:] <= 0) | (q_ids[:, :-1] > 0))
    alone &= after & jnp.all(q_ids == k_ids)
    causal = lambda: found(is_causal=True, local_window_size=near)
    out = jax.lax.cond(alone, causal, masked)
  return out.transpose(0, 2, 1, 3).reshape(b, n, r, t, size)
