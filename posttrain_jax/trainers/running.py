"""What a method remembers of the answers of all steps."""

from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.trainers.step import Carry

__all__ = ['mean_reward']


def mean_reward(beta: Array | float) -> Carry:
  """The running mean of the implicit rewards beta log pi / ref.

  It is the mean over all answers of all steps, those of the step itself
  included, as the policy was before its updates; TRL's BCO trainer does so.
  So it is the same for every split of a step's rows. A batch gets it on every
  row as `extras['shift']` [R]; it has to have `old_logps` and `ref_logps`.
  """
  zero = lambda: jnp.zeros((), jnp.float32)

  def enter(before: dict[str, Array], batch: Batch, state: TrainState) -> Any:
    del state
    gaps = masked.select(
      batch.need('old_logps') - batch.need('ref_logps'), batch.mask
    )
    rewards = beta * jnp.sum(gaps, axis=1)
    live = jnp.any(batch.mask > 0, axis=1)
    count = before['count'] + jnp.sum(live)
    # A batch without a single answer moves nothing.
    off = jnp.sum(jnp.where(live, rewards - before['mean'], 0.0))
    mean = before['mean'] + off / jnp.maximum(count, 1)
    after = {'mean': mean, 'count': count}
    after = jax.tree.map(lambda x, old: x.astype(old.dtype), after, before)
    shift = jnp.broadcast_to(mean, live.shape)
    batch = batch.replace(extras={**batch.extras, 'shift': shift})
    return batch, after, {'rewards/shift': mean}

  return Carry(lambda: {'mean': zero(), 'count': zero()}, enter)
