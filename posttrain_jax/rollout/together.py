"""All completions at once, until every one of them has stopped."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.models import transformer
from posttrain_jax.models.cache import grow
from posttrain_jax.rollout import layout
from posttrain_jax.rollout.runs import any_run
from posttrain_jax.rollout.work import Drawn, Work

__all__ = ['decode']

# What a loop carries of completions, one a row.
BY_ROWS = ('token', 'done', 'completion', 'mask', 'logps', 'given', 'state')


def decode(work: Work) -> dict[str, Array]:
  """Returns completion, mask, logps, given [N, C] and finished [N] float32.

  The prompts' keys and values are read in place by all of their completions.
  The cache grows in `work.stages` steps, each of them a loop of its own: short
  completions do not attend to columns that only longer ones fill.
  """
  rows, size = work.count, work.max_new_tokens
  room = _rooms(size, work.stages)
  everyone = jnp.arange(rows)
  starts = jnp.repeat(work.prompt_lengths, work.group_size)

  def draw(logits, t, state):
    return work.draw(logits, everyone, jnp.full((rows,), t, jnp.int32), state)

  carry = {
    't': jnp.int32(1),
    'token': jnp.zeros((rows,), jnp.int32),
    'done': jnp.zeros((rows,), bool),
    'completion': jnp.full((rows, size), work.pad_id, jnp.int32),
    'mask': jnp.zeros((rows, size), jnp.float32),
    'logps': jnp.zeros((rows, size), jnp.float32),
    'given': jnp.zeros((rows, size), jnp.float32),
    'state': work.guide_state,
    'cache': layout.cache(transformer.init_cache(work.config, rows, room[0])),
  }
  carry |= layout.rows({name: carry[name] for name in BY_ROWS})
  first = jnp.repeat(work.first_logits, work.group_size, axis=0)
  carry = _record(work, carry, 0, draw(first, 0, work.guide_state))

  def advance(carry):
    t = carry['t']
    # The prefix stays outside the loop's carry: it is read, never written.
    logits, cache = transformer.apply(
      work.params,
      work.config,
      carry['token'][:, None],
      positions=(starts + t - 1)[:, None],
      cache=carry['cache'].replace(prefix=work.prefix),
    )
    assert cache is not None  # One was given.
    carry = carry | {'t': t + 1, 'cache': layout.cache(cache.own())}
    return _record(work, carry, t, draw(logits[:, 0], t, carry['state']))

  for slots in room:
    carry['cache'] = layout.cache(grow(carry['cache'], work.config, slots))
    # Token t - 1 is written when token t is drawn; the last never is.
    end = min(slots + 1, size)
    going = lambda c, end=end: (c['t'] < end) & any_run(~jnp.all(c['done']))
    carry = jax.lax.while_loop(going, advance, carry)
  names = ('completion', 'mask', 'logps', 'given')
  finished = carry['done'].astype(jnp.float32)
  return {**{name: carry[name] for name in names}, 'finished': finished}


def _rooms(size: int, stages: int) -> list[int]:
  """Tokens that the cache has room for in each stage, growing to `size`."""
  return sorted({-(-size * k // stages) for k in range(1, stages + 1)})


def _record(work: Work, carry, t, drawn: Drawn):
  """Writes column t of the rows that are still running."""
  running = ~carry['done']
  start = (jnp.int32(0), jnp.int32(t))
  column = lambda buffer, x: jax.lax.dynamic_update_slice(
    buffer, x[:, None].astype(buffer.dtype), start
  )
  token = jnp.where(running, drawn.token, work.pad_id)
  return carry | layout.rows({
    'token': token,
    'done': carry['done'] | drawn.stopped & running,
    'completion': column(carry['completion'], token),
    'mask': column(carry['mask'], running),
    'logps': column(carry['logps'], jnp.where(running, drawn.logp, 0.0)),
    'given': column(carry['given'], drawn.forced & running),
    'state': drawn.state,
  })  # fmt: skip
