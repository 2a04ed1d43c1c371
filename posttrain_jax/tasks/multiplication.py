"""Multiplication: '12*34=' -> '408', or by partial products before it."""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Task:
  """Product of two numbers of up to `num_digits` digits.

  num_digits       digits of the larger operands
  chain_of_thought the oracle multiplies by each digit of the second operand,
                   lowest first, and keeps a running total, as in
                   '12*4=48,12*30=360,48+360=408,>408'
  """

  num_digits: int = 2
  chain_of_thought: bool = False

  def __post_init__(self):
    base.check(
      1 <= self.num_digits <= 4,
      f'multiplication: num_digits={self.num_digits} is not in 1..4 (int32 '
      'products)',
    )

  @property
  def prompt_length(self) -> int:
    return 2 * self.num_digits + 2

  @property
  def completion_length(self) -> int:
    n, thought = self.num_digits, 0
    if self.chain_of_thought:
      products = sum(2 * n + 2 * column + 5 for column in range(n))
      totals = sum(3 * n + 3 * column + 5 for column in range(1, n))
      thought = products + totals + 1
    return thought + 2 * n + 1

  def sample(self, key: Array) -> Example:
    return base.two_numbers(key, self.num_digits, '*')

  def _answer(self, example: Example) -> Text:
    return vocab.number(example.answer['terms'].prod(), 2 * self.num_digits)

  def identity(self, example: Example) -> Array:
    """The two numbers, whichever comes first."""
    return jnp.sort(example.answer['terms'])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return base.exact_match(self._answer(example), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    answer = self._answer(example)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    first, second = example.answer['terms']
    size = 2 * self.num_digits

    def step(column):
      power = 10**column
      multiplier = second // power % 10 * power
      before = first * (second % power)
      product = vocab.join(
        vocab.number(first, self.num_digits),
        vocab.literal('*'),
        vocab.number(multiplier, self.num_digits),
        vocab.literal('='),
        vocab.number(first * multiplier, size),
        vocab.literal(','),
      )
      total = vocab.join(
        vocab.number(before, size),
        vocab.literal('+'),
        vocab.number(first * multiplier, size),
        vocab.literal('='),
        vocab.number(before + first * multiplier, size),
        vocab.literal(','),
      )
      empty = vocab.literal('')
      text = vocab.join(product, vocab.where(column > 0, total, empty))
      used = (column == 0) | (second >= power)
      return vocab.where(used, text, empty)

    steps = lists.concat(jax.vmap(step)(jnp.arange(self.num_digits)))
    text = vocab.join(steps, vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)
