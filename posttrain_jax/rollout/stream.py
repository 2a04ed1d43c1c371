"""One completion at a time, each of its tokens as soon as it is drawn."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.stops import Ends, several
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import layout
from posttrain_jax.rollout.work import prefill

__all__ = ['Stream']

WIDTH = 32  # prompts are padded to a multiple: programs are used again


class Stream:
  """Tokens of completions, those that `rollout.generate` draws with the key.

  Two programs are compiled: one reads a prompt (for each of its padded widths),
  one makes a token (for each number of new tokens). The host sees every token,
  and need not ask for another.

  Args:
    params: of the model.
    config: the model.
    decoder: from `rollout.decoders`.
    eos_id: the token, or tokens, that end a completion; the last one given.
    pad_id: what prompts are filled up with.
  """

  def __init__(
    self,
    params: PyTree,
    config: ModelConfig,
    *,
    decoder: Callable,
    eos_id: Ends,
    pad_id: int = 0,
  ):
    self._config, self._decoder, self._pad = config, decoder, pad_id
    self._ends = several(eos_id)
    # Once, and not at every token.
    _, self._params = layout.weights(params, config)
    self._read = jax.jit(functools.partial(_read, config, decoder))
    self._next = jax.jit(
      functools.partial(_next, config, decoder), donate_argnames='cache'
    )

  def __call__(
    self,
    prompt: Sequence[int],
    key: Array,
    *,
    max_new_tokens: int,
    prompt_id: int = 0,
    sample: int = 0,
  ) -> Iterator[int]:
    """Yields the tokens of one completion, the one that ends it included.

    prompt     ids, at least one
    key        as in `rollout.generate`
    prompt_id  identity of the prompt; sample: number of the completion
    """
    if not len(prompt):
      raise ValueError('an empty prompt: there is no token to go on from')
    size = -(-len(prompt) // WIDTH) * WIDTH
    tokens = np.full((1, size), self._pad, np.int32)
    tokens[0, : len(prompt)] = prompt
    mask = np.zeros((1, size), np.float32)
    mask[0, : len(prompt)] = 1.0
    row = jax.random.fold_in(jax.random.fold_in(key, prompt_id), sample)[None]
    token, prefix = self._read(self._params, tokens, mask, row)
    cache = transformer.init_cache(self._config, 1, max_new_tokens)
    for t in range(1, max_new_tokens + 1):
      found = int(token[0])
      yield found
      if found in self._ends or t == max_new_tokens:
        return
      token, cache = self._next(
        self._params,
        prefix=prefix,
        cache=cache,
        token=token,
        place=np.int32(len(prompt) + t - 1),
        t=np.int32(t),
        row=row,
      )


def _draw(decoder: Callable, logits: Array, row: Array, t: Array) -> Array:
  """Token number t [1] of a completion, from logits [1, V]."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(row, t)
  return decoder(logits, keys)[0]


def _read(
  config: ModelConfig,
  decoder: Callable,
  params: PyTree,
  prompt: Array,
  mask: Array,
  row: Array,
) -> tuple[Array, transformer.Cache]:
  logits, prefix = prefill(params, params, config, prompt, mask)
  return _draw(decoder, logits, row, jnp.int32(0)), prefix


def _next(
  config: ModelConfig,
  decoder: Callable,
  params: PyTree,
  prefix: transformer.Cache,
  cache: transformer.Cache,
  token: Array,
  place: Array,
  t: Array,
  row: Array,
) -> tuple[Array, transformer.Cache]:
  logits, after = transformer.apply(
    params,
    config,
    token[:, None],
    positions=jnp.full((1, 1), place, jnp.int32),
    cache=cache.replace(prefix=prefix),
  )
  assert after is not None  # One was given.
  return _draw(decoder, logits[:, 0], row, t), after.own()
