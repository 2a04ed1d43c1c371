"""The 64 characters of the in-graph tasks, and in-graph string building.

A `Text` is a right-padded buffer and a length; `number`, `literal` and `join`
build prompts and solutions of varying length under jit and vmap.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array

PAD, EOS, BOS, SEP = 0, 1, 2, 3
SPECIAL = ('<pad>', '<eos>', '<bos>', '<sep>')
CHARACTERS = '0123456789abcdefghijklmnopqrstuvwxyz+-*/=(),.:;><#?_ \n|[]@%&'
VOCAB_SIZE = len(SPECIAL) + len(CHARACTERS)
ZERO = len(SPECIAL)  # the token of '0'; digits follow in order
_IDS = {character: ZERO + i for i, character in enumerate(CHARACTERS)}


def encode(text: str) -> np.ndarray:
  """Token ids of `text`, on the host.

  Raises:
    ValueError: a character outside the alphabet.
  """
  for position, character in enumerate(text):
    if character not in _IDS:
      raise ValueError(
        f'character {character!r} at position {position} of {text!r} is not '
        f'one of {CHARACTERS!r}'
      )
  return np.array([_IDS[character] for character in text], np.int32)


def token(character: str) -> int:
  """The id of one character."""
  return _IDS[character]


def decode(tokens, mask=None) -> str:
  """Text of token ids, on the host; specials are shown by their names."""
  tokens = np.asarray(tokens)
  if mask is not None:
    tokens = tokens[np.asarray(mask) != 0]
  return ''.join(
    CHARACTERS[i - ZERO] if ZERO <= i < VOCAB_SIZE else SPECIAL[i]
    for i in tokens.tolist()
  )


class Text(NamedTuple):
  """tokens [..., L] int32, 0 from `length` on; length [...] int32."""

  tokens: Array
  length: Array

  @property
  def mask(self) -> Array:
    shape = self.tokens.shape
    index = jnp.broadcast_to(jnp.arange(shape[-1]), shape)
    return (index < self.length[..., None]).astype(jnp.float32)


@functools.cache
def _literal_ids(text: str) -> np.ndarray:
  return encode(text)


def literal(text: str) -> Text:
  """A constant string."""
  ids = _literal_ids(text)
  return Text(jnp.asarray(ids), jnp.int32(len(ids)))


def special(token_id: int) -> Text:
  """One special token, as `special(EOS)`."""
  return Text(jnp.full((1,), token_id, jnp.int32), jnp.int32(1))


def char(token_id: Array) -> Text:
  """One (traced) token."""
  return Text(jnp.reshape(token_id, (1,)).astype(jnp.int32), jnp.int32(1))


def number(value: Array, max_digits: int) -> Text:
  """A non-negative integer in decimal, most significant digit first.

  The buffer has `max_digits` slots; more digits than that are cut off.
  """
  powers = 10 ** jnp.arange(max_digits - 1, -1, -1)
  digits = (jnp.asarray(value)[..., None] // powers) % 10
  length = jnp.maximum(jnp.sum(jnp.asarray(value) >= powers), 1)
  shifted = jnp.roll(digits, length - max_digits)
  keep = jnp.arange(max_digits) < length
  return Text(
    jnp.where(keep, shifted + ZERO, PAD).astype(jnp.int32),
    length.astype(jnp.int32),
  )


def signed(value: Array, max_digits: int) -> Text:
  """An integer with a leading '-' where it is negative."""
  value = jnp.asarray(value)
  sign = Text(
    jnp.full((1,), token('-'), jnp.int32), (value < 0).astype(jnp.int32)
  )
  return join(sign, number(jnp.abs(value), max_digits))


def where(condition: Array, first: Text, second: Text) -> Text:
  """`first` where `condition`, else `second`."""
  size = max(first.tokens.shape[0], second.tokens.shape[0])
  first, second = fit(first, size), fit(second, size)
  return Text(
    jnp.where(condition, first.tokens, second.tokens),
    jnp.where(condition, first.length, second.length),
  )


def fit(text: Text, size: int) -> Text:
  """The same text in a buffer of `size`; what does not fit is cut off."""
  tokens = text.tokens[:size]
  tokens = jnp.pad(tokens, (0, size - tokens.shape[0]))
  return Text(tokens, jnp.minimum(text.length, size))


def join(*texts: Text, size: int | None = None) -> Text:
  """Concatenation without gaps, in a buffer of `size` (default: the sum)."""
  tokens = jnp.concatenate([text.tokens for text in texts])
  total = tokens.shape[0]
  size = total if size is None else size
  # Each slot looks up where it comes from: a gather compiles a quarter faster
  # than scattering every text.
  slot = jnp.arange(size)
  source, start, offset = slot, jnp.int32(0), 0
  for text in texts:
    source = jnp.where(slot >= start, slot - start + offset, source)
    start = start + text.length
    offset += text.tokens.shape[0]
  length = jnp.minimum(start, size)
  found = tokens[jnp.minimum(source, total - 1)]
  return Text(jnp.where(slot < length, found, PAD), length)


def is_digit(tokens: Array) -> Array:
  """True on digit tokens."""
  return (tokens >= ZERO) & (tokens < ZERO + 10)


def before_eos(tokens: Array, mask: Array) -> Array:
  """1.0 on counted tokens before the first EOS: the text of a completion."""
  ended = jnp.cumsum((tokens == EOS) & (mask != 0), axis=-1) > 0
  return jnp.where(ended, 0.0, (mask != 0).astype(jnp.float32))


def after_last(tokens: Array, mask: Array, marker: int) -> Array:
  """1.0 on counted tokens after the last `marker`; all of them without one."""
  hit = (tokens == marker) & (mask != 0)
  index = jnp.arange(tokens.shape[-1])
  last = jnp.max(jnp.where(hit, index, -1), axis=-1, keepdims=True)
  return jnp.where(index > last, mask, 0.0)


def compact(tokens: Array, mask: Array) -> Text:
  """The counted tokens of an unbatched buffer, moved to its front."""
  size = tokens.shape[0]
  position = jnp.cumsum(mask != 0) - 1
  target = jnp.where(mask != 0, position, size)
  buffer = jnp.zeros((size + 1,), jnp.int32).at[target].set(tokens)
  length = jnp.sum(mask != 0).astype(jnp.int32)
  keep = jnp.arange(size) < length
  return Text(jnp.where(keep, buffer[:size], PAD), length)


def equal(first: Text, second: Text) -> Array:
  """Whether two texts are the same, whatever their buffers' sizes."""
  size = max(first.tokens.shape[0], second.tokens.shape[0])
  first, second = fit(first, size), fit(second, size)
  same = jnp.all(
    jnp.where(jnp.arange(size) < first.length, first.tokens, PAD)
    == jnp.where(jnp.arange(size) < second.length, second.tokens, PAD)
  )
  return same & (first.length == second.length)


def parse_number(text: Text) -> tuple[Array, Array]:
  """(value, ok) of a text that is one non-negative integer of <= 9 digits."""
  keep = jnp.arange(text.tokens.shape[0]) < text.length
  digits = jnp.where(keep, text.tokens - ZERO, 0)
  power = jnp.where(keep, text.length - 1 - jnp.arange(keep.shape[0]), 0)
  ok = jnp.all(is_digit(text.tokens) | ~keep) & (text.length > 0)
  ok &= text.length <= 9
  value = jnp.sum(jnp.where(keep & ok, digits * 10 ** jnp.minimum(power, 8), 0))
  return value.astype(jnp.int32), ok
