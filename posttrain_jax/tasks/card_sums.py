"""Card sums: 'j7q2k5:3jk9=' -> '24', where the prompt says what a face counts.

The rule of General Points (what j, q and k count; Chu et al. 2025,
https://arxiv.org/abs/2501.17161), on sums: it changes from problem to problem,
and a model that does not read it answers as under another one.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

FACES = 'jqk'
NUMBERS = 9  # cards 1..9; a face is 9 + its place in FACES, from 1


@dataclasses.dataclass(frozen=True)
class Task:
  """Adds up `num_cards` cards, of 1 to 9 and j, q, k.

  num_cards        cards of a hand
  rules            what j, q and k count, a digit each, as '725'; of several
                   rules, '725|111', each problem has one, all equally often
  min_faces        face cards of a hand, at least
  chain_of_thought the oracle writes each card, what it counts and the sum so
                   far in two digits, then '>': '3303j710k515...>24'
  other_rule       a rule; the verdict says of each answer whether it was given
                   as under this one

  The verdict's 'other_rule' is 1.0 for the sum under `other_rule`, where this
  is another number. A hand is one problem in whatever order its cards lie, and
  under whatever rule: one that is held out is held out under all of them.
  """

  num_cards: int = 4
  rules: str = '777'
  min_faces: int = 1
  chain_of_thought: bool = False
  other_rule: str = ''

  def __post_init__(self):
    base.check(
      1 <= self.num_cards <= 11,
      f'card_sums: num_cards={self.num_cards} is not in 1..11 (sums of two '
      'digits)',
    )
    base.check(
      0 <= self.min_faces <= self.num_cards,
      f'card_sums: min_faces={self.min_faces} is not in '
      f'0..num_cards={self.num_cards}',
    )
    for rule in self.rules.split('|'):
      _check_rule('rules', rule)
    if self.other_rule:
      _check_rule('other_rule', self.other_rule)

  @property
  def prompt_length(self) -> int:
    return 2 * len(FACES) + 1 + self.num_cards + 1

  @property
  def completion_length(self) -> int:
    thought = 4 * self.num_cards + 1 if self.chain_of_thought else 0
    return thought + 3

  def sample(self, key: Array) -> Example:
    rule_key, card_key, face_key, order_key = jax.random.split(key, 4)
    rules = jnp.array([_values(x) for x in self.rules.split('|')])
    faces = rules[jax.random.randint(rule_key, (), 0, rules.shape[0])]
    size = (self.num_cards,)
    top = NUMBERS + len(FACES)
    cards = jax.random.randint(card_key, size, 1, top + 1)
    pictures = jax.random.randint(face_key, size, NUMBERS + 1, top + 1)
    cards = jnp.where(jnp.arange(self.num_cards) < self.min_faces,
                      pictures, cards)  # fmt: skip
    cards = jax.random.permutation(order_key, cards)
    legend = jnp.stack([_tokens(NUMBERS + 1 + jnp.arange(3)),
                        vocab.ZERO + faces], 1).reshape(-1)  # fmt: skip
    prompt = vocab.join(
      _text(legend),
      vocab.literal(':'),
      _text(_tokens(cards)),
      vocab.literal('='),
    )
    answer = {'cards': cards, 'faces': faces}
    return base.example(prompt, answer, self.prompt_length)

  def identity(self, example: Example) -> Array:
    """The hand, in whatever order and under whatever rule."""
    return jnp.sort(example.answer['cards'])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    text = base.final_text(completion, mask, '>')
    cards = example.answer['cards']
    total = jnp.sum(_counted(cards, example.answer['faces']))
    right = vocab.equal(text, vocab.number(total, 2))
    verdict = {'reward': right}
    if self.other_rule:
      other = jnp.sum(_counted(cards, jnp.array(_values(self.other_rule))))
      said = vocab.equal(text, vocab.number(other, 2))
      verdict['other_rule'] = said & (other != total)
    return {k: x.astype(jnp.float32) for k, x in verdict.items()}

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    cards = example.answer['cards']
    counted = _counted(cards, example.answer['faces'])
    answer = vocab.number(jnp.sum(counted), 2)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    so_far = jnp.cumsum(counted)
    digits = [counted, so_far // 10, so_far % 10]
    steps = jnp.stack([_tokens(cards), *(vocab.ZERO + x for x in digits)], 1)
    text = vocab.join(_text(steps.reshape(-1)), vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)


def _check_rule(knob: str, rule: str) -> None:
  base.check(
    len(rule) == len(FACES) and set(rule) <= set('123456789'),
    f'card_sums: {knob} has {rule!r}, which is not three digits from 1 to 9, '
    'as "725"',
  )


def _values(rule: str) -> list[int]:
  return [int(x) for x in rule]


def _text(tokens: Array) -> Text:
  """All of `tokens`."""
  return Text(tokens.astype(jnp.int32), jnp.int32(tokens.shape[0]))


def _tokens(cards: Array) -> Array:
  """How cards are written."""
  faces = jnp.array([vocab.token(x) for x in FACES], jnp.int32)
  place = jnp.clip(cards - NUMBERS - 1, 0, len(FACES) - 1)
  return jnp.where(cards > NUMBERS, faces[place], vocab.ZERO + cards)


def _counted(cards: Array, faces: Array) -> Array:
  """What cards count, by what the faces [3] do."""
  place = jnp.clip(cards - NUMBERS - 1, 0, len(FACES) - 1)
  return jnp.where(cards > NUMBERS, faces[place], cards)
