"""Picks: '3<qdkaxmpe:' -> 'dkq', three of the shown letters, in their order.

A task with many right answers and many problems, whose mistakes can be seen
where they are made: what a reward model learns of one problem holds for others.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

ALPHABET = 'abcdefghijklmnopqrstuvwxyz'
FIRST = vocab.token('a')


@dataclasses.dataclass(frozen=True)
class Task:
  """`shown` different letters, of which an answer has as many as are asked for.

  min_count  fewest letters that are asked for
  max_count  most
  shown      letters of a prompt, in any order
  letters    those that are drawn from, in the order of the alphabet
  slips      share of the oracle's answers that are wrong: one letter, at an
             even chance any, is one that is not shown

  Right is any answer of so many shown letters, each after the one before it in
  the alphabet. The oracle's is drawn evenly from all of them.
  """

  min_count: int = 2
  max_count: int = 4
  shown: int = 8
  letters: str = ALPHABET
  slips: float = 0.0

  def __post_init__(self):
    known = self.letters == ''.join(x for x in ALPHABET if x in self.letters)
    base.check(
      known,
      f'picks: letters={self.letters!r} must be some of {ALPHABET!r}, in their '
      'order, each once',
    )
    base.check(
      1 <= self.min_count <= self.max_count <= 9,
      f'picks: needs 1 <= min_count={self.min_count} <= '
      f'max_count={self.max_count} <= 9',
    )
    base.check(
      self.max_count <= self.shown < len(self.letters),
      f'picks: needs max_count={self.max_count} <= shown={self.shown} < '
      f'{len(self.letters)}, the number of letters',
    )
    base.check(
      0.0 <= self.slips <= 1.0,
      f'picks: slips={self.slips} is no share from 0 to 1',
    )

  @property
  def prompt_length(self) -> int:
    return self.shown + 3

  @property
  def completion_length(self) -> int:
    return self.max_count + 1

  def sample(self, key: Array) -> Example:
    count_key, letter_key = jax.random.split(key)
    count = jax.random.randint(
      count_key, (), self.min_count, self.max_count + 1
    )
    codes = jnp.asarray(vocab.encode(self.letters)) - FIRST
    drawn = jax.random.permutation(letter_key, codes)[: self.shown]
    prompt = vocab.join(
      vocab.number(count, 1),
      vocab.literal('<'),
      Text(drawn + FIRST, jnp.int32(self.shown)),
      vocab.literal(':'),
    )
    shown = jnp.zeros(len(ALPHABET), bool).at[drawn].set(True)
    answer = {'count': count, 'shown': shown}
    return base.example(prompt, answer, self.prompt_length)

  def identity(self, example: Example) -> Array:
    """The number and the set of letters: their order says nothing."""
    answer = example.answer
    shown = answer['shown'].astype(jnp.int32)
    return jnp.concatenate([answer['count'][None].astype(jnp.int32), shown])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'format': as many letters as asked for, each after the one
    before it, shown or not."""
    answer = example.answer
    text = base.final_text(completion, mask)
    real = jnp.arange(text.tokens.shape[0]) < text.length
    code = text.tokens - FIRST
    letter = (code >= 0) & (code < len(ALPHABET))
    known = answer['shown'][jnp.clip(code, 0, len(ALPHABET) - 1)] & letter
    rising = (code[1:] > code[:-1]) | ~real[1:]
    formed = jnp.all(letter | ~real) & jnp.all(rising)
    formed &= text.length == answer['count']
    return {
      'reward': (formed & jnp.all(known | ~real)).astype(jnp.float32),
      'format': formed.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    """Letters of an even draw; in a slip one of them is not a shown one."""
    answer = example.answer
    pick_key, slip_key, place_key, other_key = jax.random.split(key, 4)
    size = len(ALPHABET)
    noise = jax.random.uniform(pick_key, (size,))
    rank = jnp.argsort(jnp.argsort(jnp.where(answer['shown'], -noise, 1.0)))
    taken = rank < answer['count']
    place = jnp.arange(size)
    code = jnp.sort(jnp.where(taken, place, size))[: self.max_count]
    slip = jax.random.bernoulli(slip_key, self.slips)
    off = jax.random.randint(place_key, (), 0, answer['count'])
    known = jnp.asarray([x in self.letters for x in ALPHABET])
    fits = known & ~answer['shown']
    noise = jax.random.uniform(other_key, (size,))
    other = jnp.argmax(jnp.where(fits, noise, -1.0))
    off = slip & (jnp.arange(self.max_count) == off)
    tokens = (jnp.where(off, other, code) + FIRST).astype(jnp.int32)
    text = Text(tokens, answer['count'])
    return base.finish(text, self.completion_length)
