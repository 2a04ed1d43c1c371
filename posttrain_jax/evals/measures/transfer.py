"""What training in stages did to each task: forgetting and transfer.

Every function here reads the same table:

  f(table, learned_at)

  table       [stages, tasks] accuracy of each task after each stage of
              training; row 0 is the base model, the last row the final one
  learned_at  [tasks] ints: the stage (row) that trained on a task; 0 for what
              the base model brings along

Per-task results are [tasks], with nan where a task does not count; their means
are over the others, and nan where there are none. `table` may be traced (one of
each seed under `vmap`), `learned_at` may not.

Reference: Lopez-Paz & Ranzato (2017), https://arxiv.org/abs/1706.08840, section
2; Chaudhry et al. (2018), https://arxiv.org/abs/1801.10112, section 3
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  'backward_transfer',
  'forgetting',
  'forward_transfer',
  'retention',
  'transfer',
]

Array = jax.Array


def forgetting(table: Array, learned_at: Sequence[int]) -> Array:
  """Best accuracy before the last stage minus the final one, [tasks].

  Negative where a task is better than ever. What the last stage trained on
  does not count.

  Reference: Chaudhry et al. (2018), the forgetting measure
  """
  learned = _check(table, learned_at)
  lost = jnp.max(table[:-1], axis=0) - table[-1]
  return jnp.where(learned < table.shape[0] - 1, lost, jnp.nan)


def backward_transfer(table: Array, learned_at: Sequence[int]) -> Array:
  """Final accuracy minus that right after a task was learnt, [tasks].

  What the last stage trained on does not count.

  Reference: Lopez-Paz & Ranzato (2017), BWT (there averaged over tasks)
  """
  learned = _check(table, learned_at)
  change = table[-1] - _after_learning(table, learned)
  return jnp.where(learned < table.shape[0] - 1, change, jnp.nan)


def forward_transfer(table: Array, learned_at: Sequence[int]) -> Array:
  """Accuracy right before a task is trained on, minus the base's, [tasks].

  It is zero-shot: what the stages before taught of it. Tasks of the base model
  and of the first stage, which nothing comes before, do not count. The paper
  subtracts the accuracy of a random model; here it is that of the base.

  Reference: Lopez-Paz & Ranzato (2017), FWT (there averaged over tasks)
  """
  learned = _check(table, learned_at)
  before = np.maximum(learned - 1, 0)
  gained = table[before, np.arange(learned.size)] - table[0]
  return jnp.where(learned >= 2, gained, jnp.nan)


def retention(table: Array, learned_at: Sequence[int]) -> Array:
  """Final accuracy as a share of that right after learning, [tasks].

  Above 1 where a task has become better. What the last stage trained on does
  not count, nor does a task whose accuracy was 0: there is nothing to keep.
  """
  learned = _check(table, learned_at)
  earlier = _after_learning(table, learned)
  counts = (learned < table.shape[0] - 1) & (earlier > 0)
  share = table[-1] / jnp.where(counts, earlier, 1.0)
  return jnp.where(counts, share, jnp.nan)


def transfer(table: Array, learned_at: Sequence[int]) -> dict[str, Array]:
  """The means over tasks that count, and the final accuracy of all.

  Returns:
    average_accuracy, forgetting, backward_transfer, forward_transfer,
    retention.

  Raises:
    ValueError: the table has no second row, or a stage is not in it.
  """
  _check(table, learned_at)
  measures = (forgetting, backward_transfer, forward_transfer, retention)
  return {'average_accuracy': jnp.mean(table[-1])} | {
    measure.__name__: _mean(measure(table, learned_at)) for measure in measures
  }


def _after_learning(table: Array, learned: np.ndarray) -> Array:
  return table[learned, np.arange(learned.size)]


def _mean(values: Array) -> Array:
  # nanmean would do, but it divides 0 by 0 where no task counts.
  counts = ~jnp.isnan(values)
  total = jnp.sum(jnp.where(counts, values, 0.0))
  number = jnp.sum(counts)
  return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)


def _check(table: Array, learned_at: Sequence[int]) -> np.ndarray:
  learned = np.asarray(learned_at)
  if table.ndim != 2 or table.shape[0] < 2:
    raise ValueError(
      f'table {table.shape} is not [stages, tasks] with the base model and at '
      'least one stage of training'
    )
  if learned.shape != table.shape[1:]:
    raise ValueError(
      f'learned_at names the stages of {learned.size} tasks; the table has '
      f'{table.shape[1]}'
    )
  last = table.shape[0] - 1
  for task, stage in enumerate(learned.tolist()):
    if not 0 <= stage <= last:
      raise ValueError(
        f'learned_at[{task}]={stage} is no stage of 0..{last}; nearest valid: '
        f'{min(max(stage, 0), last)}'
      )
  return learned
