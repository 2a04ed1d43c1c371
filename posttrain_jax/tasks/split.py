"""Held-out problems: a problem's own hash says which split it is in.

Nothing has to be stored: the training stream skips the problems whose hash
falls into the held-out share, the evaluation stream skips all others.
"""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example

# (7/8)^256 < 1e-14: no draw runs out of tries at any sensible share.
MAX_TRIES = 256
PARTS = ('test', 'validation')


def fingerprint(values: Array) -> Array:
  """A well-mixed uint32 of an int array (multiply-xorshift, as murmur3).

  Negative entries are padding: they change nothing, so a problem has one
  fingerprint however wide its buffer is.
  """

  def mix(word: Array, value: Array):
    new = (word ^ value.astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
    return jnp.where(value < 0, word, new ^ (new >> 15)), None

  # A scan: unrolled, the hash of a prompt costs seconds of compilation.
  word, _ = jax.lax.scan(mix, jnp.uint32(2166136261), values.reshape(-1))
  word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
  word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
  return word ^ (word >> 16)


def identity(task: Any, example: Example) -> Array:
  """What makes a problem that problem: `task.identity`, else its prompt.

  Non-negative ints, with -1 where there is nothing. A task defines its own
  where several prompts are one problem (`2+3=` and `3+2=`).
  """
  if hasattr(task, 'identity'):
    return task.identity(example)
  return jnp.where(example.prompt_mask > 0, example.prompt, -1)


def is_heldout(task: Any, example: Example, fraction: float) -> Array:
  """Whether an (unbatched) problem belongs to the held-out share."""
  word = fingerprint(identity(task, example))
  return word.astype(jnp.float32) / 2.0**32 < fraction


def in_part(task: Any, example: Example, fraction: float, part: str) -> Array:
  """Whether a problem belongs to a half of the held-out share ('test' the
  first, 'validation' the second; of all problems where `fraction` is 0).

  Raises:
    ValueError: another name of a part.
  """
  if part not in PARTS:
    raise ValueError(f'no part "{part}".' + nearest(part, PARTS))
  end = fraction or 1.0
  low, high = (0.0, end / 2) if part == 'test' else (end / 2, end)
  share = fingerprint(identity(task, example)).astype(jnp.float32) / 2.0**32
  return (share >= low) & (share < high)


def sample(
  task: Any, key: Array, *, heldout: bool, fraction: float, part: str = ''
) -> Example:
  """A problem of one split; `fraction` 0 means that there is only one.

  part  of the held-out ones, as in `in_part`; '' = any

  Draws again until a problem of the split comes, at most MAX_TRIES times.
  """
  if fraction == 0 and not part:
    return task.sample(key)

  def wrong(carry):
    tries, found, _ = carry
    return (tries < MAX_TRIES) & ~found

  def draw(carry):
    tries, _, _ = carry
    example = task.sample(jax.random.fold_in(key, tries))
    if part:
      found = in_part(task, example, fraction, part)
    else:
      found = is_heldout(task, example, fraction) == heldout
    return tries + 1, found, example

  # The first pass always runs, so its blank example is never returned.
  blank = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(task.sample, key)
  )
  start = (jnp.int32(0), jnp.bool_(False), blank)
  return jax.lax.while_loop(wrong, draw, start)[2]


def sample_batch(
  task: Any,
  key: Array,
  size: int,
  *,
  heldout: bool,
  fraction: float,
  part: str = '',
) -> Example:
  """`size` problems [B, ...], numbered 0 .. size - 1 by `prompt_id`."""
  ids = jnp.arange(size, dtype=jnp.uint32)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  draw = lambda k: sample(
    task, k, heldout=heldout, fraction=fraction, part=part
  )
  return jax.vmap(draw)(keys).replace(prompt_id=ids)
