"""Make 24: '[4,j,q,6]24:' -> '6*4*10/10', using every card exactly once.

The game is General Points of Chu et al. (2025), where the value of the face
cards is the rule that changes between training and test:
https://arxiv.org/abs/2501.17161
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import card_hands, expressions
from posttrain_jax.tasks.vocab import Text

FACES = 'jqk'  # ranks 11, 12, 13
RULES = {'ten': (10, 10, 10), 'rank': (11, 12, 13)}
MAX_DEPTH = 8


@dataclasses.dataclass(frozen=True)
class Task:
  """Reach `target` from `num_cards` cards, each used exactly once.

  num_cards        cards of a hand
  max_card         they are of ranks 1..max_card; 11, 12, 13 are j, q, k
  face_cards       what j, q, k count: 'ten', 'rank', or three numbers, as
                   '9,10,11'; of several rules, 'ten|9,10,11', each problem
                   has one, all equally often
  target           the number to reach
  show_rule        the prompt says what they count: '[j10q10k10;4,j,q,6]24:'
  chain_of_thought the oracle writes its steps, then '>' and the expression
  max_number       number cards above it are not in the deck
  min_faces        face cards of a hand, at least
  write_cards      before its steps the oracle writes what each card counts, as
                   they are shown: '4,10,10,6;'
  other_rule       a rule as in face_cards; the verdict says of each answer
                   whether it was given as under this one

  Where the cards count something else under `other_rule`, the verdict's
  'other_cards' is 1.0 if the expression is of what they count there, and
  'other_rule' if it also reaches the target; elsewhere both are 0.0.

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
  max_number: int = 10
  min_faces: int = 0
  write_cards: bool = False
  other_rule: str = ''

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
    self._check_deck()
    top = max(max(values) for values in self._values)
    base.check(
      1 <= self.target <= min(top**self.num_cards, 9999),
      f'make24: target={self.target} is out of reach of {self.num_cards} cards',
    )
    base.check(
      top**self.num_cards * self.target < 2**28,
      f'make24: face_cards={self.face_cards!r} and target={self.target} are '
      f'too large for exact values with num_cards={self.num_cards}',
    )

  def _check_deck(self) -> None:
    base.check(
      1 <= self.max_number <= 10,
      f'make24: max_number={self.max_number} is not in 1..10',
    )
    base.check(
      0 <= self.min_faces <= self.num_cards,
      f'make24: min_faces={self.min_faces} is not in '
      f'0..num_cards={self.num_cards}',
    )
    faces = self.min_faces > 0 or self.other_rule
    base.check(
      not faces or self.max_card > 10,
      f'make24: min_faces={self.min_faces} and other_rule='
      f'{self.other_rule!r} need face cards, but max_card={self.max_card}',
    )
    base.check(
      self.chain_of_thought or not self.write_cards,
      'make24: write_cards=True begins a chain of thought, but '
      'chain_of_thought=False',
    )
    if self.other_rule:
      _faces(self.other_rule, 'other_rule')

  @property
  def _rules(self) -> tuple[tuple[int, ...], ...]:
    """What j, q and k count, under each rule."""
    return tuple(_faces(rule) for rule in self.face_cards.split('|'))

  def _ranked(self, faces: tuple[int, ...]) -> tuple[int, ...]:
    """What the ranks 1, 2, ... count."""
    return (*range(1, 11), *faces)[: self.max_card]

  @property
  def _values(self) -> tuple[tuple[int, ...], ...]:
    """What the ranks count, under each rule."""
    return tuple(self._ranked(faces) for faces in self._rules)

  @property
  def _rule_length(self) -> int:
    if not self.show_rule:
      return 0
    return max(len(''.join(map(str, faces))) for faces in self._rules) + 4

  @property
  def _deck(self) -> tuple[int, ...]:
    """Ranks of the cards that there are."""
    ranks = range(1, self.max_card + 1)
    return tuple(r for r in ranks if r > 10 or r <= self.max_number)

  @property
  def _hands(self) -> tuple[np.ndarray, ...]:
    return card_hands.dealt(
      self.num_cards,
      self._values,
      self.target,
      self.chain_of_thought,
      self._deck,
      self.min_faces,
    )

  @property
  def prompt_length(self) -> int:
    digits = len(str(self.target))
    return self._rule_length + 3 * self.num_cards + digits + 2

  @property
  def completion_length(self) -> int:
    shown = self.num_cards * (self._digits + 1) if self.write_cards else 0
    return shown + self._hands[1].shape[1] + 1

  @property
  def _digits(self) -> int:
    """Of the largest card that there is."""
    values = [count[rank - 1] for count in self._values for rank in self._deck]
    return len(str(max(values)))

  def sample(self, key: Array) -> Example:
    """A problem.

    Raises:
      ValueError: no hand reaches the target.
    """
    hand_key, order_key = jax.random.split(key)
    hands, _, _, starts, counts = self._hands
    rule_key = jax.random.fold_in(hand_key, 1)
    rule = jax.random.randint(rule_key, (), 0, len(counts))
    hand = jax.random.randint(hand_key, (), 0, jnp.asarray(counts)[rule])
    hand += jnp.asarray(starts)[rule]
    ranks = jax.random.permutation(order_key, jnp.asarray(hands)[hand])
    pieces = [vocab.literal('[')]
    if self.show_rule:
      for i, face in enumerate(FACES):
        count = jnp.array(self._rules, jnp.int32)[rule, i]
        pieces += [vocab.literal(face), vocab.number(count, 2)]
      pieces.append(vocab.literal(';'))
    for i in range(self.num_cards):
      face = vocab.char(_face_tokens()[jnp.clip(ranks[i] - 11, 0, 2)])
      card = vocab.where(ranks[i] > 10, face, vocab.number(ranks[i], 2))
      pieces += [card, vocab.literal(',')]
    pieces[-1] = vocab.literal(f']{self.target}:')
    values = jnp.array(self._values, jnp.int32)[rule]
    answer = {'numbers': values[ranks - 1], 'hand': hand}
    if self.other_rule:
      faces = _faces(self.other_rule, 'other_rule')
      others = jnp.array(self._ranked(faces), jnp.int32)
      answer['others'] = others[ranks - 1]
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
    numbers = example.answer['numbers']
    reached = expressions.equals(value, jnp.int32(self.target))
    right = expressions.uses_exactly(value, numbers) & reached
    verdict = {'reward': right, 'format': value.ok}
    if self.other_rule:
      others = example.answer['others']
      differ = jnp.any(jnp.sort(others) != jnp.sort(numbers))
      fair = expressions.uses_exactly(value, others) & value.ok & differ
      verdict |= {'other_cards': fair, 'other_rule': fair & reached}
    return {k: x.astype(jnp.float32) for k, x in verdict.items()}

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution is kept of each hand
    _, texts, lengths, *_ = self._hands
    hand = example.answer['hand']
    tokens = jnp.asarray(texts)[hand].astype(jnp.int32)
    text = Text(tokens, jnp.asarray(lengths)[hand])
    if self.write_cards:
      cards = []
      for i in range(self.num_cards):
        end = ',' if i < self.num_cards - 1 else ';'
        number = vocab.number(example.answer['numbers'][i], self._digits)
        cards += [number, vocab.literal(end)]
      text = vocab.join(*cards, text)
    return base.finish(text, self.completion_length)


def _face_tokens() -> Array:
  return jnp.array([vocab.token(face) for face in FACES], jnp.int32)


def _faces(rule: str, knob: str = 'face_cards') -> tuple[int, ...]:
  """What j, q and k count under a rule, as the knob names it."""
  if rule in RULES:
    return RULES[rule]
  parts = rule.split(',')
  base.check(
    len(parts) == 3 and all(p.isdecimal() and len(p) < 3 for p in parts),
    f'make24: {knob}={rule!r} must be a rule or three numbers up to 99, as '
    f'"9,10,11".{nearest(rule, RULES)}',
  )
  base.check(
    all(int(p) > 0 for p in parts),
    f'make24: {knob}={rule!r} has a card that counts 0',
  )
  return tuple(int(p) for p in parts)
