"""Modular arithmetic: '(12*34)%97=' -> '20', or by division before it."""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

OPERATIONS = '+-*'


@dataclasses.dataclass(frozen=True)
class Task:
  """(a op b) mod p, for a and b uniform below the modulus.

  modulus          p; the answer is in 0..p-1, after a subtraction too
  operations       which of '+-*' are asked, each equally often
  chain_of_thought the oracle writes the value, its quotient and remainder, as
                   in '408=97*4+20>20' or '-22=97*-1+75>75'
  """

  modulus: int = 97
  operations: str = OPERATIONS
  chain_of_thought: bool = False

  def __post_init__(self):
    base.check(
      2 <= self.modulus <= 9999,
      f'modular: modulus={self.modulus} is not in 2..9999 (int32 products)',
    )
    known = set(self.operations) <= set(OPERATIONS)
    distinct = len(set(self.operations)) == len(self.operations)
    base.check(
      len(self.operations) > 0 and known and distinct,
      f'modular: operations={self.operations!r} must be some of '
      f'{OPERATIONS!r}, each once',
    )

  @property
  def _digits(self) -> tuple[int, int, int]:
    """Digits of an operand, of the largest value and of its quotient."""
    top = self.modulus - 1
    largest = max(2 * top, top * top)
    return tuple(len(str(x)) for x in (top, largest, largest // self.modulus))

  @property
  def prompt_length(self) -> int:
    return 2 * self._digits[0] + len(str(self.modulus)) + 5

  @property
  def completion_length(self) -> int:
    operand, value, quotient = self._digits
    thought = 0
    if self.chain_of_thought:
      # Six signs: two minuses, '=', '*', '+', '>'.
      thought = value + quotient + operand + len(str(self.modulus)) + 6
    return thought + operand + 1

  def sample(self, key: Array) -> Example:
    term_key, operation_key = jax.random.split(key)
    terms = jax.random.randint(term_key, (2,), 0, self.modulus)
    operations = jnp.asarray(vocab.encode(self.operations))
    operation = jax.random.choice(operation_key, operations)
    prompt = vocab.join(
      vocab.literal('('),
      vocab.number(terms[0], self._digits[0]),
      vocab.char(operation),
      vocab.number(terms[1], self._digits[0]),
      vocab.literal(f')%{self.modulus}='),
    )
    answer = {'terms': terms, 'operation': operation}
    return base.example(prompt, answer, self.prompt_length)

  def _value(self, example: Example) -> Array:
    a, b = example.answer['terms']
    operation = example.answer['operation']
    is_plus = operation == vocab.token('+')
    is_minus = operation == vocab.token('-')
    return jnp.select([is_plus, is_minus], [a + b, a - b], a * b)

  def _answer(self, example: Example) -> Text:
    return vocab.number(self._value(example) % self.modulus, self._digits[0])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return base.exact_match(self._answer(example), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    answer = self._answer(example)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    value = self._value(example)
    text = vocab.join(
      vocab.signed(value, self._digits[1]),
      vocab.literal(f'={self.modulus}*'),
      vocab.signed(value // self.modulus, self._digits[2]),
      vocab.literal('+'),
      answer,
      vocab.literal('>'),
      answer,
    )
    return base.finish(text, self.completion_length)
