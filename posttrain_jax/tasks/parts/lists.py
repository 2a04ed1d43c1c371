"""Texts of many pieces, joined in one step: number lists and lists of steps."""

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text


def concat(texts: Text) -> Text:
  """The rows of a batched Text (tokens [N, L], length [N]), one after another.

  The buffer has N * L slots. One scatter, where `vocab.join` makes one each.
  """
  return vocab.compact(texts.tokens.reshape(-1), texts.mask.reshape(-1))


def numbers(values: Array, keep: Array, max_digits: int) -> Text:
  """The kept ones of `values` [N], comma separated; `keep` [N] is bool."""
  rows = jax.vmap(lambda value: vocab.number(value, max_digits))(values)
  size = values.shape[0]
  tokens = jnp.concatenate(
    [jnp.full((size, 1), vocab.token(',')), rows.tokens], axis=1
  )
  # The comma stands before each number but the first kept one.
  comma = keep & (jnp.cumsum(keep) > 1)
  mask = jnp.concatenate(
    [comma[:, None], (rows.mask != 0) & keep[:, None]], axis=1
  )
  return vocab.compact(tokens.reshape(-1), mask.reshape(-1))
