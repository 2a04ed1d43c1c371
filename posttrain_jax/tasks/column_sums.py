"""Sums by columns, every step of which can be judged: '257+68=' ->
'15,12,3,>325'.

A thought has the sum of each column with what is carried into it, the lowest
first; after '>' the sum stands. Writers may forget a carry, and may stop to
think early, so that a policy can be right more often, or sooner.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Task:
  """Sum of two numbers of up to `num_digits` digits.

  num_digits    digits of the larger operands
  least_digits  of the smaller ones
  chain_of_thought  the oracle writes the columns and '>' before the sum

  slips  chance, in each column but the lowest, that the writer of a
         demonstration forgets what is carried into it, in the columns and in
         the sum alike
  cut    share of demonstrations whose thought ends early, after as many columns
         as is drawn, from none to all but one: who has seen some can answer
         when told to

  The columns are not judged by `verify`, but by `segments`. `slips` and `cut`
  may be traced.
  """

  num_digits: int = 3
  least_digits: int = 1
  chain_of_thought: bool = True
  slips: float = 0.0
  cut: float = 0.0

  def __post_init__(self):
    base.check(
      1 <= self.num_digits <= 8,
      f'column_sums: num_digits={self.num_digits} is not in 1..8 (int32 sums)',
    )
    base.check(
      1 <= self.least_digits <= self.num_digits,
      f'column_sums: least_digits={self.least_digits} is not in 1..num_digits='
      f'{self.num_digits}',
    )
    for name in ('slips', 'cut'):
      value = getattr(self, name)
      traced = isinstance(value, jax.core.Tracer)
      base.check(
        traced or 0.0 <= value <= 1.0,
        f'column_sums: {name}={value} is no share from 0 to 1',
      )
      base.check(
        self.chain_of_thought or (not traced and value == 0),
        f'column_sums: {name}={value} is of the columns, which '
        'chain_of_thought=false leaves out',
      )

  @property
  def prompt_length(self) -> int:
    return 2 * self.num_digits + 2

  @property
  def completion_length(self) -> int:
    thought = 3 * self.num_digits + 1 if self.chain_of_thought else 0
    return thought + self.num_digits + 2

  def sample(self, key: Array) -> Example:
    return base.two_numbers(key, self.num_digits, '+', self.least_digits)

  def identity(self, example: Example) -> Array:
    """The two numbers, whichever comes first."""
    return jnp.sort(example.answer['terms'])

  def _answer(self, value: Array) -> Text:
    return vocab.number(value, self.num_digits + 1)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    right = self._answer(example.answer['terms'].sum())
    return base.exact_match(right, completion, mask, '>')

  def _columns(self, example: Example, slips: Array) -> tuple[Array, Array]:
    """(sum of each column [n], how many columns there are), where what is
    carried into a column is forgotten that `slips` [n] says."""
    first, second = example.answer['terms']
    power = 10 ** jnp.arange(self.num_digits)
    digits = first // power % 10 + second // power % 10

    def column(carry, place):
      total = digits[place] + jnp.where(slips[place], 0, carry)
      return total // 10, total

    _, sums = jax.lax.scan(column, jnp.int32(0), jnp.arange(self.num_digits))
    count = 1 + jnp.sum(jnp.maximum(first, second) >= power[1:])
    return sums, count

  def _steps(self, sums: Array) -> Text:
    """'15,' of each column, as rows: tokens [n, 3], length [n]."""
    return jax.vmap(
      lambda total: vocab.join(vocab.number(total, 2), vocab.literal(','))
    )(sums)

  def solve(self, example: Example, key: Array) -> Text:
    """The columns and the sum, as a writer says them who forgets a carry now
    and then, and stops to think early now and then."""
    slip_key, cut_key, count_key = jax.random.split(key, 3)
    n = self.num_digits
    slips = jax.random.bernoulli(slip_key, self.slips, (n,))
    sums, count = self._columns(example, slips)
    places = jnp.arange(n)
    # Above the longer number there is no column: what is carried stays.
    kept = jnp.where(places < count - 1, sums % 10, sums)
    value = jnp.sum(jnp.where(places < count, kept, 0) * 10**places)
    answer = self._answer(value)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    early = jax.random.bernoulli(cut_key, self.cut)
    stop = jax.random.randint(count_key, (), 0, count)
    steps = self._steps(sums)
    written = places < jnp.where(early, stop, count)
    steps = Text(steps.tokens, steps.length * written)
    text = vocab.join(lists.concat(steps), vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)

  def segments(
    self, example: Example, completion: Array, mask: Array
  ) -> tuple[Array, Array]:
    """(1 or -1 for each step and for the answer [C], the column of its last
    token [C], -1 where there is no such segment).

    A step ends with ',' or where the thought does; it is right that is the
    column of its index, to the token, and one beyond the columns is wrong. The
    answer ends with the completion. What was not written earns nothing.
    """
    size = completion.shape[0]
    places = jnp.arange(size)
    text = vocab.before_eos(completion, mask) != 0
    marker = text & (completion == vocab.token('>'))
    last = jnp.max(jnp.where(marker, places, -1))
    right = self.verify(example, completion, mask)['reward'] > 0.5
    # Without a marker all of it is the answer, if it is one, else a thought.
    thought = text & jnp.where(last < 0, ~right, places < last)
    there = jnp.any(mask != 0) & ((last >= 0) | right)
    end = jnp.max(jnp.where(mask != 0, places, -1))

    final = jnp.max(jnp.where(thought, places, -1))
    comma = completion == vocab.token(',')
    ends = thought & (comma | (places == final))
    index = jnp.cumsum(ends) - ends  # of the step that a token is in
    starts = (
      jnp.full((size,), size)
      .at[jnp.where(thought, index, size)]
      .min(places, mode='drop')
    )
    sums, count = self._columns(example, jnp.zeros(self.num_digits, bool))
    steps = self._steps(sums)
    row = jnp.minimum(index, self.num_digits - 1)
    offset = places - starts[jnp.minimum(index, size - 1)]
    inside = (index < count) & (offset < steps.length[row])
    wanted = steps.tokens[row, jnp.clip(offset, 0, 2)]
    # A step that was cut short has no comma at its end.
    same = inside & (completion == wanted) & (~ends | comma)
    wrong = (
      jnp.zeros((size,), bool)
      .at[jnp.where(thought, index, size)]
      .max(~same, mode='drop')
    )
    at = jnp.where(ends, index, size)
    columns = jnp.full((size,), -1).at[at].set(places, mode='drop')
    graded = jnp.where(columns >= 0, jnp.where(wrong, -1.0, 1.0), 0.0)
    # The answer is one more; there is room, as its marker is in no step.
    at = jnp.where(there, jnp.sum(ends), size)
    graded = graded.at[at].set(jnp.where(right, 1.0, -1.0), mode='drop')
    return graded, columns.at[at].set(end, mode='drop')
