"""Digit sums: '427>19:' -> '3772', four digits from 2 to 7 that add up to 19.

A task with many right answers: what a policy does with the choice is what
measures of diversity see.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Task:
  """How many digits, the smallest and the largest one, and their sum.

  min_count  fewest digits that are asked for
  max_count  most digits
  min_digit  bounds are two different digits from here on
  max_digit  up to here
  slips      share of the oracle's answers that are wrong: one digit, at an even
             chance any, is another one within the bounds

  A problem is made from digits drawn evenly between its bounds. They are the
  oracle's answer, and given the prompt every right answer is equally likely to
  be that one. The verifier accepts any, in any order.
  """

  min_count: int = 3
  max_count: int = 5
  min_digit: int = 1
  max_digit: int = 9
  slips: float = 0.0

  def __post_init__(self):
    base.check(
      1 <= self.min_count <= self.max_count <= 9,
      f'digit_sums: needs 1 <= min_count={self.min_count} <= '
      f'max_count={self.max_count} <= 9',
    )
    base.check(
      0 <= self.min_digit < self.max_digit <= 9,
      f'digit_sums: needs 0 <= min_digit={self.min_digit} < '
      f'max_digit={self.max_digit} <= 9',
    )
    base.check(
      0.0 <= self.slips <= 1.0,
      f'digit_sums: slips={self.slips} is no share from 0 to 1',
    )

  @property
  def prompt_length(self) -> int:
    return 7

  @property
  def completion_length(self) -> int:
    return self.max_count + 1

  def sample(self, key: Array) -> Example:
    count_key, low_key, high_key, digit_key = jax.random.split(key, 4)
    draw = jax.random.randint
    count = draw(count_key, (), self.min_count, self.max_count + 1)
    low = draw(low_key, (), self.min_digit, self.max_digit)
    high = draw(high_key, (), low + 1, self.max_digit + 1)
    digits = draw(digit_key, (self.max_count,), low, high + 1)
    digits = jnp.where(jnp.arange(self.max_count) < count, digits, 0)
    target = jnp.sum(digits)
    prompt = vocab.join(
      *(vocab.number(value, 1) for value in (count, low, high)),
      vocab.literal('>'),
      vocab.number(target, 2),
      vocab.literal(':'),
    )
    answer = {
      'count': count, 'low': low, 'high': high, 'target': target,
      'digits': digits,
    }  # fmt: skip
    return base.example(prompt, answer, self.prompt_length)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'format': as many digits as asked, within the bounds."""
    answer = example.answer
    text = base.final_text(completion, mask)
    real = jnp.arange(text.tokens.shape[0]) < text.length
    digits = text.tokens - vocab.ZERO
    fits = (digits >= answer['low']) & (digits <= answer['high'])
    fair = jnp.all(fits | ~real) & (text.length == answer['count'])
    total = jnp.sum(jnp.where(real, digits, 0))
    return {
      'reward': (fair & (total == answer['target'])).astype(jnp.float32),
      'format': fair.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    """The digits that the problem was made from, one of them off in a slip."""
    answer = example.answer
    slip_key, place_key, digit_key = jax.random.split(key, 3)
    place = jax.random.randint(place_key, (), 0, answer['count'])
    slip = jax.random.bernoulli(slip_key, self.slips)
    slip = slip & (jnp.arange(self.max_count) == place)
    # A shift by 1 to high - low around the bounds: never the same digit.
    width = answer['high'] - answer['low'] + 1
    shift = jax.random.randint(digit_key, (), 1, width)
    digits = answer['digits']
    other = answer['low'] + (digits - answer['low'] + shift) % width
    digits = jnp.where(slip, other, digits) + vocab.ZERO
    text = Text(digits.astype(jnp.int32), answer['count'])
    return base.finish(text, self.completion_length)
