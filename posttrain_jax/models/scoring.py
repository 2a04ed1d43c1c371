"""From hidden states to what is said of tokens."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.sharding import SHARDS
from posttrain_jax.core.types import Array, PyTree, TokenSignals
from posttrain_jax.models import adapted, placed
from posttrain_jax.models.adapted import Adapted
from posttrain_jax.models.config import ModelConfig

__all__ = ['head_values', 'score_tokens', 'unembed']


def unembed(
  params: PyTree,
  config: ModelConfig,
  hidden: Array,
  kernel: Array | Adapted | None = None,
) -> Array:
  """Logits [..., V] in float32 of hidden states [..., D], within the cap.

  kernel  [D, V], or the table [V, D] of tied embeddings, where it is at hand
  """
  tied, spec = config.tie_embeddings, '...d,dv->...v'
  if kernel is None:
    kernel = _stored(params, config)
    if tied and not isinstance(kernel, Adapted):
      kernel, tied = kernel.T, False
  if tied:
    spec = '...d,vd->...v'
  if isinstance(kernel, Adapted):
    logits = _adapted(hidden, kernel, spec)
  else:
    logits = _wide(spec, hidden, kernel)
  if config.logit_cap:
    logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
  return logits


def _wide(spec: str, x: Array, weight: Array) -> Array:
  """A product in float32 of what stands in the activations' dtype."""
  return jnp.einsum(
    spec,
    x,
    weight.astype(x.dtype),
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )


def _adapted(hidden: Array, kernel: Adapted, spec: str) -> Array:
  """Logits by W + scale A B [D, V], or by its transpose where the table [V, D]
  of embeddings is that."""
  if spec == '...d,dv->...v':
    low = jnp.einsum('...d,dr->...r', hidden, kernel.a.astype(hidden.dtype))
    beside = _wide('...r,rv->...v', low, kernel.b)
  else:
    low = jnp.einsum('...d,rd->...r', hidden, kernel.b.astype(hidden.dtype))
    beside = _wide('...r,vr->...v', low, kernel.a)
  base: Any = kernel.base  # never in few bits
  logits = _wide(spec, hidden, base)
  logits = logits + beside * kernel.scale.astype(beside.dtype)
  if kernel.magnitude is None:
    return logits
  return logits * kernel.gain(logits.ndim).astype(logits.dtype)


def _stored(params: PyTree, config: ModelConfig) -> Array | Adapted:
  tied = config.tie_embeddings
  return params['embed']['tokens'] if tied else params['unembed']


def _kernel(params: PyTree, config: ModelConfig) -> Array | Adapted | None:
  """What `unembed` reads for many tokens: gathered once, where it is split, and
  with the norms that its adapter needs."""
  weight = _stored(params, config)
  if isinstance(weight, Adapted):
    weight = adapted.settled(weight)
  elif not sharding.split():
    return None
  return placed.gathered(weight, _spec(config), config.dtype)


def _copies(kernel: Array | Adapted, spec: P) -> PyTree:
  """`sharding.copies` of a weight, or of the parts of an adapted one."""
  if not isinstance(kernel, Adapted):
    return sharding.copies(kernel, spec)
  own = placed.specs(spec, 1, 1)
  own |= {'norm': own['magnitude'], 'scale': P()}
  parts = {}
  for name in ('base', 'a', 'b', 'scale', 'magnitude', 'norm'):
    x = getattr(kernel, name)
    parts[name] = x if x is None else sharding.copies(x, own[name])
  return kernel.replace(**parts)


def _spec(config: ModelConfig) -> P:
  return P('tensor', SHARDS) if config.tie_embeddings else P(SHARDS, 'tensor')


def _taken(log_probs: Array, tokens: Array) -> Array:
  """log_probs [..., V] at tokens [...]."""
  if not sharding.divides(log_probs.shape[-1], 'vocab'):
    index = tokens[..., None]
    return jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]
  # Each device has some of the vocabulary: one of them has the token.
  ids = jnp.arange(log_probs.shape[-1], dtype=tokens.dtype)
  here = tokens[..., None] == ids.reshape((1,) * tokens.ndim + (-1,))
  return jnp.sum(jnp.where(here, log_probs, 0.0), axis=-1)


def _in_chunks(score: Callable, chunk: int, items: PyTree) -> PyTree:
  """`score` of arrays [B, T, ...], `chunk` positions at a time, computed anew
  in the backward pass."""
  length = jax.tree.leaves(items)[0].shape[1]
  count = -(-length // chunk)
  pad = count * chunk - length
  split = lambda x: jnp.moveaxis(
    jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)).reshape(
      x.shape[0], count, chunk, *x.shape[2:]
    ),
    1, 0,
  )  # fmt: skip
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(
    x.shape[1], count * chunk, *x.shape[3:]
  )[:, :length]
  out = jax.lax.map(
    lambda item: jax.checkpoint(score)(*item), jax.tree.map(split, items)
  )
  return jax.tree.map(join, out)


def _scored(
  score: Callable,
  config: ModelConfig,
  kernel: Array | Adapted | None,
  items: PyTree,
) -> PyTree:
  """`score(kernel, *arrays)` of arrays [B, T, ...], in chunks.

  On a mesh each device goes through its own rows and positions, with a kernel
  of its own: the parts of the kernel's gradient are added up once, not in every
  chunk.
  """
  previous, chunk = items[0], config.logit_chunk
  if kernel is None or not sharding.comes_apart(previous):
    whole = functools.partial(score, kernel)
    if not 0 < chunk < previous.shape[1]:
      return whole(*items)
    return _in_chunks(whole, chunk, items)
  if not 0 < chunk < previous.shape[1] // sharding.size('sequence'):
    return score(kernel, *items)
  own = _copies(kernel, _spec(config))
  over = tuple(a for a in sharding.LOGICAL['parts'] if sharding.size(a) > 1)

  def one(kernel, items):
    part = functools.partial(score, jax.tree.map(lambda x: x[0], kernel))
    mine = jax.tree.map(lambda x: x[0], items)
    return jax.tree.map(lambda x: x[None], _in_chunks(part, chunk, mine))

  # Each by itself: told only where arrays lie, compilers send what the loop
  # adds up in every turn.
  each = jax.shard_map(
    one,
    in_specs=(P(over), P(over)),
    out_specs=P(over),
    axis_names=set(over),
    check_vma=False,
  )
  out = each(own, jax.tree.map(sharding.apart, items))
  return jax.tree.map(sharding.together, out)


def head_values(params: PyTree, states: Array, scored: Array) -> Array:
  """[B, T] the value head's number of states [B, T, D]; 0 where not scored."""
  head = params['value_head']
  kernel = sharding.gathered(head['kernel'], P(SHARDS))
  values = jnp.einsum('btd,d->bt', states, kernel) + head['bias']
  return jnp.where(scored, values.astype(jnp.float32), 0.0)


def score_tokens(
  params: PyTree,
  config: ModelConfig,
  previous: Array,
  tokens: Array,
  scored: Array,
  temperature: float | Array | Callable[..., Array],
  context: PyTree = None,
  *,
  entropy: bool,
  logits: bool,
) -> TokenSignals:
  """What the states before some tokens say of them.

  previous  [B, T, D] final hidden state of the token before each token
  tokens    [B, T]; scored [B, T] bool, 0 elsewhere
  The other arguments are those of `transformer.token_logps`.
  """

  def score(kernel, previous, tokens, context):
    scores = unembed(params, config, previous, kernel)
    if callable(temperature):
      scores = temperature(scores, tokens, context)
    else:
      scores = scores / temperature
    log_probs = jax.nn.log_softmax(scores)
    taken = _taken(log_probs, tokens)
    spread = is_top = None
    if entropy:
      known = jnp.where(jnp.isneginf(log_probs), 0.0, log_probs)
      spread = -jnp.sum(jnp.exp(log_probs) * known, axis=-1)
      is_top = (taken >= jnp.max(log_probs, axis=-1)).astype(jnp.float32)
    return taken, spread, is_top, scores if logits else None

  kernel = _kernel(params, config)
  out = _scored(score, config, kernel, (previous, tokens, context))
  taken, spread, is_top, scores = out
  if scores is not None:
    scores = sharding.constrain(scores, 'rows', 'length', 'vocab')
  values = head_values(params, previous, scored) if config.value_head else None
  return TokenSignals(
    logps=jnp.where(scored, taken, 0.0),
    entropy=None if spread is None else jnp.where(scored, spread, 0.0),
    is_top=None if is_top is None else jnp.where(scored, is_top, 0.0),
    logits=scores,
    values=values,
  )
