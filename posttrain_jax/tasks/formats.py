"""Addition answered in one of several formats, each behind its own letter.

'27+5=' may be answered as 'd32', 'r23', 'c12,3>32' or 'p27 5+'.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists
from posttrain_jax.tasks.vocab import Text

# The knob with a format's weight -> the letter that its answers begin with.
LETTERS = {'direct': 'd', 'reverse': 'r', 'columns': 'c', 'program': 'p'}
LIMIT = 10**8  # values of a program stay below it
STACK = 4  # numbers that a program may hold at a time


@dataclasses.dataclass(frozen=True)
class Task:
  """Sum of two numbers of up to `num_digits` digits, in a format of one's own.

  num_digits  digits of the larger operands
  least_digits  of the smaller ones
  direct      weight of demonstrations 'd32', the sum
  reverse     of 'r23', the sum from its lowest digit on
  columns     of 'c12,3>32', the sum of each column with what is carried into
              it, the lowest first, then the sum
  program     of 'p27 5+', in postfix notation; the verifier runs it

  slips       chance, in each column but the lowest, that the writer of a
              demonstration forgets what is carried into it, in the columns and
              in the sum alike; a program has no columns to slip in
  wanted      the format that alone is right ('direct', ...); '' = any
  spelled     demonstrations of columns say what is added, too, the digits and
              what is carried: 'c7+5=12,2+0+1=3>32'
  prune       share of spelled ones that are short: the same steps in the same
              order, the sums alone

  The oracle draws the format of each demonstration; only the proportions of
  the weights matter. Any of the formats is right that says the sum, unless one
  is wanted: the columns themselves are not judged. `verify` also says which
  format it was. Weights and `slips` may be traced (sweeps): they are then not
  checked, and a traced weight leaves room for its format.

  Raises:
    ValueError: a knob that is not as said.
  """

  num_digits: int = 3
  least_digits: int = 1
  direct: float = 1.0
  reverse: float = 1.0
  columns: float = 1.0
  program: float = 1.0
  slips: float = 0.0
  wanted: str = ''
  spelled: bool = False
  prune: float = 0.0

  def __post_init__(self):
    base.check(
      1 <= self.num_digits <= 7,
      f'formats: num_digits={self.num_digits} is not in 1..7 (int32 sums)',
    )
    base.check(
      1 <= self.least_digits <= self.num_digits,
      f'formats: least_digits={self.least_digits} is not in 1..num_digits='
      f'{self.num_digits}',
    )
    weights = self._weights
    known = [w for w in weights if not _traced(w)]
    base.check(
      all(math.isfinite(w) and w >= 0 for w in known)
      and (len(known) < len(weights) or sum(known) > 0),
      f'formats: the weights {dict(zip(LETTERS, weights))} must be finite and '
      'not negative, and at least one positive',
    )
    base.check(
      _traced(self.slips) or 0.0 <= self.slips <= 1.0,
      f'formats: slips={self.slips} is no share from 0 to 1',
    )
    base.check(
      not self.wanted or self.wanted in LETTERS,
      f'formats: no format wanted="{self.wanted}".'
      + nearest(self.wanted, LETTERS),
    )
    base.check(
      not self.spelled or _traced(self.columns) or self.columns > 0,
      'formats: spelled=true is of columns, whose weight is columns='
      f'{self.columns}',
    )
    base.check(
      _traced(self.prune) or 0.0 <= self.prune <= 1.0,
      f'formats: prune={self.prune} is no share from 0 to 1',
    )
    base.check(
      self.spelled or _traced(self.prune) or self.prune == 0.0,
      f'formats: prune={self.prune} is of spelled columns, which '
      'spelled=false leaves out',
    )

  @property
  def _weights(self) -> tuple[float, ...]:
    return tuple(getattr(self, name) for name in LETTERS)

  @property
  def prompt_length(self) -> int:
    return 2 * self.num_digits + 2

  @property
  def completion_length(self) -> int:
    n = self.num_digits
    total = n + 1
    # '9+9+1=19,' where it is spelled; nothing is carried into the lowest.
    columns = 9 * n - 2 if self.spelled else 3 * n
    lengths = (total, total, columns + total, 2 * n + 2)
    asked = [x for x, w in zip(lengths, self._weights) if _traced(w) or w > 0]
    return 1 + max(asked) + 1  # with the letter and the EOS

  def sample(self, key: Array) -> Example:
    return base.two_numbers(key, self.num_digits, '+', self.least_digits)

  def identity(self, example: Example) -> Array:
    """The two numbers, whichever comes first."""
    return jnp.sort(example.answer['terms'])

  def _said(self, completion: Array, mask: Array) -> tuple[Array, Array, Array]:
    """(format's index, or -1; the value that is said; whether one is)."""
    whole = base.final_text(completion, mask)
    letters = jnp.asarray(vocab.encode(''.join(LETTERS.values())))
    begins = (whole.tokens[0] == letters) & (whole.length > 0)
    index = jnp.where(jnp.any(begins), jnp.argmax(begins), -1)
    text = Text(
      jnp.roll(whole.tokens, -1).at[-1].set(vocab.PAD),
      jnp.maximum(whole.length - 1, 0),
    )
    marker = vocab.token('>')
    last = vocab.compact(
      text.tokens, vocab.after_last(text.tokens, text.mask, marker)
    )
    marked = jnp.any((text.tokens == marker) & (text.mask > 0))
    after, fine = vocab.parse_number(last)
    found = (
      vocab.parse_number(text),
      vocab.parse_number(_reversed(text)),
      (after, fine & marked),
      run_program(text),
    )
    value, ok = (jnp.stack(x) for x in zip(*found))
    return index, value[index], ok[index] & (index >= 0)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 1.0 under the name of the format that it begins as."""
    index, value, ok = self._said(completion, mask)
    right = ok & (value == example.answer['terms'].sum())
    if self.wanted:
      right &= index == list(LETTERS).index(self.wanted)
    return {'reward': right.astype(jnp.float32)} | {
      name: (index == i).astype(jnp.float32) for i, name in enumerate(LETTERS)
    }

  def answer(self, completion: Array, mask: Array) -> Text:
    """The value that is said, in decimal, so that formats can be counted
    together; empty where none is."""
    _, value, ok = self._said(completion, mask)
    text = vocab.number(value, 9)
    return Text(text.tokens, text.length * ok)

  def solve(self, example: Example, key: Array) -> Text:
    """The sum in a format that is drawn from the weights."""
    first, second = example.answer['terms']
    sums, value = self._added(first, second, jax.random.fold_in(key, 1))
    total = vocab.number(value, self.num_digits + 1)
    program = vocab.join(
      vocab.number(first, self.num_digits),
      vocab.literal(' '),
      vocab.number(second, self.num_digits),
      vocab.literal('+'),
    )
    columns = self._columns(first, second, sums)
    if self.spelled:
      pruned = jax.random.bernoulli(jax.random.fold_in(key, 2), self.prune)
      long = self._columns(first, second, sums, spelled=True)
      columns = vocab.where(pruned, columns, long)
    columns = vocab.join(columns, total)
    index = jax.random.categorical(key, jnp.log(jnp.array(self._weights)))
    size = self.completion_length
    found = [
      vocab.fit(
        base.finish(vocab.join(vocab.literal(letter), text), size), size
      )
      for letter, text in zip(
        LETTERS.values(), (total, _reversed(total), columns, program)
      )
    ]
    return jax.tree.map(lambda *texts: jnp.stack(texts)[index], *found)

  def _added(
    self, first: Array, second: Array, key: Array
  ) -> tuple[Array, Array]:
    """(sum of each column with what is carried into it [n], the whole sum), as
    someone says them who forgets a carry now and then."""
    power = 10 ** jnp.arange(self.num_digits)
    digits = first // power % 10 + second // power % 10
    slips = jax.random.bernoulli(key, self.slips, (self.num_digits,))

    def column(carry, place):
      total = digits[place] + jnp.where(slips[place], 0, carry)
      return total // 10, total

    places = jnp.arange(self.num_digits)
    _, sums = jax.lax.scan(column, jnp.int32(0), places)
    # Above the longer number there is no column: what is carried stays.
    there = (jnp.maximum(first, second) >= power) | (places == 0)
    last = jnp.sum(there) - 1
    value = jnp.sum(jnp.where(places < last, sums % 10, 0) * power)
    return sums, value + sums[last] * power[last]

  def _columns(
    self, first: Array, second: Array, sums: Array, spelled: bool = False
  ) -> Text:
    """'12,3>': sums of columns, each with a sign behind it; '7+5=12,2+0+1=3>'
    where they are spelled."""
    most = jnp.maximum(first, second)

    def column(place):
      power = 10**place
      is_last = most < power * 10
      sign = jnp.where(is_last, vocab.token('>'), vocab.token(','))
      text = vocab.join(vocab.number(sums[place], 2), vocab.char(sign))
      if spelled:
        text = vocab.join(self._added_up(first, second, sums, place), text)
      used = (place == 0) | (most >= power)
      return Text(text.tokens, text.length * used)

    return lists.concat(jax.vmap(column)(jnp.arange(self.num_digits)))

  def _added_up(
    self, first: Array, second: Array, sums: Array, place: Array
  ) -> Text:
    """'2+0+1=': the digits of a column and what its writer carries into it."""
    digits = [x // 10**place % 10 for x in (first, second)]
    carried = vocab.literal('+1')
    there = sums[place] > digits[0] + digits[1]
    return vocab.join(
      vocab.number(digits[0], 1),
      vocab.literal('+'),
      vocab.number(digits[1], 1),
      Text(carried.tokens, carried.length * there),
      vocab.literal('='),
    )


def _traced(value: Any) -> bool:
  return isinstance(value, jax.core.Tracer)


def _reversed(text: Text) -> Text:
  index = text.length - 1 - jnp.arange(text.tokens.shape[0])
  flipped = jnp.where(index >= 0, text.tokens[index], vocab.PAD)
  return Text(flipped, text.length)


def run_program(text: Text) -> tuple[Array, Array]:
  """(value, ok) of a sum in postfix notation, as '27 5+' or '1 2+3+'.

  Numbers of up to 8 digits, at most `STACK` at a time, are ended by a ' ' or by
  the '+' that takes the last two. It is not ok if it does not parse, has no
  '+', or does not end with one number.
  """

  def step(carry, token):
    stack, depth, number, digits, sums, ok = carry
    digit = vocab.is_digit(token)
    plus = token == vocab.token('+')
    ends = (plus | (token == vocab.token(' '))) & (digits > 0)
    ok &= digit | plus | ends
    number = jnp.where(digit, number * 10 + token - vocab.ZERO, number)
    digits = digits + digit
    ok &= digits <= 8
    slot = jnp.arange(STACK)
    ok &= ~ends | (depth < STACK)
    stack = jnp.where(ends & (slot == depth), number, stack)
    depth = depth + ends
    ok &= ~plus | (depth >= 2)
    top = stack[jnp.clip(depth - 1, 0, STACK - 1)]
    stack = jnp.where(plus & (slot == depth - 2), stack + top, stack)
    ok &= jnp.all(stack < LIMIT)
    # What is wrong is of no more interest; it must not overflow.
    fresh = ends | ~ok
    state = (
      jnp.where(ok, stack, 0),
      depth - plus,
      jnp.where(fresh, 0, number),
      jnp.where(fresh, 0, digits),
      sums + plus,
      ok,
    )
    return state, None

  def counted(carry, item):
    token, keep = item
    after, _ = step(carry, token)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), after, carry), None

  zero = jnp.int32(0)
  start = (jnp.zeros(STACK, jnp.int32), zero, zero, zero, zero, jnp.bool_(True))
  (stack, depth, _, digits, sums, ok), _ = jax.lax.scan(
    counted, start, (text.tokens, text.mask > 0)
  )
  return stack[0], ok & (depth == 1) & (digits == 0) & (sums > 0)
