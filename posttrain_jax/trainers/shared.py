"""Scoring the rows of an RL batch with their prompts read once.

Rows 'prompt completion padding' are taken apart again: the prompt of each
group of rows, and the completions (`models.grouped`). Their numbers come back
in the places of the rows, so that nothing else has to know.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Batch, PyTree, TokenSignals
from posttrain_jax.models import grouped
from posttrain_jax.models.config import ModelConfig

__all__ = ['Shared']


@dataclasses.dataclass(frozen=True)
class Shared:
  """How the rows of a batch share prompts; the batch says where they end.

  prompt_length  P, columns that a prompt may have
  group_size     rows of one prompt, next to each other
  parts          sizes that the stream of tokens is compiled for: of 1 / parts,
                 2 / parts ... of all columns the first that is enough is run.
                 1: all columns, in rectangles
  """

  prompt_length: int
  group_size: int
  parts: int = 1

  def with_group(self, group_size: int) -> 'Shared':
    """The same for groups of another size."""
    return dataclasses.replace(self, group_size=group_size)

  def _taken_apart(self, batch: Batch):
    """(prompts, their real tokens, places of the completions [R, C])."""
    lengths = batch.need('starts')[:: self.group_size]
    columns = jnp.arange(self.prompt_length)
    prompts = batch.tokens[:: self.group_size, : self.prompt_length]
    prompt_real = columns[None] < lengths[:, None]
    width = batch.tokens.shape[1] - self.prompt_length
    starts = jnp.repeat(lengths, self.group_size)
    return prompts, prompt_real, starts[:, None] + jnp.arange(width)[None]

  def sizes(self, batch: Batch) -> list[int | None]:
    """Stream sizes to compile for, growing; the last always suffices."""
    rows, width = batch.tokens.shape
    total = rows // self.group_size * self.prompt_length
    total += rows * (width - self.prompt_length)
    return [*grouped.stream_sizes(total, self.parts)[:-1], None]

  def choice(self, batch: Batch) -> Array:
    """[] index of the smallest of `sizes` that holds the real tokens."""
    _, prompt_real, places = self._taken_apart(batch)
    real = jnp.take_along_axis(batch.segment_ids > 0, places, axis=1)
    needed = jnp.sum(prompt_real) + jnp.sum(real)
    parts = grouped.parts_of(prompt_real.shape[0], real.shape[0])
    if parts > 1:  # the fullest of several streams decides
      own = lambda x: jnp.sum(x.reshape(parts, -1), axis=1)
      needed = parts * jnp.max(own(prompt_real) + own(real))
    limits = jnp.array([s for s in self.sizes(batch) if s is not None], int)
    return jnp.sum(needed > limits)

  def score(
    self,
    params: PyTree,
    config: ModelConfig,
    batch: Batch,
    temperature: Any = 1.0,
    size: int | None = None,
    **wanted: bool,
  ) -> TokenSignals:
    """`transformer.token_logps` of the rows, [R, T] arrays.

    size  one of `sizes`
    """
    prompts, prompt_real, places = self._taken_apart(batch)

    def take(x):
      index = places.reshape(places.shape + (1,) * (x.ndim - 2))
      return jnp.take_along_axis(x, index, axis=1)

    found = grouped.group_token_logps(
      params,
      config,
      prompts,
      prompt_real,
      take(batch.tokens),
      take(batch.segment_ids),
      take(batch.mask),
      temperature,
      jax.tree.map(take, batch.guide),
      size=size,
      **wanted,
    )
    starts = places[:, :1]
    column = jnp.arange(batch.tokens.shape[1])[None] - starts
    inside = (column >= 0) & (column < places.shape[1])
    column = jnp.clip(column, 0, places.shape[1] - 1)

    def back(x):
      more = (1,) * (x.ndim - 2)
      index = column.reshape(column.shape + more)
      there = inside.reshape(inside.shape + more)
      return jnp.where(there, jnp.take_along_axis(x, index, axis=1), 0)

    return jax.tree.map(back, found)

  def score_once(
    self,
    params: PyTree,
    config: ModelConfig,
    batch: Batch,
    temperature: Any = 1.0,
    **wanted: bool,
  ) -> TokenSignals:
    """`score` at the size that is enough; not to be differentiated."""
    branches = [
      lambda batch, size=size: self.score(
        params, config, batch, temperature, size, **wanted
      )
      for size in self.sizes(batch)
    ]
    if len(branches) == 1:
      return branches[0](batch)
    return jax.lax.switch(self.choice(batch), branches, batch)
