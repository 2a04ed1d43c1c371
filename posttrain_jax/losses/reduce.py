"""How token losses become one number: a sum and what to divide it by.

Every function is called the same way:

  total, count = reduce(token_loss, mask, **hparams)

  token_loss  [B, T]  what a loss returned, 0 where masked
  mask        [B, T]  1.0 on tokens that count
  total       []      numerator
  count       []      denominator

Both are added over micro-batches and devices and divided once, at the end, so
the result does not depend on how rows were split. (A mean of micro-batch means
would weight a token by the company it keeps.) Rows with an all-zero mask are
padding: no function counts them.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes

__all__ = [
  'fixed_length',
  'prompt_mean',
  'sequence_mean',
  'sequence_sum',
  'token_mean',
]

Array = jax.Array
SumCount = tuple[Array, Array]


def _real_rows(token_loss: Array, mask: Array) -> Array:
  return jnp.any(mask != 0, axis=1).astype(token_loss.dtype)


def token_mean(token_loss: Array, mask: Array) -> SumCount:
  """Mean over all tokens: long sequences weigh more (DAPO, plain SFT).

  Reference: Yu et al. (2025), https://arxiv.org/abs/2503.14476 eq. 12
  """
  return masked.sum(token_loss, mask), jnp.sum(mask).astype(token_loss.dtype)


def sequence_mean(token_loss: Array, mask: Array) -> SumCount:
  """Mean over sequences of each one's token mean (GRPO, GSPO).

  A token of a long sequence weighs less than one of a short sequence.

  Reference: Shao et al. (2024), https://arxiv.org/abs/2402.03300 eq. 3
  """
  per_row = masked.mean(token_loss, mask, axis=1)
  return jnp.sum(per_row), jnp.sum(_real_rows(token_loss, mask))


def sequence_sum(token_loss: Array, mask: Array) -> SumCount:
  """Mean over sequences of each one's token sum: the sequence as one action.

  Reference: Ahmadian et al. (2024), https://arxiv.org/abs/2402.14740 eq. 6
  """
  total = masked.sum(token_loss, mask)
  return total, jnp.sum(_real_rows(token_loss, mask))


def fixed_length(
  token_loss: Array, mask: Array, *, length: float = 0.0
) -> SumCount:
  """`sequence_sum` over a constant, so that no length is preferred (Dr.GRPO).

  Args:
    length: tokens that the constant stands for, usually the generation budget
      (0: the width T of a row). It scales the loss and must not change during
      a run.

  Reference: Liu et al. (2025), https://arxiv.org/abs/2503.20783 section 3.2
  """
  total, rows = sequence_sum(token_loss, mask)
  return total / jnp.where(length > 0, length, token_loss.shape[1]), rows


def prompt_mean(
  token_loss: Array, mask: Array, *, group_size: int = 1
) -> SumCount:
  """Token mean within each prompt's group, then the mean over prompts.

  Rows come group by group; splits into micro-batches must keep groups whole.
  Prompts weigh the same however long their completions are.

  Args:
    group_size: rows of one prompt (1: the same as `sequence_mean`).

  Raises:
    ValueError: the number of rows is no multiple of `group_size`.
  """
  rows = token_loss.shape[0]
  if isinstance(group_size, int) and (group_size < 1 or rows % group_size):
    raise ValueError(
      f'group_size={group_size} does not divide the {rows} rows of the batch'
    )
  # Segment sums, not a reshape: group_size may be traced in a sweep.
  group = jnp.arange(rows) // group_size
  loss = masked.sum(token_loss, mask, axis=1)
  tokens = jnp.sum(mask, axis=1).astype(token_loss.dtype)
  loss = jax.ops.segment_sum(loss, group, num_segments=rows)
  tokens = jax.ops.segment_sum(tokens, group, num_segments=rows)
  real = (tokens > 0).astype(token_loss.dtype)
  return jnp.sum(loss / jnp.maximum(tokens, 1.0)), jnp.sum(real)


shapes.checked(globals(), __all__)
