"""Countdown of three numbers, as search: a first step, then a last one.

'357>m:' asks for the target m = 22 (values are one character each, 0 to 9 and
then letters). Steps are written '3+58': 3 + 5 = 8. A detour is a first step
after which no last step makes the target, or a last step that misses it; they
end in '#'. The answer is an expression, '(3*5)+7'.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import expressions
from posttrain_jax.tasks.parts.search_cells import STUCK, Branches
from posttrain_jax.tasks.vocab import Text

LIMIT = 35  # of all values: the last letter
LARGEST = 9  # of the numbers
PAIRS = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])  # two of them, the third


def outcomes(first: Array, second: Array, count: int) -> tuple[Array, ...]:
  """(left [4], right [4], result [4], ok [4]) of two numbers under '+-*/'.

  The larger one stands first. Only whole results in 1..LIMIT are ok, and of the
  operators the first `count`.
  """
  high, low = jnp.maximum(first, second), jnp.minimum(first, second)
  safe = jnp.maximum(low, 1)
  results = jnp.stack([high + low, high - low, high * low, high // safe])
  whole = jnp.stack([low > 0, low > 0, low > 0, (low > 0) & (high % safe == 0)])
  ok = whole & (results >= 1) & (results <= LIMIT) & (jnp.arange(4) < count)
  return jnp.full(4, high), jnp.full(4, low), results, ok


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Three numbers of 1..9 make a target, each used once.

  size   how many of the operators '+-*/' there are, from the first on
  depth  steps that a detour writes: from 2 on, a last step that misses the
         target follows a wrong first one
  """

  size: int
  depth: int

  sizes = (2, 4)
  levels = 2
  pieces = 2 + 12 + 4  # steps, wrong first ones, wrong last ones
  step_length = 4
  answer_length = 7  # '(3*5)+7'
  prompt_length = 6

  @property
  def detour_length(self) -> int:
    return 9 if self.depth > 1 else 5

  def _firsts(self, numbers: Array):
    """(left, right, result, ok, the number that is left) of 12 first steps."""
    pairs = numbers[jnp.asarray(PAIRS)]
    step = lambda pair: outcomes(pair[0], pair[1], self.size)
    found = [x.reshape(12) for x in jax.vmap(step)(pairs)]
    return *found, jnp.repeat(pairs[:, 2], 4)

  def _lasts(self, firsts):
    """(left, right, result, ok) [12, 4] of the last steps after each first."""
    _, _, results, ok, rest = firsts
    step = lambda a, b: outcomes(a, b, self.size)
    *found, fine = jax.vmap(step)(results, rest)
    return *found, fine & ok[:, None]

  def sample(self, key: Array) -> Example:
    number_key, play_key = jax.random.split(key)
    numbers = jax.random.randint(number_key, (3,), 1, LARGEST + 1)
    firsts = self._firsts(numbers)
    _, _, results, ok = self._lasts(firsts)
    # Operators are drawn evenly as far as they can be.
    weight = ok / jnp.maximum(jnp.sum(ok, axis=0), 1)[None]
    pick = jax.random.categorical(play_key, jnp.log(weight.reshape(-1)))
    target = results.reshape(-1)[pick]
    digits = vocab.ZERO + numbers
    prompt = vocab.join(
      Text(digits.astype(jnp.int32), jnp.int32(3)),
      vocab.literal('>'),
      vocab.char(vocab.ZERO + target),
      vocab.literal(':'),
    )
    answer = {'numbers': numbers, 'target': target, 'play': pick}
    return base.example(prompt, answer, self.prompt_length)

  def identity(self, example: Example) -> Array:
    """The numbers, in whatever order they are shown, and the target."""
    numbers = jnp.sort(example.answer['numbers'])
    return jnp.append(numbers, example.answer['target'])

  def read(self, example: Example, text: Text) -> tuple[Array, Array]:
    """(right, well-formed) of an answer: any expression of these numbers."""
    text = vocab.fit(text, 3 + 2 + 4 * 2)  # each number in two parentheses
    value = expressions.evaluate(text, max_numbers=3, max_depth=4)
    fair = expressions.uses_exactly(value, example.answer['numbers'])
    right = expressions.equals(value, example.answer['target'])
    return fair & right, value.ok

  def branches(self, answer: dict, key: Array, wrong: Array) -> Branches:
    """The way that made the target and its detours; if `wrong`, one that ends
    in another number."""
    noise = jax.random.uniform(key, (2, 12, 4))
    firsts = self._firsts(answer['numbers'])
    lasts = self._lasts(firsts)
    hits = lasts[3] & (lasts[2] == answer['target'])
    misses = lasts[3] & ~hits
    # An error leaves the solutions at the first or at the last step.
    erring = jnp.argmax(jnp.where(misses, noise[0], -1.0))
    play = jnp.where(wrong, erring, answer['play'])
    first, last = play // 4, play % 4
    text = lambda left, op, right, result: jnp.stack(
      [vocab.ZERO + left, expressions.OPERATORS[op], vocab.ZERO + right,
       vocab.ZERO + result], axis=-1,
    )  # fmt: skip
    operators = jnp.arange(12) % 4
    tried = text(firsts[0], operators, firsts[1], firsts[2])
    ends = text(
      lasts[0], jnp.broadcast_to(jnp.arange(4)[None], (12, 4)), *lasts[1:3]
    )
    shown = jnp.argmax(jnp.where(misses, noise[1], -1.0), axis=1)
    size = self.detour_length
    stuck = jnp.full((12, 1), STUCK)
    whole = [tried, stuck]
    if self.depth > 1:
      whole = [tried, ends[jnp.arange(12), shown], stuck]
    early = jnp.concatenate(whole, axis=1)
    late = jnp.concatenate([ends[first], stuck[:4]], axis=1)
    late = jnp.pad(late, ((0, 0), (0, size - 5)))
    same = jnp.all(tried[:, None] == tried[None], axis=2)
    repeats = jnp.any(jnp.tril(same & firsts[3][None], -1), axis=1)
    dead = firsts[3] & ~jnp.any(hits, axis=1) & ~repeats & ~same[first]
    if self.depth > 1:
      dead &= jnp.any(misses, axis=1)
    missed = misses[first] & (jnp.arange(4) != last)
    lengths = jnp.array([size] * 12 + [5] * 4, jnp.int32)
    return Branches(
      steps=Text(
        jnp.stack([tried[first], ends[first, last]]).astype(jnp.int32),
        jnp.full(2, 4, jnp.int32),
      ),
      detours=Text(jnp.concatenate([early, late]).astype(jnp.int32), lengths),
      level=jnp.array([0] * 12 + [1] * 4),
      ok=jnp.concatenate([dead, missed]),
      answer=self._expression(firsts, lasts, first, last),
    )

  def _expression(self, firsts, lasts, first: Array, last: Array) -> Text:
    """'(3*5)+7' or '7-(3*2)' of a first and a last step."""
    inner = vocab.join(
      vocab.literal('('),
      vocab.char(vocab.ZERO + firsts[0][first]),
      vocab.char(expressions.OPERATORS[first % 4]),
      vocab.char(vocab.ZERO + firsts[1][first]),
      vocab.literal(')'),
    )
    rest = vocab.char(vocab.ZERO + firsts[4][first])
    operator = vocab.char(expressions.OPERATORS[last])
    leads = firsts[2][first] >= firsts[4][first]
    return vocab.where(
      leads,
      vocab.join(inner, operator, rest),
      vocab.join(rest, operator, inner),
    )
