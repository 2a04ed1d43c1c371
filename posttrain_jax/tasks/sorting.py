"""Sorting: '<31,4,15=' -> '4,15,31', or by selection before it."""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists
from posttrain_jax.tasks.vocab import Text

SIGNS = {'ascending': '<', 'descending': '>'}


@dataclasses.dataclass(frozen=True)
class Task:
  """Sorts `length` numbers from 0 to `max_value`; they may repeat.

  order            'ascending' (the prompt starts with '<') or 'descending'
                   (it starts with '>')
  chain_of_thought the oracle takes out the next number and writes what is
                   left, as in '4:31,15;15:31;>4,15,31'
  """

  length: int = 5
  max_value: int = 99
  order: str = 'ascending'
  chain_of_thought: bool = False

  def __post_init__(self):
    base.check(
      2 <= self.length <= 64, f'sorting: length={self.length} is not in 2..64'
    )
    base.check(
      1 <= self.max_value <= 99_999_999,
      f'sorting: max_value={self.max_value} is not in 1..99999999',
    )
    base.check(
      self.order in SIGNS,
      f'sorting: unknown order "{self.order}".{nearest(self.order, SIGNS)}',
    )

  @property
  def _digits(self) -> int:
    return len(str(self.max_value))

  def _list_length(self, count: int) -> int:
    return count * (self._digits + 1) - 1

  @property
  def prompt_length(self) -> int:
    return self._list_length(self.length) + 2

  @property
  def completion_length(self) -> int:
    thought = 0
    if self.chain_of_thought:
      # Each step is one number, ':', the rest and ';'.
      rests = [self._list_length(count) for count in range(1, self.length)]
      thought = sum(rests) + (self.length - 1) * (self._digits + 2) + 1
    return thought + self._list_length(self.length) + 1

  def sample(self, key: Array) -> Example:
    values = jax.random.randint(key, (self.length,), 0, self.max_value + 1)
    prompt = vocab.join(
      vocab.literal(SIGNS[self.order]),
      lists.numbers(values, jnp.ones(self.length, bool), self._digits),
      vocab.literal('='),
    )
    return base.example(prompt, {'values': values}, self.prompt_length)

  def _places(self, example: Example) -> Array:
    """Index of the number that comes first, second, ... [length]."""
    values = example.answer['values']
    return jnp.argsort(values if self.order == 'ascending' else -values)

  def _answer(self, example: Example) -> Text:
    values = example.answer['values'][self._places(example)]
    return lists.numbers(values, jnp.ones(self.length, bool), self._digits)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return base.exact_match(self._answer(example), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    answer = self._answer(example)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    values, places = example.answer['values'], self._places(example)
    rank = jnp.argsort(places)

    def step(taken):
      return vocab.join(
        vocab.number(values[places[taken]], self._digits),
        vocab.literal(':'),
        lists.numbers(values, rank > taken, self._digits),
        vocab.literal(';'),
      )

    steps = lists.concat(jax.vmap(step)(jnp.arange(self.length - 1)))
    text = vocab.join(steps, vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)
