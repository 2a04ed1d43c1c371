"""Attention on TPU by the splash kernel of JAX: no scores in memory.

FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135) over blocks
of queries and keys, in which blocks that a causal mask or a window leaves empty
are not visited. It takes segments, windows and a cap of scores, and several
query heads to a key head.
"""

import functools
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from posttrain_jax.core.types import Array
from posttrain_jax.models import remat

__all__ = ['kernel', 'multiple', 'over', 'specs_of']

# Queries and keys come in multiples of this.
LANES = 128
# Queries, and keys, of a block at most.
BLOCK = 512
# Run by an interpreter, on any device: for tests, which set it.
INTERPRET = False


def multiple(length: int) -> int:
  """What numbers of queries and keys have to be multiples of; of long rows the
  largest block, as many small ones are slower than a little padding."""
  return BLOCK if length >= 4 * BLOCK else LANES


def _block(length: int) -> int:
  """The largest block that divides a length, a multiple of LANES."""
  return next(b for b in (BLOCK, BLOCK // 2, LANES) if length % b == 0)


def kernel(
  queries: int, keys: int, offset: int, window: int, cap: float, shards: int = 1
) -> Any:
  """The kernel for queries and keys of these lengths, multiples of LANES.

  offset  query i sees keys up to offset + i
  window  and only so many of them; 0: all
  shards  parts that the queries are split into
  """
  return _kernel(queries, keys, offset, window, cap, shards, INTERPRET)


@functools.lru_cache(maxsize=64)
def _kernel(queries, keys, offset, window, cap, shards, interpret):
  mask: Any = splash_attention.CausalMask((queries, keys), offset=offset)
  if window:
    mask = splash_attention.LocalMask(
      (queries, keys), (window - 1, 0), offset=offset
    )
  own, other = _block(queries // shards), _block(keys)
  blocks = splash_attention.BlockSizes(
    block_q=own, block_kv=other, block_kv_compute=other,
    block_q_dkv=own, block_kv_dkv=other, block_kv_dkv_compute=other,
    block_q_dq=own, block_kv_dq=other,
  )  # fmt: skip

  def make() -> Any:
    made = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask]),
      block_sizes=blocks,
      head_shards=1,
      q_seq_shards=shards,
      attn_logits_soft_cap=cap or None,
      residual_checkpoint_name=remat.ATTENTION,
      interpret=interpret,
    )
    return jax.tree.map(np.asarray, made)

  # Its tables are computed, and kept as constants: a thread of its own knows
  # neither the program that asks for them nor that one's mesh.
  with futures.ThreadPoolExecutor(1) as apart:
    return apart.submit(make).result()


def specs_of(made: Any, mesh: Any, axis: str | None) -> Any:
  """How `kernel`'s arrays are split for `shard_map`: by an axis of queries."""
  return made.manual_sharding_spec(NamedSharding(mesh, P(None, axis)))


def over(
  made: Any, q: Array, k: Array, v: Array, q_ids: Array, k_ids: Array
) -> Array:
  """Attention of q [B, N, R, T, K], already scaled, over k, v [B, N, S, K].

  made          of `kernel`
  q_ids, k_ids  [B, T], [B, S] int32: what is seen has one's own id. Every query
                has to see a key
  """

  def one(q, k, v, q_ids, k_ids):
    flat = q.reshape(-1, *q.shape[2:])
    ids = splash_attention.SegmentIds(q=q_ids, kv=k_ids)
    return made(flat, k, v, ids).reshape(q.shape)

  ids = (x.astype(jnp.int32) for x in (q_ids, k_ids))
  return jax.vmap(one)(q, k, v, *ids)
