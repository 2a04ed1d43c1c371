"""From hidden states to what is said of tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree, TokenSignals
from posttrain_jax.models.config import ModelConfig

__all__ = ['score_tokens', 'unembed']


def unembed(params: PyTree, config: ModelConfig, hidden: Array) -> Array:
  """Logits [..., V] in float32 of hidden states [..., D], within the cap."""
  kernel = (
    params['embed']['tokens'].T if config.tie_embeddings else params['unembed']
  )
  logits = jnp.einsum(
    '...d,dv->...v',
    hidden,
    kernel.astype(hidden.dtype),
    preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
  )
  if config.logit_cap:
    logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
  return logits


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

  def score(previous, tokens, context):
    scores = unembed(params, config, previous)
    if callable(temperature):
      scores = temperature(scores, tokens, context)
    else:
      scores = scores / temperature
    log_probs = jax.nn.log_softmax(scores)
    taken = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    spread = is_top = None
    if entropy:
      known = jnp.where(jnp.isneginf(log_probs), 0.0, log_probs)
      spread = -jnp.sum(jnp.exp(log_probs) * known, axis=-1)
      is_top = (taken >= jnp.max(log_probs, axis=-1)).astype(jnp.float32)
    return taken, spread, is_top, scores if logits else None

  length, chunk = tokens.shape[1], config.logit_chunk
  if 0 < chunk < length:
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
      lambda item: jax.checkpoint(score)(*item),
      jax.tree.map(split, (previous, tokens, context)),
    )
    out = jax.tree.map(join, out)
  else:
    out = score(previous, tokens, context)
  taken, spread, is_top, scores = out
  values = None
  if config.value_head:
    head = params['value_head']
    values = jnp.einsum('btd,d->bt', previous, head['kernel']) + head['bias']
    values = jnp.where(scored, values.astype(jnp.float32), 0.0)
  return TokenSignals(
    logps=jnp.where(scored, taken, 0.0),
    entropy=None if spread is None else jnp.where(scored, spread, 0.0),
    is_top=None if is_top is None else jnp.where(scored, is_top, 0.0),
    logits=scores,
    values=values,
  )
