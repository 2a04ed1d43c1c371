"""Continuous batching in one compiled loop: few slots serve many completions.

A slot that has finished its completion takes the next one at once, so that no
row waits for the longest of its batch. The result is in the order of the
completions, and each is the one that it would have been in any other slot.

A slot's cache is the keys of its prompt, then a ring of `max_new_tokens`
columns. All slots write the same column of the ring at a step, wherever their
completion began; each column's position says whether it is theirs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array
from posttrain_jax.models import transformer
from posttrain_jax.models.cache import load_prompt
from posttrain_jax.rollout import layout
from posttrain_jax.rollout.runs import any_run
from posttrain_jax.rollout.work import Drawn, Work, over_parts

__all__ = ['decode']


def decode(work: Work, slots: int) -> dict[str, Array]:
  """Completions by `slots` slots, 1 <= slots <= N.

  On a mesh each part of the rows has slots of its own for its own completions,
  so that no prompt moves: as many as make at least `slots` together.

  Returns completion, mask, logps, given [N, C] and finished [N] float32.
  """
  parts = sharding.size(*sharding.over('rows'))
  # XLA aborts at experts that are split within a part over more axes than
  # tensor: slots are then of all parts, and prompts are fetched.
  split = len(sharding.over('weights')) > 1 and work.config.num_experts > 0
  if parts == 1 or split:
    return _decode(work, slots)
  return over_parts(functools.partial(_decode, slots=-(-slots // parts)), work)


def _decode(work: Work, slots: int) -> dict[str, Array]:
  """`decode` of one part."""
  size, count = work.max_new_tokens, work.count
  carry = {
    'next': jnp.int32(0),
    'row': jnp.full((slots,), count, jnp.int32),
    't': jnp.zeros((slots,), jnp.int32),
    'token': jnp.zeros((slots,), jnp.int32),
    'done': jnp.ones((slots,), bool),
    'completion': jnp.full((count, size), work.pad_id, jnp.int32),
    'mask': jnp.zeros((count, size), jnp.float32),
    'logps': jnp.zeros((count, size), jnp.float32),
    'given': jnp.zeros((count, size), jnp.float32),
    'finished': jnp.zeros((count,), jnp.float32),
    'cache': layout.cache(
      transformer.init_cache(work.config, slots, size, fixed=work.prompt_size)
    ),
    'state': jax.tree.map(
      lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype), work.guide_state
    ),
  }
  fill = lambda c: jax.lax.while_loop(
    lambda c: any_run(_waits(work, c)), lambda c: _refill(work, c), c
  )
  carry = jax.lax.while_loop(
    lambda c: any_run(~jnp.all(c['done'])),
    lambda c: fill(_advance(work, c)),
    fill(carry),
  )
  names = ('completion', 'mask', 'logps', 'given', 'finished')
  return {name: carry[name] for name in names}


def _record(
  work: Work, carry: dict[str, Any], rows: Array, t, drawn: Drawn
) -> tuple[dict[str, Any], Array]:
  """Writes one token of each row (a row number N is dropped), and whether it
  was the last."""
  put = lambda buffer, x: buffer.at[rows, t].set(
    jnp.asarray(x, buffer.dtype), mode='drop'
  )
  stopped = drawn.stopped.astype(jnp.float32)
  carry = carry | {
    'completion': put(carry['completion'], drawn.token),
    'mask': put(carry['mask'], 1.0),
    'logps': put(carry['logps'], drawn.logp),
    'given': put(carry['given'], drawn.forced),
    'finished': carry['finished'].at[rows].set(stopped, mode='drop'),
  }
  return carry, drawn.stopped | (t >= work.max_new_tokens - 1)


def _waits(work: Work, carry: dict[str, Any]) -> Array:
  """Whether there is a free slot and a completion that has not begun."""
  return jnp.any(carry['done']) & (carry['next'] < work.count)


def _refill(work: Work, carry: dict[str, Any]) -> dict[str, Any]:
  """Gives the first free slot the next completion and its first token.

  Where none waits (other runs' slots are filled, `rollout.runs`) the slot and
  the row that are written lie beyond the last ones, and nothing changes.
  """
  waits = _waits(work, carry)
  slot = jnp.where(waits, jnp.argmax(carry['done']), carry['done'].shape[0])
  row = jnp.minimum(carry['next'], work.count - 1)
  prompt = row // work.group_size
  cache = load_prompt(carry['cache'], slot, work.prefix, prompt)
  drawn = work.draw(
    work.first_logits[prompt][None],
    row[None],
    jnp.zeros((1,), jnp.int32),
    jax.tree.map(lambda x: x[row][None], work.guide_state),
  )
  written = jnp.where(waits, row, work.count)[None]
  carry, done = _record(work, carry, written, 0, drawn)
  put = lambda buffer, x: buffer.at[slot].set(x, mode='drop')
  state = jax.tree.map(
    lambda buffer, x: put(buffer, x[0]), carry['state'], drawn.state
  )
  return carry | {
    'next': carry['next'] + waits,
    'row': put(carry['row'], row),
    't': put(carry['t'], 1),
    'token': put(carry['token'], drawn.token[0]),
    'done': put(carry['done'], done[0]),
    'cache': layout.cache(cache),
    'state': state,
  }


def _advance(work: Work, carry: dict[str, Any]) -> dict[str, Any]:
  """One token of every slot; those that are done write nothing."""
  t, done = carry['t'], carry['done']
  row = jnp.minimum(carry['row'], work.count - 1)
  logits, cache = transformer.apply(
    work.params,
    work.config,
    carry['token'][:, None],
    positions=(work.prompt_lengths[row // work.group_size] + t - 1)[:, None],
    cache=carry['cache'],
  )
  assert cache is not None  # One was given.
  drawn = work.draw(logits[:, 0], row, t, carry['state'])
  written = jnp.where(done, work.count, carry['row'])
  carry, ended = _record(work, carry, written, t, drawn)
  return carry | {
    't': t + 1,
    'token': drawn.token,
    'done': done | ended,
    'cache': layout.cache(cache),
    'state': drawn.state,
  }
