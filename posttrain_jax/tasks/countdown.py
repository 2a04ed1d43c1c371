"""Countdown: reach a target from given numbers, each used exactly once.

'3,5,7>22:' -> '3*5+7', or with a chain of thought '3*5=15,15+7=22>3*5+7'.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import expressions
from posttrain_jax.tasks.vocab import Text

MAX_FILLER = 256


@dataclasses.dataclass(frozen=True)
class Task:
  """A target and `num_numbers` numbers, in random order.

  num_numbers      how many numbers
  max_number       they are drawn from 1..max_number
  max_target       targets are at most this; partial results too
  operators        the operators that make the target, of '+-*/'
  chain_of_thought the oracle writes its steps, then '>' and the expression
  sorted_prompt    numbers are shown in ascending order
  filler           the oracle begins its steps with 0 to this many '_', drawn
                   evenly: verbose chains, which a reward of lengths can shorten

  A problem is made by playing it: two of the remaining numbers are joined
  until one is left. Only whole, positive, bounded results are drawn, so every
  problem has a solution; the verifier accepts any.
  """

  num_numbers: int = 3
  max_number: int = 12
  max_target: int = 99
  operators: str = '+-*/'
  chain_of_thought: bool = False
  sorted_prompt: bool = False
  filler: int = 0

  def __post_init__(self):
    base.check(
      2 <= self.num_numbers <= 6,
      f'countdown: num_numbers={self.num_numbers} is not in 2..6',
    )
    base.check(
      2 <= self.max_number <= self.max_target <= 9999,
      f'countdown: needs 2 <= max_number={self.max_number} <= '
      f'max_target={self.max_target} <= 9999',
    )
    base.check(
      self.max_number**self.num_numbers < 2**28,
      f'countdown: max_number={self.max_number} ** '
      f'num_numbers={self.num_numbers} must stay below 2**28 for exact values',
    )
    base.check(
      self.operators != '' and set(self.operators) <= set('+-*/'),
      f'countdown: operators="{self.operators}" is no subset of "+-*/"',
    )
    base.check(
      0 <= self.filler <= MAX_FILLER,
      f'countdown: filler={self.filler} is not in 0..{MAX_FILLER}',
    )
    base.check(
      self.chain_of_thought or not self.filler,
      f'countdown: filler={self.filler} is of the steps, which '
      'chain_of_thought=false leaves out',
    )

  @property
  def _digits(self) -> int:
    return len(str(self.max_number))

  @property
  def _target_digits(self) -> int:
    return len(str(self.max_target))

  @property
  def _expression_length(self) -> int:
    # Numbers, operators, and one pair of parentheses around inner results.
    n = self.num_numbers
    return n * self._digits + (n - 1) + 2 * max(n - 2, 0)

  @property
  def prompt_length(self) -> int:
    return self.num_numbers * (self._digits + 1) + self._target_digits + 1

  @property
  def completion_length(self) -> int:
    # The longest step: two results and their joint result, 'a+b=c,'.
    step = 3 * self._target_digits + 3
    thought = (self.num_numbers - 1) * step if self.chain_of_thought else 0
    return thought + self.filler + self._expression_length + 1

  def sample(self, key: Array) -> Example:
    number_key, play_key, order_key = jax.random.split(key, 3)
    n = self.num_numbers
    numbers = jax.random.randint(number_key, (n,), 1, self.max_number + 1)
    values, steps = numbers, []
    for key in jax.random.split(play_key, n - 1):
      values, step = self._join_two(key, values)
      steps.append(step)
    shown = jnp.sort(numbers)
    if not self.sorted_prompt:
      shown = jax.random.permutation(order_key, numbers)
    pieces = []
    for i in range(n):
      pieces += [vocab.number(shown[i], self._digits), vocab.literal(',')]
    pieces[-1] = vocab.literal('>')
    prompt = vocab.join(
      *pieces,
      vocab.number(values[0], self._target_digits),
      vocab.literal(':'),
    )
    answer = {
      'numbers': numbers,
      'target': values[0],
      'steps': jnp.stack(steps),  # [n - 1, 3]: operator, first, second slot
    }
    return base.example(prompt, answer, self.prompt_length)

  def _join_two(self, key: Array, values: Array) -> tuple[Array, Array]:
    """Joins a random admissible pair: (one value fewer, [op, i, j])."""
    m = values.shape[0]
    a, b = values[:, None], values[None, :]
    results = jnp.stack(
      [
        a + b,
        a - b,
        a * b,
        # Division by something that divides; 0 marks the others.
        jnp.where(a % jnp.maximum(b, 1) == 0, a // jnp.maximum(b, 1), 0),
      ]
    )
    allowed = jnp.array([op in self.operators for op in '+-*/'])
    # Commutative operators count once; x * 1 and x / 1 would be dull.
    upper = jnp.arange(m)[:, None] < jnp.arange(m)[None, :]
    distinct = jnp.arange(m)[:, None] != jnp.arange(m)[None, :]
    shape = jnp.stack([upper, distinct, upper, distinct])
    dull = jnp.stack(
      [jnp.zeros((m, m), bool)] * 2
      + [(a == 1) | (b == 1), jnp.broadcast_to(b == 1, (m, m))]
    )
    fits = (results >= 1) & (results <= self.max_target) & shape
    good = fits & allowed[:, None, None] & ~dull
    # Something always fits: a - b or b - a, unless equal, then a / b; a
    # disallowed operator or a dull step is used only when nothing else is left.
    weight = jnp.where(good, 1.0, jnp.where(fits, 1e-6, 0.0))
    # Operators are drawn evenly, however many pairs each one admits.
    per_operator = jnp.sum(weight, axis=(1, 2), keepdims=True)
    weight = weight * jnp.where(per_operator >= 1.0, 1.0, 1e-6)
    weight = weight / jnp.maximum(per_operator, 1e-12)
    pick = jax.random.categorical(key, jnp.log(weight.reshape(-1) + 1e-30))
    op, i, j = pick // (m * m), pick // m % m, pick % m
    result = results[op, i, j]
    # The result takes the lower slot; the upper slot is closed.
    low, high = jnp.minimum(i, j), jnp.maximum(i, j)
    kept = values.at[low].set(result)
    index = jnp.arange(m - 1)
    kept = kept[index + (index >= high)]
    return kept, jnp.stack([op, i, j])

  def identity(self, example: Example) -> Array:
    """The numbers, in whatever order they are shown, and the target."""
    numbers = jnp.sort(example.answer['numbers'])
    return jnp.append(numbers, example.answer['target'])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    text = base.final_text(completion, mask, '>')
    value = expressions.evaluate(
      text, max_numbers=self.num_numbers, max_depth=self.num_numbers + 1
    )
    fair = expressions.uses_exactly(value, example.answer['numbers'])
    right = fair & expressions.equals(value, example.answer['target'])
    return {
      'reward': right.astype(jnp.float32),
      'format': value.ok.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    # The way the problem was made is the solution.
    n, size = self.num_numbers, self._expression_length
    numbers = example.answer['numbers']
    texts = [vocab.number(numbers[i], self._digits) for i in range(n)]
    texts = [vocab.fit(text, size) for text in texts]
    texts = jax.tree.map(lambda *x: jnp.stack(x), *texts)
    slots = (numbers, texts, jnp.zeros(n, bool))
    lines = []
    for step in range(n - 1):
      slots, line = self._merge(slots, example.answer['steps'][step])
      end = '>' if step == n - 2 else ','
      lines.append(vocab.join(line, vocab.literal(end)))
    answer = jax.tree.map(lambda x: x[0], slots[1])
    if self.chain_of_thought:
      if self.filler:
        lines.insert(0, self._fill(key))
      answer = vocab.join(*lines, answer)
    return base.finish(answer, self.completion_length)

  def _fill(self, key: Array) -> Text:
    """A random number of characters that say nothing."""
    count = jax.random.randint(key, (), 0, self.filler + 1)
    shown = jnp.arange(self.filler) < count
    tokens = jnp.where(shown, vocab.token('_'), 0).astype(jnp.int32)
    return Text(tokens, count.astype(jnp.int32))

  def _merge(self, slots, step: Array):
    """Plays one step: the slots after it, and the line 'a+b=c'.

    slots  (values [m], expression texts [m], whether they are more than a
           number [m])
    """
    values, texts, compound = slots
    op, i, j = step
    a, b = values[i], values[j]
    result = jnp.select(
      [op == 0, op == 1, op == 2],
      [a + b, a - b, a * b],
      a // jnp.maximum(b, 1),
    )
    operator = vocab.char(expressions.OPERATORS[op])
    operand = lambda k: self._operand(
      jax.tree.map(lambda x: x[k], texts), compound[k]
    )
    merged = vocab.join(
      operand(i), operator, operand(j), size=self._expression_length
    )
    low, high = jnp.minimum(i, j), jnp.maximum(i, j)
    index = jnp.arange(values.shape[0] - 1)
    index = index + (index >= high)
    put = lambda x, new: x.at[low].set(new)[index]
    digits = self._target_digits
    line = vocab.join(
      vocab.number(a, digits),
      operator,
      vocab.number(b, digits),
      vocab.literal('='),
      vocab.number(result, digits),
    )
    texts = jax.tree.map(put, texts, merged)
    return (put(values, result), texts, put(compound, True)), line

  def _operand(self, text: Text, compound: Array) -> Text:
    """An expression, in parentheses where it is more than a number."""
    wrapped = vocab.join(vocab.literal('('), text, vocab.literal(')'))
    return vocab.where(compound, wrapped, text)
