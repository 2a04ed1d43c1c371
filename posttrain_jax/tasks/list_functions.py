"""List functions: '@rs:3152=' -> '1235', or list by list before it.

The letters are applied from left to right to a list of digits; arithmetic on
digits is modulo 10, and '_' is the empty list:

  a add 1          d double           e keep even digits   f keep the first two
  b add 3          n 9 minus digit    o keep odd digits    t drop the first
  p running sums   r reverse          u drop repeats       w first to the end
  s sort
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists
from posttrain_jax.tasks.vocab import Text

# A list is (digits [L] int32, count []); only the first `count` digits speak.
List = tuple[Array, Array]


def _keep(digits: Array, count: Array, keep: Array) -> List:
  """The digits where `keep` [L], moved to the front."""
  keep = keep & (jnp.arange(digits.shape[0]) < count)
  front = jnp.argsort(~keep, stable=True)
  return digits[front], keep.sum().astype(jnp.int32)


def _reverse(digits: Array, count: Array) -> List:
  index = count - 1 - jnp.arange(digits.shape[0])
  return digits[jnp.maximum(index, 0)], count


def _rotate(digits: Array, count: Array) -> List:
  index = jnp.arange(digits.shape[0]) + 1
  return digits[index % jnp.maximum(count, 1)], count


def _sort(digits: Array, count: Array) -> List:
  counted = jnp.arange(digits.shape[0]) < count
  return jnp.sort(jnp.where(counted, digits, 10)), count


def _unique(digits: Array, count: Array) -> List:
  same = digits[:, None] == digits[None, :]
  seen = jnp.any(jnp.tril(same, k=-1), axis=1)
  return _keep(digits, count, ~seen)


FUNCTIONS = {
  'a': lambda digits, count: ((digits + 1) % 10, count),
  'b': lambda digits, count: ((digits + 3) % 10, count),
  'd': lambda digits, count: (digits * 2 % 10, count),
  'e': lambda digits, count: _keep(digits, count, digits % 2 == 0),
  'f': lambda digits, count: (digits, jnp.minimum(count, 2)),
  'n': lambda digits, count: (9 - digits, count),
  'o': lambda digits, count: _keep(digits, count, digits % 2 == 1),
  'p': lambda digits, count: (jnp.cumsum(digits) % 10, count),
  'r': _reverse,
  's': _sort,
  't': lambda digits, count: _keep(
    digits, count, jnp.arange(digits.shape[0]) > 0
  ),
  'u': _unique,
  'w': _rotate,
}


def _text(digits: Array, count: Array) -> Text:
  """A list as it is written: its digits, or '_'."""
  empty = count == 0
  tokens = jnp.where(
    jnp.arange(digits.shape[0]) < count, digits + vocab.ZERO, 0
  )
  tokens = tokens.at[0].set(jnp.where(empty, vocab.token('_'), tokens[0]))
  return Text(tokens, jnp.maximum(count, 1))


@dataclasses.dataclass(frozen=True)
class Task:
  """Applies `depth` functions in turn to a list of `length` random digits.

  functions        the letters that are drawn from, each equally often
  chain_of_thought the oracle writes the list after each function, as in
                   '2513,1235,>1235'
  """

  depth: int = 2
  length: int = 5
  functions: str = ''.join(FUNCTIONS)
  chain_of_thought: bool = False

  def __post_init__(self):
    base.check(
      1 <= self.depth <= 64,
      f'list_functions: depth={self.depth} is not in 1..64',
    )
    base.check(
      1 <= self.length <= 64,
      f'list_functions: length={self.length} is not in 1..64',
    )
    known = set(self.functions) <= set(FUNCTIONS)
    distinct = len(set(self.functions)) == len(self.functions)
    base.check(
      len(self.functions) > 0 and known and distinct,
      f'list_functions: functions={self.functions!r} must be some of '
      f'{"".join(FUNCTIONS)!r}, each once',
    )

  @property
  def prompt_length(self) -> int:
    return self.depth + self.length + 3

  @property
  def completion_length(self) -> int:
    thought = 0
    if self.chain_of_thought:
      thought = self.depth * (self.length + 1) + 1
    return thought + self.length + 1

  def sample(self, key: Array) -> Example:
    function_key, digit_key = jax.random.split(key)
    functions = jax.random.randint(
      function_key, (self.depth,), 0, len(self.functions)
    )
    digits = jax.random.randint(digit_key, (self.length,), 0, 10)
    letters = jnp.asarray(vocab.encode(self.functions))[functions]
    prompt = vocab.join(
      vocab.literal('@'),
      Text(letters, jnp.int32(self.depth)),
      vocab.literal(':'),
      _text(digits, jnp.int32(self.length)),
      vocab.literal('='),
    )
    answer = {'functions': functions, 'digits': digits}
    return base.example(prompt, answer, self.prompt_length)

  def _lists(self, example: Example) -> List:
    """The list after each function: digits [depth, length], count [depth]."""
    branches = [FUNCTIONS[letter] for letter in self.functions]

    def apply(state, function):
      state = jax.lax.switch(function, branches, *state)
      return state, state

    start = (example.answer['digits'], jnp.int32(self.length))
    return jax.lax.scan(apply, start, example.answer['functions'])[1]

  def _answer(self, example: Example) -> Text:
    digits, counts = self._lists(example)
    return _text(digits[-1], counts[-1])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return base.exact_match(self._answer(example), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    digits, counts = self._lists(example)
    answer = _text(digits[-1], counts[-1])
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)

    def step(digits, count):
      return vocab.join(_text(digits, count), vocab.literal(','))

    steps = lists.concat(jax.vmap(step)(digits, counts))
    text = vocab.join(steps, vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)
