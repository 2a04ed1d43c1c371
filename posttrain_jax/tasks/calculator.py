"""Arithmetic with a tool: '12*34+5=' -> '[12*34]408|[408+5]413|>413'.

'[12*34]' is a call, of one operation on two numbers; '408|' is the answer of
the environment, which comes by itself. A call that the tool does not
understand is answered '?|' at its first wrong token.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.environments import Environment
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists, turns
from posttrain_jax.tasks.vocab import Text

OPERATORS = '+-*'
DIGITS = 9  # of the numbers that the tool reads and writes, at most
LIMIT = 10**DIGITS - 1
# Where a token stands: outside of calls, in either operand, after the '>'.
OUTSIDE, FIRST, SECOND, ANSWER = range(4)


def _apply(operator: Array, a: Array, b: Array) -> tuple[Array, Array]:
  """(a operator b, whether it has at most DIGITS digits), |a|, |b| <= LIMIT."""
  is_plus = operator == vocab.token('+')
  is_minus = operator == vocab.token('-')
  value = jnp.select([is_plus, is_minus], [a + b, a - b], a * b)
  # An int32 product may wrap; sums of DIGITS digits do not.
  fits = jnp.abs(a) <= LIMIT // jnp.maximum(jnp.abs(b), 1)
  fits = jnp.where(is_plus | is_minus, jnp.abs(value) <= LIMIT, fits)
  return value, fits


@dataclasses.dataclass(frozen=True)
class Tool(Environment):
  """Adds, subtracts or multiplies two numbers of up to 9 digits.

  max_calls  calls that it answers; a '[' after them gets '?|'

  '?|' is also the answer to a result of more than 9 digits. Numbers may have a
  '-' and leading zeros. After a '>' outside of a call it answers no more.
  """

  max_calls: int

  @property
  def observation_length(self) -> int:
    return DIGITS + 2

  def fresh(self) -> PyTree:
    """The tool before its first call."""
    counts = ('part', 'calls', 'errors', 'first', 'operator', 'number',
              'digits')  # fmt: skip
    return {name: jnp.int32(0) for name in counts} | {
      'negative': jnp.bool_(False)
    }

  def react(self, world, token):
    part, number, digits = world['part'], world['number'], world['digits']
    inside = (part == FIRST) | (part == SECOND)
    value = jnp.where(world['negative'], -number, number)
    digit = inside & vocab.is_digit(token) & (digits < DIGITS)
    minus = token == vocab.token('-')
    sign = inside & minus & (digits == 0) & ~world['negative']
    known = jnp.any(token == jnp.asarray(vocab.encode(OPERATORS)))
    operates = (part == FIRST) & (digits > 0) & known
    closes = (part == SECOND) & (digits > 0) & (token == vocab.token(']'))
    asks = (part == OUTSIDE) & (token == vocab.token('['))
    opens = asks & (world['calls'] < self.max_calls)
    result, fits = _apply(world['operator'], world['first'], value)
    over = token == vocab.EOS
    broken = inside & ~(digit | sign | operates | closes)
    error = ~over & (broken | (asks & ~opens) | (closes & ~fits))
    starts = opens | operates
    after = {
      'part': jnp.select(
        [
          opens,
          operates,
          closes | broken,
          (part == OUTSIDE) & (token == vocab.token('>')),
        ],
        [FIRST, SECOND, OUTSIDE, ANSWER],
        part,
      ),
      'calls': world['calls'] + opens,
      'errors': world['errors'] + error,
      'first': jnp.where(operates, value, world['first']),
      'operator': jnp.where(operates, token, world['operator']),
      'number': jnp.select(
        [starts, digit], [0, number * 10 + token - vocab.ZERO], number
      ),
      'digits': jnp.where(starts, 0, digits + digit),
      'negative': (world['negative'] | sign) & ~starts,
    }
    told = vocab.join(vocab.signed(result, DIGITS), vocab.literal('|'))
    told = Text(told.tokens, told.length * closes)
    return after, vocab.where(error, vocab.literal('?|'), told), over


@dataclasses.dataclass(frozen=True)
class Task:
  """An expression, with the usual precedence and a tool for single operations.

  num_operands  numbers in it
  num_digits    digits of each
  operators     which of '+-*' are in it, each equally often
  max_calls     calls that the tool answers, at least num_operands - 1

  The final text is right that is the value. All values on the way must be
  certain to have at most 9 digits.
  """

  num_operands: int = 3
  num_digits: int = 2
  operators: str = OPERATORS
  max_calls: int = 3

  def __post_init__(self):
    base.check(
      2 <= self.num_operands <= 16,
      f'calculator: num_operands={self.num_operands} is not in 2..16',
    )
    base.check(
      1 <= self.num_digits <= DIGITS,
      f'calculator: num_digits={self.num_digits} is not in 1..{DIGITS}',
    )
    known = set(self.operators) <= set(OPERATORS)
    distinct = len(set(self.operators)) == len(self.operators)
    base.check(
      len(self.operators) > 0 and known and distinct,
      f'calculator: operators={self.operators!r} must be some of '
      f'{OPERATORS!r}, each once',
    )
    base.check(
      self._largest <= LIMIT,
      f'calculator: num_operands={self.num_operands} of num_digits='
      f'{self.num_digits} with operators={self.operators!r} can have values '
      f'of {self._width} digits, more than {DIGITS}',
    )
    base.check(
      self.num_operands - 1 <= self.max_calls <= 99,
      f'calculator: max_calls={self.max_calls} is not in '
      f'num_operands-1={self.num_operands - 1}..99',
    )

  @property
  def _largest(self) -> int:
    """No value on the way is larger."""
    top, count = 10**self.num_digits - 1, self.num_operands
    return top**count if '*' in self.operators else count * top

  @property
  def _width(self) -> int:
    return len(str(self._largest))

  @property
  def prompt_length(self) -> int:
    return self.num_operands * (self.num_digits + 1)

  @property
  def completion_length(self) -> int:
    value = self._width + 1  # with its sign
    return self.max_calls * (3 * value + 4) + value + 2

  @property
  def guide(self) -> Tool:
    return Tool(self.max_calls)

  def episode(self, example: Example) -> PyTree:
    del example  # the tool is the same for all
    return self.guide.begin(self.guide.fresh())

  def sample(self, key: Array) -> Example:
    term_key, operator_key = jax.random.split(key)
    low = 10 ** (self.num_digits - 1) if self.num_digits > 1 else 0
    terms = jax.random.randint(
      term_key, (self.num_operands,), low, 10**self.num_digits
    )
    operators = jax.random.choice(
      operator_key,
      jnp.asarray(vocab.encode(self.operators)),
      (self.num_operands - 1,),
    )
    return self.level(terms, operators)

  def level(self, terms: Array, operators: Array) -> Example:
    """The problem of `terms` [num_operands] and `operators` [- 1], tokens."""
    signs = jnp.append(operators, vocab.token('=')).astype(jnp.int32)
    rows = jax.vmap(
      lambda term, sign: vocab.join(
        vocab.number(term, self.num_digits), vocab.char(sign)
      )
    )(terms, signs)
    answer = {'terms': terms, 'operators': operators}
    return base.example(lists.concat(rows), answer, self.prompt_length)

  def _work(self, example: Example) -> tuple[Array, Text]:
    """(the value, the calls that lead to it as rows): products come first."""
    index = jnp.arange(self.num_operands)

    def step(carry, left):
      values, operators = carry
      times = (operators == vocab.token('*')) & (index[1:] <= left)
      at = jnp.argmax(times)  # 0 where there is no product left
      a, b, operator = values[at], values[at + 1], operators[at]
      result, _ = _apply(operator, a, b)
      call = vocab.join(
        vocab.literal('['),
        vocab.signed(a, self._width),
        vocab.char(operator),
        vocab.signed(b, self._width),
        vocab.literal(']'),
      )
      values = jnp.where(index <= at, values, jnp.roll(values, -1))
      operators = jnp.where(index[1:] <= at, operators, jnp.roll(operators, -1))
      return (values.at[at].set(result), operators), call

    start = (example.answer['terms'], example.answer['operators'])
    left = jnp.arange(self.num_operands - 1, 0, -1)
    (values, _), calls = jax.lax.scan(step, start, left)
    return values[0], calls

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; how many 'calls' were begun, how many '?|' ('errors')."""
    value, _ = self._work(example)
    expected = vocab.signed(value, self._width)
    verdict = base.exact_match(expected, completion, mask, '>')
    world, faithful = turns.replayed(self, example, completion, mask)
    return {
      'reward': verdict['reward'] * faithful,
      'calls': world['calls'].astype(jnp.float32),
      'errors': world['errors'].astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one order of the calls only
    value, calls = self._work(example)
    size = self.completion_length
    written = vocab.join(
      lists.concat(calls),
      vocab.literal('>'),
      vocab.signed(value, self._width),
      vocab.special(vocab.EOS),
    )
    return turns.transcript(self, example, written, size)
