"""Supervised fine-tuning on a task's oracle in-graph, or on batches of data."""

from collections.abc import Callable
from typing import Any

import jax

from posttrain_jax import masked, sharding
from posttrain_jax.rollout import assemble
from posttrain_jax.tasks import split
from posttrain_jax.types import Array, Batch, TrainState

__all__ = ['demonstrations', 'make_step']


def demonstrations(
  task: Any, key: Array, rows: int, *, heldout: bool, fraction: float
) -> Batch:
  """`rows` problems with the oracle's completions, [rows, P + C]."""
  sample_key, solve_key = jax.random.split(key)
  examples = split.sample_batch(
    task, sample_key, rows, heldout=heldout, fraction=fraction
  )
  keys = jax.vmap(jax.random.fold_in, (None, 0))(solve_key, examples.prompt_id)
  solutions = jax.vmap(task.solve)(examples, keys)
  return assemble(
    examples.prompt, examples.prompt_mask, solutions.tokens, solutions.mask
  )


def make_step(update: Callable, make_batch: Callable | None = None) -> Callable:
  """The SFT step.

  update      from `update.make_update`
  make_batch  (key) -> Batch, for demonstrations made in-graph; the step is then
              `step(state, key)`. None: the step is `step(state, batch)`.

  Metric names are TRL's.
  """

  def on_batch(state: TrainState, batch: Batch):
    # Demonstrations are seen once: there is nothing to shuffle, hence no key.
    state, metrics = update(state, sharding.rows(batch), jax.random.key(0))
    return state, {**metrics, 'num_tokens': masked.count(batch.mask)}

  def on_key(state: TrainState, key: Array):
    return on_batch(state, make_batch(key))

  return on_batch if make_batch is None else on_key
