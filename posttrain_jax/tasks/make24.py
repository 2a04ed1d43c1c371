"""Make 24: '[4,j,q,6]24:' -> '6*4*10/10', using every card exactly once.

The game is General Points of Chu et al. (2025), where the value of the face
cards is the rule that changes between training and test:
https://arxiv.org/abs/2501.17161
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.resolve import nearest
from posttrain_jax.tasks import base, expressions, vocab
from posttrain_jax.tasks.vocab import Text
from posttrain_jax.types import Array, Example

FACES = 'jqk'  # ranks 11, 12, 13
RULES = {'ten': (10, 10, 10), 'rank': (11, 12, 13)}
MAX_DEPTH = 8

Number = int | Fraction
Tree = int | tuple  # a card's value, or (operator, first, second)


@dataclasses.dataclass(frozen=True)
class Task:
  """Reach `target` from `num_cards` cards, each used exactly once.

  num_cards        cards of a hand
  max_card         they are of ranks 1..max_card; 11, 12, 13 are j, q, k
  face_cards       what j, q, k count: 'ten', 'rank', or three numbers, as
                   '9,10,11'
  target           the number to reach
  show_rule        the prompt says what they count: '[j10q10k10;4,j,q,6]24:'
  chain_of_thought the oracle writes its steps, then '>' and the expression

  Every hand that has a solution is drawn equally often. The answer is written
  in numbers, never in letters; the verifier accepts any exact expression of
  fewer than MAX_DEPTH nested parentheses. The table of hands takes a second or
  two of the host (for five cards somewhat more) and is kept.
  """

  num_cards: int = 4
  max_card: int = 13
  face_cards: str = 'ten'
  target: int = 24
  show_rule: bool = False
  chain_of_thought: bool = False

  def __post_init__(self):
    base.check(
      2 <= self.num_cards <= 5,
      f'make24: num_cards={self.num_cards} is not in 2..5',
    )
    base.check(
      2 <= self.max_card <= 13,
      f'make24: max_card={self.max_card} is not in 2..13',
    )
    base.check(
      not self.show_rule or self.max_card > 10,
      f'make24: show_rule needs face cards, but max_card={self.max_card}',
    )
    top = max(self._values.values())
    base.check(
      1 <= self.target <= min(top**self.num_cards, 9999),
      f'make24: target={self.target} is out of reach of {self.num_cards} cards',
    )
    base.check(
      top**self.num_cards * self.target < 2**28,
      f'make24: face_cards={self.face_cards!r} and target={self.target} are '
      f'too large for exact values with num_cards={self.num_cards}',
    )

  @property
  def _faces(self) -> tuple[int, ...]:
    """What j, q and k count."""
    if self.face_cards in RULES:
      return RULES[self.face_cards]
    parts = self.face_cards.split(',')
    base.check(
      len(parts) == 3 and all(p.isdecimal() and len(p) < 3 for p in parts),
      f'make24: face_cards={self.face_cards!r} must be a rule or three numbers '
      f'up to 99, as "9,10,11".{nearest(self.face_cards, RULES)}',
    )
    base.check(
      all(int(p) > 0 for p in parts),
      f'make24: face_cards={self.face_cards!r} has a card that counts 0',
    )
    return tuple(int(p) for p in parts)

  @property
  def _values(self) -> dict[int, int]:
    """What each rank counts."""
    faces = dict(zip((11, 12, 13), self._faces))
    return {r: faces.get(r, r) for r in range(1, self.max_card + 1)}

  @property
  def _rule(self) -> str:
    if not self.show_rule:
      return ''
    return ''.join(f'{f}{v}' for f, v in zip(FACES, self._faces)) + ';'

  @property
  def _hands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _hands(
      self.num_cards,
      tuple(self._values.values()),
      self.target,
      self.chain_of_thought,
    )

  @property
  def prompt_length(self) -> int:
    digits = len(str(self.target))
    return len(self._rule) + 3 * self.num_cards + digits + 2

  @property
  def completion_length(self) -> int:
    return self._hands[1].shape[1] + 1

  def sample(self, key: Array) -> Example:
    """A problem.

    Raises:
      ValueError: no hand reaches the target.
    """
    hand_key, order_key = jax.random.split(key)
    hands = self._hands[0]
    hand = jax.random.randint(hand_key, (), 0, len(hands))
    ranks = jax.random.permutation(order_key, jnp.asarray(hands)[hand])
    pieces = [vocab.literal('[' + self._rule)]
    for i in range(self.num_cards):
      face = vocab.char(_face_tokens()[jnp.clip(ranks[i] - 11, 0, 2)])
      card = vocab.where(ranks[i] > 10, face, vocab.number(ranks[i], 2))
      pieces += [card, vocab.literal(',')]
    pieces[-1] = vocab.literal(f']{self.target}:')
    values = jnp.array([0, *self._values.values()], jnp.int32)
    answer = {'numbers': values[ranks], 'hand': hand}
    return base.example(vocab.join(*pieces), answer, self.prompt_length)

  def identity(self, example: Example) -> Array:
    """What the cards count, in whatever order they are shown."""
    return jnp.sort(example.answer['numbers'])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    text = base.final_text(completion, mask, '>')
    value = expressions.evaluate(
      text, max_numbers=self.num_cards, max_depth=MAX_DEPTH
    )
    fair = expressions.uses_exactly(value, example.answer['numbers'])
    right = fair & expressions.equals(value, jnp.int32(self.target))
    return {
      'reward': right.astype(jnp.float32),
      'format': value.ok.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution is kept of each hand
    _, texts, lengths = self._hands
    hand = example.answer['hand']
    tokens = jnp.asarray(texts)[hand].astype(jnp.int32)
    text = Text(tokens, jnp.asarray(lengths)[hand])
    return base.finish(text, self.completion_length)


def _face_tokens() -> Array:
  return jnp.array([vocab.token(face) for face in FACES], jnp.int32)


@functools.cache
def _hands(
  num_cards: int, values: tuple[int, ...], target: int, thought: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Every hand that reaches `target`, and one solution of each.

  values  what the ranks 1, 2, ... count

  Returns ranks [H, num_cards] int32 ascending, solution tokens [H, L] int8,
  their lengths [H] int32.
  """
  ranks, texts, known = [], [], {}
  everything = range(1, len(values) + 1)
  for hand in itertools.combinations_with_replacement(everything, num_cards):
    cards = tuple(sorted(values[rank - 1] for rank in hand))
    if cards not in known:
      # Fractions only where whole numbers do not do.
      tree = _solve(cards, target, True) or _solve(cards, target, False)
      known[cards] = None if tree is None else _solution(tree, thought)
    if known[cards] is not None:
      ranks.append(hand)
      texts.append(vocab.encode(known[cards]))
  _reachable.cache_clear()
  base.check(
    len(ranks) > 0,
    f'make24: no hand of {num_cards} cards of ranks 1..{len(values)} reaches '
    f'target={target}',
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


def _solve(cards: tuple[int, ...], target: Number, whole: bool) -> Tree | None:
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
        right = _solve(large, b, whole)
        if right is not None:
          pair = (left, right) if first else (right, left)
          return (operator, *pair)
  return None


def _solution(tree: Tree, thought: bool) -> str:
  lines, _ = _steps(tree)
  return (','.join(lines) + '>' if thought else '') + _write(tree)


def _write(tree: Tree) -> str:
  """The expression, with no more parentheses than it needs."""
  if isinstance(tree, int):
    return str(tree)
  operator, first, second = tree
  weak = lambda t: not isinstance(t, int) and t[0] in '+-'
  left, right = _write(first), _write(second)
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
