"""Answers that are told the beginning of a demonstration.

All answers of a problem begin with the same part of the oracle's demonstration,
`config.hints`. To the policy's terms it is a part of the prompt: they count
what comes after it. A term of its own, `hint`, is the likelihood of what was
told.

A demonstration without its end is cut into `chunks` parts of equal length (as
many as it has tokens, where these are fewer), and how many of them are told is
drawn for each problem:

  binomial  each of the chunks with the chance that the controller sets
  uniform   any number of them, whatever the controller says
  rounded   as many as the chance is of the numbers from none to all: no draw

Reference: Liu et al. (2025), https://arxiv.org/abs/2505.16984 (UFT; 'uniform'
and 'rounded' are the baselines R3 and stage of its code, rl_dataset.py)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core.resolve import active
from posttrain_jax.core.types import Array, Batch, Example, PyTree, Rollout
from posttrain_jax.rollout import environments, guides
from posttrain_jax.trainers.rl import guests

__all__ = [
  'DRAWS',
  'check_task',
  'make_hints',
  'mask_of',
  'seen',
  'taught',
  'told',
  'told_chunks',
  'told_lengths',
  'used',
]

DRAWS = ('binomial', 'uniform', 'rounded')


def used(config: Any) -> bool:
  """Whether answers are told a part of a demonstration."""
  return config.hints.chunks > 0


def taught(config: Any) -> bool:
  """Whether what they are told is learnt, too."""
  return used(config) and active(config.hints.coef)


def check_task(config: Any, task: Any) -> None:
  """Raises ValueError for a task in turns, as `prefixes.check_task`."""
  if used(config) and environments.of(task) is not None:
    raise ValueError(
      f'hints.chunks={config.hints.chunks}: task "{config.task.name}" answers '
      'in turns, and its demonstrations cannot be told; take hints.chunks=0'
    )


def told_chunks(
  draw: str, chance: Array, sizes: Array, chunks: int, keys: Array
) -> Array:
  """[B] int32: how many chunks each problem is told.

  draw    one of DRAWS
  chance  []
  sizes   [B] int32 tokens that could be told
  keys    [B]
  """
  count = jnp.minimum(sizes, chunks)
  if draw == 'binomial':
    each = jax.vmap(lambda key: jax.random.uniform(key, (chunks,)))(keys)
    there = jnp.arange(chunks)[None] < count[:, None]
    return jnp.sum((each < chance) & there, axis=1).astype(jnp.int32)
  if draw == 'uniform':
    part = jax.vmap(jax.random.uniform)(keys)
    number = jnp.floor(part * (count + 1))
  else:
    # The numbers none .. all stand for equal parts of the chances above 0.
    number = jnp.ceil((count + 1) * chance - 1e-4) - 1
  return jnp.clip(number, 0, count).astype(jnp.int32)


def told_lengths(number: Array, sizes: Array, chunks: int) -> Array:
  """[B] int32 tokens of `number` [B] of the chunks, halves to even.

  sizes  [B] int32 tokens that could be told; 0: nothing
  """
  count = jnp.maximum(jnp.minimum(sizes, chunks), 1)
  # float32 divides exactly where the quotient is a half.
  return jnp.round(number * sizes / count).astype(jnp.int32)


def make_hints(
  config: Any, task: Any, width: int, pad_id: int
) -> Callable[[Example, Array, Array], PyTree]:
  """(examples, chance, key) -> states [B, ...] of `guides.forced_prefix`.

  Demonstrations over `width` tokens are not told.
  """

  def hint(examples: Example, chance: Array, key: Array) -> PyTree:
    demo_key, draw_key = jax.random.split(key)
    shown = guests.demonstrations(task, examples, demo_key, 1, width, pad_id)
    whole = jnp.sum(shown.mask[:, 0], axis=-1).astype(jnp.int32)
    sizes = jnp.maximum(whole - 1, 0)  # the end is left to the policy
    keys = rollout.row_keys(draw_key, examples.prompt_id, 1)
    chunks = config.hints.chunks
    number = told_chunks(config.hints.draw, chance, sizes, chunks, keys)
    lengths = told_lengths(number, sizes, chunks)
    return guides.prefix_state(shown.completion[:, 0], lengths)

  return hint


def told(config: Any, batch: Batch, samples: Rollout) -> Batch:
  """The batch of own answers with what they were told in its mask, and alone in
  `extras['hint']` [R, T]; as it is where the term is not there."""
  if not taught(config):
    return batch
  given = samples.need('given') * samples.mask
  flat = given.reshape(-1, given.shape[-1])
  hint = rollout.place(flat, batch.need('starts'), batch.mask.shape[1])
  return batch.replace(
    mask=batch.mask + hint, extras={**batch.extras, 'hint': hint}
  )


def mask_of(batch: Batch) -> Array:
  """[R, T] 1.0 on what answers were told."""
  hint = batch.extras.get('hint')
  return jnp.zeros_like(batch.mask) if hint is None else hint


def seen(samples: Rollout) -> dict[str, Array]:
  """What is logged of hints: tokens told, and problems that were told any."""
  given = jnp.sum((samples.need('given') * samples.mask)[:, 0], axis=-1)
  return {
    'hints/mean_length': jnp.mean(given),
    'hints/frac_problems': jnp.mean((given > 0).astype(jnp.float32)),
  }
