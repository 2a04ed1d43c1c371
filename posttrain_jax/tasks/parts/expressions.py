"""Exact in-graph evaluation of arithmetic expressions, for the number games.

Grammar: + - * / with the usual precedence, parentheses, non-negative integers.
Values are exact int32 fractions; they stay exact while the product of all
numbers in the expression is below 2**28 (the callers' knobs guarantee it).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text

PLUS, MINUS, TIMES, DIVIDE = (vocab.token(c) for c in '+-*/')
OPEN, CLOSE = vocab.token('('), vocab.token(')')
OPERATORS = jnp.array([PLUS, MINUS, TIMES, DIVIDE], jnp.int32)


class Value(NamedTuple):
  """An expression's value and how it was written.

  numerator, denominator  [] int32; denominator 0 where it divides by zero
  ok                      [] bool, well-formed and no division by zero
  numbers                 [N] int32, the first N numbers in order, else -1
  count                   [] int32, how many numbers there are
  """

  numerator: Array
  denominator: Array
  ok: Array
  numbers: Array
  count: Array


def apply(operator, a, b):
  """Fraction a (operator) b, on (numerator, denominator) pairs."""
  (an, ad), (bn, bd) = a, b
  numerator = jnp.select(
    [operator == PLUS, operator == MINUS, operator == TIMES],
    [an * bd + bn * ad, an * bd - bn * ad, an * bn],
    an * bd,
  )
  return numerator, jnp.where(operator == DIVIDE, ad * bn, ad * bd)


class _State(NamedTuple):
  # One entry per parenthesis depth: total (add_op) term (mul_op) <operand>.
  total: tuple[Array, Array]
  term: tuple[Array, Array]
  add_op: Array
  mul_op: Array
  depth: Array
  digits: Array  # digits of the number being read; 0 outside one
  number: Array
  operand: Array  # True where an operand must come next
  ok: Array
  numbers: Array
  count: Array


def _put(state: _State, depth, value) -> _State:
  """Feeds one finished operand to `depth`: term = term (mul_op) value."""
  term = tuple(part[depth] for part in state.term)
  new = apply(state.mul_op[depth], term, value)
  return state._replace(
    term=tuple(part.at[depth].set(x) for part, x in zip(state.term, new)),
    ok=state.ok & (new[1] != 0),
  )


def _closed(state: _State, depth):
  """Value of everything read at `depth`: total (add_op) term."""
  total = tuple(part[depth] for part in state.total)
  term = tuple(part[depth] for part in state.term)
  return apply(state.add_op[depth], total, term)


def _select(condition, new: _State, old: _State) -> _State:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _end_number(state: _State) -> _State:
  """Takes the number that has been read, if one was."""
  taken = _put(state, state.depth, (state.number, jnp.int32(1)))
  slot = jnp.minimum(state.count, state.numbers.shape[0])
  taken = taken._replace(
    numbers=state.numbers.at[slot].set(state.number, mode='drop'),
    count=state.count + 1,
    digits=jnp.int32(0),
    number=jnp.int32(0),
    operand=jnp.bool_(False),
  )
  return _select(state.digits > 0, taken, state)


def _read(state: _State, token, max_depth: int) -> _State:
  digit = vocab.is_digit(token)
  # A number right after a closed operand, and leading zeros, are malformed.
  in_number = state._replace(
    ok=state.ok
    & state.operand
    & (state.digits < 4)
    & ~((state.digits == 1) & (state.number == 0)),
    number=state.number * 10 + token - vocab.ZERO,
    digits=state.digits + 1,
  )
  ended = _end_number(state)
  d = ended.depth
  is_mul = (token == TIMES) | (token == DIVIDE)
  is_add = (token == PLUS) | (token == MINUS)

  multiplied = ended._replace(
    mul_op=ended.mul_op.at[d].set(token),
    operand=jnp.bool_(True),
    ok=ended.ok & ~ended.operand,
  )
  total = _closed(ended, d)
  added = ended._replace(
    total=tuple(part.at[d].set(x) for part, x in zip(ended.total, total)),
    term=tuple(part.at[d].set(1) for part in ended.term),
    add_op=ended.add_op.at[d].set(token),
    mul_op=ended.mul_op.at[d].set(TIMES),
    operand=jnp.bool_(True),
    ok=ended.ok & ~ended.operand,
  )
  up = jnp.minimum(d + 1, max_depth - 1)
  opened = ended._replace(
    total=(ended.total[0].at[up].set(0), ended.total[1].at[up].set(1)),
    term=tuple(part.at[up].set(1) for part in ended.term),
    add_op=ended.add_op.at[up].set(PLUS),
    mul_op=ended.mul_op.at[up].set(TIMES),
    depth=up,
    ok=ended.ok & ended.operand & (d + 1 < max_depth) & (state.digits == 0),
  )
  down = jnp.maximum(d - 1, 0)
  closed = _put(ended._replace(depth=down), down, _closed(ended, d))
  closed = closed._replace(
    ok=closed.ok & (d > 0) & ~ended.operand, operand=jnp.bool_(False)
  )
  wrong = ended._replace(ok=jnp.bool_(False))
  out = _select(is_mul, multiplied, wrong)
  out = _select(is_add, added, out)
  out = _select(token == OPEN, opened, out)
  out = _select(token == CLOSE, closed, out)
  return _select(digit, in_number, out)


def evaluate(text: Text, *, max_numbers: int, max_depth: int = 4) -> Value:
  """Evaluates an expression; malformed ones come back with ok = False."""
  zeros, ones = jnp.zeros(max_depth, jnp.int32), jnp.ones(max_depth, jnp.int32)
  state = _State(
    total=(zeros, ones),
    term=(ones, ones),
    add_op=jnp.full(max_depth, PLUS),
    mul_op=jnp.full(max_depth, TIMES),
    depth=jnp.int32(0),
    digits=jnp.int32(0),
    number=jnp.int32(0),
    operand=jnp.bool_(True),
    ok=jnp.bool_(True),
    numbers=jnp.full(max_numbers, -1, jnp.int32),
    count=jnp.int32(0),
  )

  def body(state, item):
    token, counts = item
    return _select(counts, _read(state, token, max_depth), state), None

  counts = jnp.arange(text.tokens.shape[0]) < text.length
  state, _ = jax.lax.scan(body, state, (text.tokens, counts))
  state = _end_number(state)
  numerator, denominator = _closed(state, jnp.int32(0))
  ok = state.ok & ~state.operand & (state.depth == 0) & (denominator != 0)
  return Value(numerator, denominator, ok, state.numbers, state.count)


def equals(value: Value, target: Array) -> Array:
  """Whether the expression is well-formed and exactly `target`."""
  return value.ok & (value.numerator == target * value.denominator)


def uses_exactly(value: Value, numbers: Array) -> Array:
  """Whether the expression's numbers are `numbers`, each used once."""
  same = jnp.all(jnp.sort(value.numbers) == jnp.sort(numbers))
  return same & (value.count == numbers.shape[0])
