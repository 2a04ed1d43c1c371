"""What a decode loop is given, whichever way it goes about it."""

import dataclasses
from collections.abc import Callable

import jax

from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.types import Array, PyTree

__all__ = ['Work']


@dataclasses.dataclass(frozen=True)
class Work:
  """What is to be decoded: N = B * group_size completions.

  prefix          a filled cache of the B prompts
  first_logits    [B, V] of each prompt's first new token
  prompt_lengths  [B]
  keys            [N] one key a completion
  max_new_tokens  C
  """

  params: PyTree
  config: ModelConfig
  prefix: transformer.Cache
  first_logits: Array
  prompt_lengths: Array
  keys: Array
  group_size: int
  max_new_tokens: int
  decoder: Callable
  eos_id: int
  pad_id: int

  @property
  def count(self) -> int:
    """N."""
    return self.keys.shape[0]

  def draw(self, logits: Array, rows: Array, t: Array) -> tuple[Array, Array]:
    """Tokens number t [R] of completions `rows` [R] from logits [R, V]."""
    return self.decoder(
      logits, jax.vmap(jax.random.fold_in)(self.keys[rows], t)
    )
