"""What an objective says of rows that nothing is learnt from, in sums."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, sharding
from posttrain_jax.core.keys import seed_key
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.trainers.objective import Objective

__all__ = ['make_judge']

Metrics = dict[str, Array]


def make_judge(
  objective: Objective,
  prepare: Callable[[TrainState, Batch], Batch],
  carried: dict[str, Any] | None = None,
) -> Callable[[TrainState, Batch, Array], Metrics]:
  """`judge(state, batch, first)`: what the objective says of rows, in sums.

  first    number of the first row among all that are judged: a method's own
           randomness goes by the number of a row, not by how they are batched
  carried  {what: `step.Carry`} of what the method remembers of earlier steps

  Returns {'sum/TERM', 'count/TERM', 'coef/TERM'} of the terms of the loss, and
  {'metric/NAME', 'of/NAME'}, a metric's masked sum and its mask's. Added over
  batches, they are those of one large batch.
  """

  def judge(state: TrainState, batch: Batch, first: Array) -> Metrics:
    numbers = first + jnp.arange(batch.mask.shape[0], dtype=jnp.uint32)
    draw = lambda number: jax.random.bits(
      jax.random.fold_in(seed_key(0), number)
    )
    seeds = jax.vmap(draw)(numbers)
    batch = batch.replace(extras={**batch.extras, 'seed': seeds})
    batch = sharding.rows(prepare(state, sharding.rows(batch)))
    for what, carry in (carried or {}).items():
      batch, _, _ = carry.enter(state.control[what], batch, state)
    sums, metrics = objective.evaluate(state.params, state, batch)
    counts = objective.count(batch)
    found = {}
    for name, term in sums.items():
      found[f'sum/{name}'] = term
      found[f'count/{name}'] = counts[name]
      found[f'coef/{name}'] = jnp.float32(objective.coef(state, name))
    for name, (values, mask) in metrics.items():
      found[f'metric/{name}'] = masked.sum(values, mask)
      found[f'of/{name}'] = jnp.sum(mask)
    return found

  return judge
