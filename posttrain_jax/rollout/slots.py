"""Continuous batching in one compiled loop: few slots serve many completions.

A slot that has finished its completion takes the next one at once, so that no
row waits for the longest of its batch. The result is in the order of the
completions, and each is the one that it would have been in any other slot.

A slot's cache is the keys of its prompt, then a ring of `max_new_tokens`
columns. All slots write the same column of the ring at a step, wherever their
completion began; a mask says which columns are theirs. (Keys carry their
position, so their order in the cache has no meaning.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.types import Array, PyTree

__all__ = ['decode']


def decode(
  params: PyTree,
  config: ModelConfig,
  prefix: transformer.Cache,
  first_logits: Array,
  prompt_lengths: Array,
  keys: Array,
  *,
  slots: int,
  group_size: int,
  max_new_tokens: int,
  decoder: Callable,
  eos_id: int,
  pad_id: int,
) -> dict[str, Array]:
  """Completions of N = B * group_size rows by `slots` slots, 1 <= slots <= N.

  prefix          a filled cache of the B prompts
  first_logits    [B, V] of each prompt's first new token
  prompt_lengths  [B]
  keys            [N] one key a completion

  Returns completion, mask, logps [N, C] and finished [N] float32.
  """
  count, size = keys.shape[0], max_new_tokens
  width = prefix.mask.shape[1]

  def draw(logits, rows, t):
    """The tokens number t [R] of completions `rows` [R] from logits [R, V]."""
    return decoder(logits, jax.vmap(jax.random.fold_in)(keys[rows], t))

  def record(carry, rows, t, token, logp):
    """Writes one token of each row; a row number N is dropped."""
    put = lambda buffer, x: buffer.at[rows, t].set(x, mode='drop')
    stopped = token == eos_id
    return carry | {
      'completion': put(carry['completion'], token),
      'mask': put(carry['mask'], 1.0),
      'logps': put(carry['logps'], logp),
      'finished': carry['finished'].at[rows].set(
        stopped.astype(jnp.float32), mode='drop'
      ),
    }, stopped | (t >= size - 1)  # fmt: skip

  def refill(carry):
    """Gives the first free slot the next completion and its first token."""
    slot, row = jnp.argmax(carry['done']), carry['next']
    prompt = row // group_size
    cache = carry['cache']

    def load(buffer, source):
      own = jax.lax.dynamic_index_in_dim(source, prompt, keepdims=True)
      zero = jnp.zeros_like(slot)
      return jax.lax.dynamic_update_slice(buffer, own, (slot, zero, zero, zero))

    seen = jnp.pad(prefix.mask[prompt], (0, size))
    cache = cache.replace(
      keys=tuple(map(load, cache.keys, prefix.keys)),
      values=tuple(map(load, cache.values, prefix.values)),
      mask=cache.mask.at[slot].set(seen),
    )
    token, logp = draw(
      first_logits[prompt][None], row[None], jnp.zeros((1,), jnp.int32)
    )
    carry, done = record(carry, row[None], 0, token, logp)
    return carry | {
      'next': row + 1,
      'row': carry['row'].at[slot].set(row),
      't': carry['t'].at[slot].set(1),
      'token': carry['token'].at[slot].set(token[0]),
      'done': carry['done'].at[slot].set(done[0]),
      'cache': cache,
    }

  def advance(carry):
    row, t, done = carry['row'], carry['t'], carry['done']
    prompt = jnp.minimum(row, count - 1) // group_size
    column = width + carry['step'] % size
    logits, cache = transformer.apply(
      params,
      config,
      carry['token'][:, None],
      positions=(prompt_lengths[prompt] + t - 1)[:, None],
      cache=carry['cache'].replace(length=column),
    )
    token, logp = draw(logits[:, 0], jnp.minimum(row, count - 1), t)
    carry, ended = record(
      carry, jnp.where(done, count, row), t, token.astype(jnp.int32), logp
    )
    carry = carry | {
      'step': carry['step'] + 1,
      't': t + 1,
      'token': token,
      'done': done | ended,
      'cache': cache,
    }
    return fill(carry)

  def fill(carry):
    waiting = lambda c: jnp.any(c['done']) & (c['next'] < count)
    return jax.lax.while_loop(waiting, refill, carry)

  carry = {
    'step': jnp.int32(0),
    'next': jnp.int32(0),
    'row': jnp.full((slots,), count, jnp.int32),
    't': jnp.zeros((slots,), jnp.int32),
    'token': jnp.zeros((slots,), jnp.int32),
    'done': jnp.ones((slots,), bool),
    'completion': jnp.full((count, size), pad_id, jnp.int32),
    'mask': jnp.zeros((count, size), jnp.float32),
    'logps': jnp.zeros((count, size), jnp.float32),
    'finished': jnp.zeros((count,), jnp.float32),
    'cache': transformer.init_cache(config, slots, width + size),
  }
  carry = jax.lax.while_loop(
    lambda c: ~jnp.all(c['done']), advance, fill(carry)
  )
  names = ('completion', 'mask', 'logps', 'finished')
  return {name: carry[name] for name in names}
