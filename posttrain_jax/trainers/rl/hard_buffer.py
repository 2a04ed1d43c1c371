"""Demonstrations of problems that no answer solves, learnt apart from RL.

After the step of RL, the demonstrations of the step's problems without a right
answer go into a buffer, oldest first. Once it holds `config.hard_buffer.rows`
of them, those are taken out for one update of SFT, with moments of its own.
Only what is taken out counts as a demonstration that was read.

`hard_buffer.choose` 'random' is the control: as many problems, any of them.

Reference: Ma et al. (2025), https://arxiv.org/abs/2506.07527 (ReLIFT; its
trainer.py and actor.py)
"""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import rollout
from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import Array, Batch, PyTree, TrainState
from posttrain_jax.models import adapted
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.rl import guests, imitation
from posttrain_jax.trainers.rl.experience import Experience
from posttrain_jax.trainers.rl.terms import make_imitation

__all__ = [
  'CHOICES',
  'CONTROL',
  'chosen_problems',
  'empty',
  'make_study',
  'memory',
  'popped',
  'pushed',
  'used',
]

CHOICES = ('unsolved', 'random')
# Where a state keeps the buffer, and the second optimizer's state.
CONTROL = 'hard'
# What is logged of an update of SFT, 0 in steps without one.
SEEN = ('loss', 'grad_norm', 'nll')


def used(config: Any) -> bool:
  """Whether a run keeps demonstrations of unsolved problems."""
  return config.hard_buffer.rows > 0


def empty(capacity: int, width: int) -> dict[str, Array]:
  """A buffer of no rows: {'held_tokens', 'held_mask', 'held_segments'
  [capacity, width], 'held' []: how many of them there are}."""
  return {
    'held_tokens': jnp.zeros((capacity, width), jnp.int32),
    'held_mask': jnp.zeros((capacity, width), jnp.float32),
    'held_segments': jnp.zeros((capacity, width), jnp.int32),
    'held': jnp.int32(0),
  }


def memory(config: Any, sizes: Any) -> Callable[[PyTree], PyTree]:
  """(first state of the run's optimizer) -> the buffer of a run, and the state
  of its own optimizer, which begins alike.

  It has room for the rows of one update and for the problems of one step.
  """
  capacity = config.hard_buffer.rows + sizes.prompts_per_step

  def init(opt_state: PyTree) -> PyTree:
    rows = empty(capacity, sizes.row_tokens)
    return {**rows, 'opt_state': jax.tree.map(jnp.array, opt_state)}

  return init


def chosen_problems(
  rewards: Array, there: Array, choose: str, key: Array
) -> Array:
  """[B] bool: whose demonstrations are kept.

  rewards  [B, G] of the policy's own answers
  there    [B] 1.0 where the demonstration fits
  choose   one of CHOICES
  key      of the step, for 'random'
  """
  fits = there > 0
  unsolved = jnp.all(rewards <= guests.RIGHT, axis=1) & fits
  if choose == 'unsolved':
    return unsolved
  count = jnp.sum(unsolved)
  drawn = jax.random.uniform(key, fits.shape)
  order = jnp.argsort(jnp.where(fits, drawn, 2.0))
  place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
  return (place < count) & fits


def pushed(buffer: PyTree, rows: Batch, keep: Array) -> tuple[PyTree, Array]:
  """(the buffer with the rows [B, T] that are kept behind its own, how many
  found no room).

  keep  [B] bool
  """
  capacity = buffer['held_mask'].shape[0]
  place = buffer['held'] + jnp.cumsum(keep.astype(jnp.int32)) - 1
  place = jnp.where(keep, place, capacity)  # beyond the end: dropped
  put = lambda held, new: held.at[place].set(
    new.astype(held.dtype), mode='drop'
  )
  wanted = buffer['held'] + jnp.sum(keep.astype(jnp.int32))
  held = jnp.minimum(wanted, capacity)
  return {
    **buffer,
    'held_tokens': put(buffer['held_tokens'], rows.tokens),
    'held_mask': put(buffer['held_mask'], rows.mask),
    'held_segments': put(buffer['held_segments'], rows.segment_ids),
    'held': held,
  }, wanted - held


def popped(buffer: PyTree, count: int) -> tuple[Batch, PyTree]:
  """(the oldest `count` rows, the buffer without them)."""
  mask = buffer['held_mask'][:count]
  positions = jnp.arange(mask.shape[1], dtype=jnp.int32)
  rows = Batch(
    tokens=buffer['held_tokens'][:count],
    mask=mask,
    segment_ids=buffer['held_segments'][:count],
    positions=jnp.broadcast_to(positions[None], mask.shape),
  )
  left = {
    name: jnp.roll(x, -count, axis=0) if x.ndim == 2 else x
    for name, x in buffer.items()
    if name.startswith('held')
  }
  return rows, {**buffer, **left, 'held': buffer['held'] - count}


def _sizes(config: Any, sizes: Any) -> Any:
  """The sizes of an update of SFT, in micro-batches like RL's if they fit."""
  rows, micro = config.hard_buffer.rows, sizes.microbatch_rows
  return types.SimpleNamespace(
    minibatch_rows=rows,
    microbatch_rows=micro if micro and rows % micro == 0 else 0,
    updates_per_rollout=1,
    group_size=1,
  )


def make_study(
  config: Any,
  model: ModelConfig,
  make_update: Callable[..., Callable],
  sizes: Any,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """(state, experience, key) -> (state, metrics): what comes after RL's update.

  make_update  of `trainers.step.Setup`
  """
  goal = imitation.make_objective(model, *make_imitation(config))
  # Of two updates neither is made alone.
  update = guard.unheld(make_update(goal, of=_sizes(config, sizes)))
  part = config.hard_buffer

  def learn(before: TrainState, key: Array, carry: PyTree) -> PyTree:
    params, held, _ = carry
    rows, held = popped(held, part.rows)
    own = before.replace(params=params, opt_state=held['opt_state'])
    after, metrics = update(own, sharding.rows(rows), key)
    # Updates of SFT have a rate of their own, in units of the run's.
    slower = lambda new, old: jnp.where(
      part.rate == 1.0, new, old + (part.rate * (new - old)).astype(old.dtype)
    )
    moved = jax.tree.map(
      slower, adapted.trained(after.params), adapted.trained(params)
    )
    held = {**held, 'opt_state': after.opt_state}
    seen = {name: metrics[name] for name in SEEN}
    seen['tokens'] = masked.count(rows.mask)
    seen = {name: jnp.asarray(x, jnp.float32) for name, x in seen.items()}
    return adapted.join(moved, params), held, seen

  def study(state: TrainState, lived: Experience, key: Array):
    choose_key, key = jax.random.split(jax.random.fold_in(key, 2))
    shown = lived.hard
    if shown is None:
      raise ValueError('hard_buffer: the step drew no demonstrations to hold')
    rows = rollout.assemble_groups(lived.prompts, lived.prompt_mask, shown)
    keep = chosen_problems(
      lived.rewards, shown.finished[:, 0], part.choose, choose_key
    )
    held, lost = pushed(state.control[CONTROL], rows, keep)
    due = held['held'] >= part.rows
    seen = dict.fromkeys((*SEEN, 'tokens'), jnp.float32(0))
    params, held, seen = guard.once(
      due, lambda carry, _: learn(state, key, carry), (state.params, held, seen)
    )
    state = state.replace(
      params=params, control={**state.control, CONTROL: held}
    )
    return state, {
      'hard/frac_problems': jnp.mean(keep.astype(jnp.float32)),
      'hard/held': held['held'].astype(jnp.float32),
      'hard/lost': lost.astype(jnp.float32),
      'hard/demonstrations': due * jnp.float32(part.rows),
      **{f'hard/{name}': x for name, x in seen.items()},
    }

  return study
