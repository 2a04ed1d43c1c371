"""Hands of cards that make a number, and how: the table behind `make24`.

Made on the host, once for each set of knobs, with exact fractions.
"""

import functools
import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from posttrain_jax.tasks import base, vocab

__all__ = ['dealt', 'hands', 'solve', 'write']

Number = int | Fraction
Tree = int | tuple  # a card's value, or (operator, first, second)


@functools.cache
def dealt(
  num_cards: int,
  rules: tuple[tuple[int, ...], ...],
  target: int,
  thought: bool,
  deck: tuple[int, ...],
  min_faces: int,
) -> tuple[np.ndarray, ...]:
  """The hands of every rule, one after the other.

  Returns ranks, tokens and lengths as `hands`, of all H hands; then where the
  hands of each rule start, and how many there are, [rules] int32.
  """
  found = [
    hands(num_cards, values, target, thought, deck, min_faces)
    for values in rules
  ]
  width = max(tokens.shape[1] for _, tokens, _ in found)
  counts = np.array([len(ranks) for ranks, _, _ in found], np.int32)
  ranks, tokens, lengths = zip(*found)
  tokens = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in tokens]
  starts = np.cumsum(counts, dtype=np.int32) - counts
  joined = [np.concatenate(x) for x in (ranks, tokens, lengths)]
  return *joined, starts, counts


@functools.cache
def hands(
  num_cards: int,
  values: tuple[int, ...],
  target: int,
  thought: bool,
  deck: tuple[int, ...] | None = None,
  min_faces: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Every hand that reaches `target`, and one solution of each.

  values  what the ranks 1, 2, ... count
  deck    the ranks that there are; None: all of them

  Returns ranks [H, num_cards] int32 ascending, solution tokens [H, L] int8,
  their lengths [H] int32.
  """
  ranks, texts, known = [], [], {}
  deck = deck or tuple(range(1, len(values) + 1))
  for hand in itertools.combinations_with_replacement(deck, num_cards):
    if sum(rank > 10 for rank in hand) < min_faces:
      continue
    cards = tuple(sorted(values[rank - 1] for rank in hand))
    if cards not in known:
      # Fractions only where whole numbers do not do.
      tree = solve(cards, target, True) or solve(cards, target, False)
      known[cards] = None if tree is None else _solution(tree, thought)
    if known[cards] is not None:
      ranks.append(hand)
      texts.append(vocab.encode(known[cards]))
  _reachable.cache_clear()
  base.check(
    len(ranks) > 0,
    f'make24: no hand of {num_cards} cards of ranks 1..{len(values)} reaches '
    f'target={target}' + (f' with {min_faces} face cards' if min_faces else ''),
  )
  lengths = np.array([len(text) for text in texts], np.int32)
  tokens = np.zeros((len(texts), lengths.max()), np.int8)
  for row, text in zip(tokens, texts):
    row[: len(text)] = text
  return np.array(ranks, np.int32), tokens, lengths


def _quotient(a: Number, b: Number, whole: bool) -> Number | None:
  if b == 0:
    return None
  if a % b == 0:
    return a // b
  return None if whole else Fraction(a) / b


def _splits(cards: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
  """All ways to deal cards into two parts, the smaller one first."""
  seen = set()
  for size in range(1, len(cards) // 2 + 1):
    for chosen in itertools.combinations(range(len(cards)), size):
      part = tuple(cards[i] for i in chosen)
      if part not in seen:
        seen.add(part)
        yield (
          part,
          tuple(c for i, c in enumerate(cards) if i not in chosen),
        )


@functools.cache
def _reachable(cards: tuple[int, ...], whole: bool) -> dict[Number, Tree]:
  """Every value that the cards can make, with one way to make it.

  No value is negative: what is reached by way of negative numbers is, up to
  its sign, also reached without them.
  """
  if len(cards) == 1:
    return {cards[0]: cards[0]}
  found = {}
  for first, second in _splits(cards):
    for a, left in _reachable(first, whole).items():
      for b, right in _reachable(second, whole).items():
        found.setdefault(a + b, ('+', left, right))
        found.setdefault(a * b, ('*', left, right))
        if a >= b:
          found.setdefault(a - b, ('-', left, right))
        else:
          found.setdefault(b - a, ('-', right, left))
        found.setdefault(_quotient(a, b, whole), ('/', left, right))
        found.setdefault(_quotient(b, a, whole), ('/', right, left))
  found.pop(None, None)
  return found


def _plus(first: Tree, second: Tree) -> Tree:
  return ('+', first, second)


def solve(cards: tuple[int, ...], target: Number, whole: bool) -> Tree | None:
  """One way to make `target`, or None."""
  if len(cards) <= 3:
    return _reachable(cards, whole).get(target)
  for small, large in _splits(cards):
    for a, left in _reachable(small, whole).items():
      if a == target == 0:  # times anything
        return ('*', left, functools.reduce(_plus, large))
      # Each b that makes the target together with a.
      for operator, b, first in (
        ('+', target - a, True),
        ('-', a - target, True),
        ('-', a + target, False),
        ('*', _quotient(target, a, whole), True),
        ('/', _quotient(a, target, whole), True),
        ('/', target * a if a else None, False),
      ):
        if b is None or b < 0 or (operator == '/' and first and b == 0):
          continue
        right = solve(large, b, whole)
        if right is not None:
          pair = (left, right) if first else (right, left)
          return (operator, *pair)
  return None


def _solution(tree: Tree, thought: bool) -> str:
  lines, _ = _steps(tree)
  return (','.join(lines) + '>' if thought else '') + write(tree)


def write(tree: Tree) -> str:
  """The expression, with no more parentheses than it needs."""
  if isinstance(tree, int):
    return str(tree)
  operator, first, second = tree
  weak = lambda t: not isinstance(t, int) and t[0] in '+-'
  left, right = write(first), write(second)
  if operator in '*/' and weak(first):
    left = f'({left})'
  needs = {'+': False, '-': weak(second), '*': weak(second)}
  if needs.get(operator, not isinstance(second, int)):
    right = f'({right})'
  return left + operator + right


def _steps(tree: Tree) -> tuple[list[str], Fraction]:
  """Lines 'a+b=c' from the leaves up, and the value."""
  if isinstance(tree, int):
    return [], Fraction(tree)
  operator, first, second = tree
  (before, a), (after, b) = _steps(first), _steps(second)
  value = {
    '+': lambda: a + b,
    '-': lambda: a - b,
    '*': lambda: a * b,
    '/': lambda: a / b,
  }[operator]()
  operand = lambda x: str(x) if x.denominator == 1 else f'({x})'
  line = f'{operand(a)}{operator}{operand(b)}={value}'
  return [*before, *after, line], value
