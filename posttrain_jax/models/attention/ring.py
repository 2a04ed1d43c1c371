"""Attention over an axis of devices that pass their keys on, in a ring.

Every device has queries and keys of its own. In each of n turns it meets the
keys that it holds and then passes them to the next device, so that no device
ever has all of them: what is gathered otherwise. Maxima, sums and averages are
brought up to date block by block (Liu et al., 2023, Ring Attention,
https://arxiv.org/abs/2310.01889). In the backward pass the gradient of keys
goes round with them, and is at home after the last turn.

Suffix letters as in `plain`; T, S of one device. Numbers are those of `plain`
but for the order of sums.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.models import remat
from posttrain_jax.models.attention import plain

__all__ = ['Ring', 'over']


class Ring(NamedTuple):
  """What is fixed of a ring.

  axis    of the mesh, inside `shard_map`
  parts   n, its devices
  offset  place of query 0 of the first device, among keys
  window  a query sees that many keys up to its place; 0: all
  chunk   queries at a time; 0: all
  how     how products become scores
  """

  axis: str
  parts: int
  offset: int
  window: int
  chunk: int
  how: plain.Scores


def over(
  q: Array, k: Array, v: Array, q_ids: Array, k_ids: Array, ring: Ring
) -> Array:
  """Attention of a device's q [B, N, R, T, K] over the k, v [B, N, S, K] of
  all devices, whose keys are one row in the order of the devices.

  q_ids, k_ids  [B, T], [B, S]: a query sees keys of its id up to its place
  Returns [B, N, R, T, K].
  """
  return _attend(q, k, v, q_ids, k_ids, ring)


def _passed(tree, ring: Ring):
  """What the device before had."""
  turn = [(i, (i + 1) % ring.parts) for i in range(ring.parts)]
  send = functools.partial(jax.lax.ppermute, axis_name=ring.axis, perm=turn)
  return jax.tree.map(send, tree)


def _sees(q_ids, k_ids, places, holder, ring: Ring) -> Array:
  """[B, 1, 1, T', S] of queries at `places` [T'], keys that `holder` had."""
  key = holder * k_ids.shape[1] + jnp.arange(k_ids.shape[1])
  distance = places[:, None] - key[None]
  near = distance >= 0
  if ring.window:
    near &= distance < ring.window
  sees = (q_ids[:, :, None] == k_ids[:, None]) & near[None]
  return sees[:, None, None]


def _scores(q, k, sees, ring: Ring) -> tuple[Array, Array]:
  """(scores [B, N, R, T', S] in float32, the slope of their cap)."""
  scores = jnp.einsum('bnrtk,bnsk->bnrts', q, k.astype(q.dtype))
  scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  slope = jnp.ones((), scores.dtype)
  if ring.how.cap:
    bent = jnp.tanh(scores / ring.how.cap)
    scores, slope = ring.how.cap * bent, 1.0 - jnp.square(bent)
  return jnp.where(sees, scores, plain.MASKED), slope


def _in_chunks(one, ring: Ring, queries: tuple[Array, ...]):
  """`one(*queries)` for chunks of queries, their axis 0 being blocks."""
  if queries[0].shape[0] == 1:
    return jax.tree.map(lambda x: x[None], one(*(x[0] for x in queries)))
  return jax.lax.map(lambda given: one(*given), queries)


def _cut(x: Array, axis: int, ring: Ring) -> Array:
  """Blocks of queries [blocks, ...] of x, whose `axis` has them."""
  count = x.shape[axis]
  chunk = ring.chunk if 0 < ring.chunk < count else count
  pads = [(0, 0)] * x.ndim
  pads[axis] = (0, -count % chunk)
  x = jnp.pad(x, pads)
  shape = (*x.shape[:axis], -1, chunk, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _joined(x: Array, axis: int, count: int) -> Array:
  """`_cut` undone: the axis has `count` queries."""
  x = jnp.moveaxis(x, 0, axis)
  x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
  return jax.lax.slice_in_dim(x, 0, count, axis=axis)


def _places(count: int, ring: Ring) -> Array:
  first = jax.lax.axis_index(ring.axis) * count + ring.offset
  return first + jnp.arange(count)


def _holder(turn, ring: Ring):
  """Whose keys a device has in a turn."""
  return (jax.lax.axis_index(ring.axis) - turn) % ring.parts


def _forward(q, k, v, q_ids, k_ids, ring: Ring) -> tuple[Array, Array]:
  """(what is found, log of the sum of exponentials [B, N, R, T])."""
  scaled = q * (ring.how.divisor or q.shape[-1]) ** -0.5
  wide = jnp.promote_types(q.dtype, jnp.float32)
  b, n, r, t, size = q.shape
  blocks = (
    _cut(scaled, 3, ring), _cut(q_ids, 1, ring),
    _cut(_places(t, ring), 0, ring),
  )  # fmt: skip

  def turn(state, number, held):
    k, v, k_ids = held
    holder = _holder(number, ring)

    def one(q, q_ids, places, top, total, found):
      sees = _sees(q_ids, k_ids, places, holder, ring)
      scores, _ = _scores(q, k, sees, ring)
      new = jnp.maximum(top, jnp.max(scores, axis=-1))
      weights = jnp.where(sees, jnp.exp(scores - new[..., None]), 0.0)
      shrunk = jnp.exp(top - new)
      more = jnp.einsum(
        'bnrts,bnsk->bnrtk', weights.astype(q.dtype), v.astype(q.dtype),
        preferred_element_type=wide,
      )  # fmt: skip
      total = shrunk * total + jnp.sum(weights, axis=-1)
      return new, total, shrunk[..., None] * found + more

    return _in_chunks(one, ring, (*blocks, *state))

  cut = lambda x: _cut(x, 3, ring)
  start = (
    cut(jnp.full((b, n, r, t), plain.MASKED, wide)),
    cut(jnp.zeros((b, n, r, t), wide)),
    cut(jnp.zeros((b, n, r, t, size), wide)),
  )

  def step(carry, number):
    state, held = carry
    return (turn(state, number, held), _passed(held, ring)), None

  held = k, v, k_ids
  (state, held), _ = jax.lax.scan(
    step, (start, held), jnp.arange(ring.parts - 1)
  )
  top, total, found = turn(state, ring.parts - 1, held)  # and sent no more
  total = jnp.where(total > 0, total, 1.0)  # of padding that sees nothing
  join = lambda x: _joined(x, 3, t)
  out = join(found / total[..., None]).astype(q.dtype)
  return out, join(top + jnp.log(total))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q, k, v, q_ids, k_ids, ring: Ring) -> Array:
  return _forward(q, k, v, q_ids, k_ids, ring)[0]


def _attend_forward(q, k, v, q_ids, k_ids, ring):
  made = _forward(q, k, v, q_ids, k_ids, ring)
  out, log_total = (remat.mark(x, remat.ATTENTION) for x in made)
  return out, (q, k, v, q_ids, k_ids, out, log_total)


def _attend_back(ring: Ring, kept, gradient):
  q, k, v, q_ids, k_ids, out, log_total = kept
  scale = (ring.how.divisor or q.shape[-1]) ** -0.5
  wide, t = log_total.dtype, q.shape[3]
  product = functools.partial(jnp.einsum, preferred_element_type=wide)
  # The share of a softmax's gradient that all its keys have.
  common = jnp.sum(gradient.astype(wide) * out.astype(wide), axis=-1)
  cut = lambda x: _cut(x, 3, ring)
  blocks = (
    cut(q * scale), _cut(q_ids, 1, ring), _cut(_places(t, ring), 0, ring),
    cut(gradient), cut(log_total), cut(common),
  )  # fmt: skip

  def turn(number, held):
    """(gradient of the queries, of the keys and values that are here)."""
    k, v, k_ids = held
    holder = _holder(number, ring)

    def one(q, q_ids, places, gradient, log_total, common):
      sees = _sees(q_ids, k_ids, places, holder, ring)
      scores, slope = _scores(q, k, sees, ring)
      weights = jnp.where(sees, jnp.exp(scores - log_total[..., None]), 0.0)
      share = product('bnrtk,bnsk->bnrts', gradient, v.astype(q.dtype))
      change = slope * weights * (share - common[..., None])
      change = change.astype(q.dtype)
      of_q = product('bnrts,bnsk->bnrtk', change, k.astype(q.dtype))
      of_k = product('bnrts,bnrtk->bnsk', change, q)
      of_v = product('bnrts,bnrtk->bnsk', weights.astype(q.dtype), gradient)
      return of_q, of_k, of_v

    of_q, of_k, of_v = _in_chunks(one, ring, blocks)
    return _joined(of_q, 3, t), jnp.sum(of_k, axis=0), jnp.sum(of_v, axis=0)

  def step(carry, number):
    of_q, held, changes = carry
    more, *own = turn(number, held)
    changes = added(changes, own)
    return (of_q + more, *_passed((held, changes), ring)), None

  # What travels is in the dtype of keys.
  added = lambda sums, own: tuple(
    (a + b).astype(a.dtype) for a, b in zip(sums, own)
  )
  nothing = jnp.zeros_like(k), jnp.zeros_like(v)
  start = jnp.zeros(q.shape, wide), (k, v, k_ids), nothing
  (of_q, held, changes), _ = jax.lax.scan(
    step, start, jnp.arange(ring.parts - 1)
  )
  more, *own = turn(ring.parts - 1, held)
  of_k, of_v = _passed(added(changes, own), ring)
  of_q = ((of_q + more) * scale).astype(q.dtype)
  return of_q, of_k, of_v, None, None


_attend.defvjp(_attend_forward, _attend_back)
