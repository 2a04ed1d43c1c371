"""Addition: '12+34=' -> '46', or digit by digit with carries before it."""

import dataclasses

import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Task:
  """Sum of two numbers of up to `num_digits` digits.

  num_digits       digits of the larger operands
  chain_of_thought the oracle writes 'a+b+carry=sum' of each column, lowest
                   first, then '>' and the answer
  reverse          the answer is written lowest digit first
  """

  num_digits: int = 3
  chain_of_thought: bool = False
  reverse: bool = False

  def __post_init__(self):
    base.check(
      1 <= self.num_digits <= 8,
      f'addition: num_digits={self.num_digits} is not in 1..8 (int32 sums)',
    )

  @property
  def prompt_length(self) -> int:
    return 2 * self.num_digits + 2

  @property
  def completion_length(self) -> int:
    thought = 9 * self.num_digits + 1 if self.chain_of_thought else 0
    return thought + self.num_digits + 2

  def sample(self, key: Array) -> Example:
    return base.two_numbers(key, self.num_digits, '+')

  def _answer(self, example: Example) -> Text:
    size = self.num_digits + 1
    text = vocab.number(example.answer['terms'].sum(), size)
    if not self.reverse:
      return text
    index = text.length - 1 - jnp.arange(size)
    flipped = jnp.where(index >= 0, text.tokens[index], vocab.PAD)
    return Text(flipped, text.length)

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
    columns = jnp.sum(
      jnp.maximum(first, second) >= 10 ** jnp.arange(1, self.num_digits)
    )
    carry, steps = jnp.int32(0), []
    for column in range(self.num_digits):
      a, b = first // 10**column % 10, second // 10**column % 10
      step = vocab.join(
        vocab.number(a, 1),
        vocab.literal('+'),
        vocab.number(b, 1),
        vocab.literal('+'),
        vocab.number(carry, 1),
        vocab.literal('='),
        vocab.number(a + b + carry, 2),
        vocab.literal(','),
      )
      used = (column <= columns).astype(jnp.int32)
      steps.append(Text(step.tokens, step.length * used))
      carry = (a + b + carry) // 10
    text = vocab.join(*steps, vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)
