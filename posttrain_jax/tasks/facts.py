"""Synthetic closed-book facts: 'ab cn?' -> 'dw', to be known by heart.

The table of facts is a pure function of `table_seed`. Only training on its
pairs can teach it, so what a model knows, forgets or invents can be counted.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

SPLITS = ('train', 'heldout', 'all')
MAX_PAIRS = 2**16


@dataclasses.dataclass(frozen=True)
class Task:
  """Asks for the value of a random (entity, relation) pair.

  num_entities, num_relations, num_values
                    sizes; each entity, relation and value has a name of its
                    own, and all names have the same number of letters
  table_seed        the table: each pair's value, and which pairs are held out
  split             'train', 'heldout' or 'all': the pairs that are asked
  heldout_fraction  share of all pairs that are held out, rounded to a pair
  abstain           share of demonstrations that say '?' in place of the value:
                    above 0 that is an answer, wrong and 'abstained'
  """

  num_entities: int = 64
  num_relations: int = 4
  num_values: int = 64
  table_seed: int = 0
  split: str = 'train'
  heldout_fraction: float = 0.2
  abstain: float = 0.0

  def __post_init__(self):
    for knob, low in (
      ('num_entities', 1),
      ('num_relations', 1),
      ('num_values', 2),
    ):
      value = getattr(self, knob)
      base.check(
        low <= value <= MAX_PAIRS,
        f'facts: {knob}={value} is not in {low}..{MAX_PAIRS}',
      )
    base.check(
      self.num_pairs <= MAX_PAIRS,
      f'facts: num_entities * num_relations = {self.num_pairs} pairs, more '
      f'than {MAX_PAIRS}',
    )
    base.check(
      0 <= self.table_seed < 2**31,
      f'facts: table_seed={self.table_seed} is not in 0..2**31-1',
    )
    base.check(
      self.split in SPLITS,
      f'facts: unknown split "{self.split}".{nearest(self.split, SPLITS)}',
    )
    base.check(
      0.0 <= self.heldout_fraction <= 1.0,
      f'facts: heldout_fraction={self.heldout_fraction} is not in 0..1',
    )
    base.check(
      0.0 <= self.abstain < 1.0,
      f'facts: abstain={self.abstain} is not in 0..1, 1 left out',
    )
    first, last = self._bounds
    base.check(
      first < last,
      f'facts: split "{self.split}" is empty: heldout_fraction='
      f'{self.heldout_fraction} of {self.num_pairs} pairs',
    )

  @property
  def num_pairs(self) -> int:
    return self.num_entities * self.num_relations

  @property
  def _bounds(self) -> tuple[int, int]:
    """Range of this split's pairs in the table's shuffled order."""
    heldout = round(self.heldout_fraction * self.num_pairs)
    return {
      'heldout': (0, heldout),
      'train': (heldout, self.num_pairs),
      'all': (0, self.num_pairs),
    }[self.split]

  @property
  def name_length(self) -> int:
    names = self.num_entities + self.num_relations + self.num_values
    return next(n for n in range(1, 9) if 26**n >= names)

  @property
  def prompt_length(self) -> int:
    return 2 * self.name_length + 2

  @property
  def completion_length(self) -> int:
    return self.name_length + 1

  def _key(self, use: int) -> Array:
    # A named generator: the table must not change with jax's default one.
    return jax.random.fold_in(
      jax.random.key(self.table_seed, impl='threefry2x32'), use
    )

  def _name(self, index: Array) -> Text:
    """Name number `index`; entities come first, then relations, then values."""
    powers = 26 ** jnp.arange(self.name_length - 1, -1, -1)
    tokens = vocab.token('a') + index // powers % 26
    return Text(tokens.astype(jnp.int32), jnp.int32(self.name_length))

  def value(self, pair: Array) -> Array:
    """The table: index of the value of pair entity * num_relations + relation.

    pair [] int32 -> [] int32 in 0..num_values-1
    """
    pair_key = jax.random.fold_in(self._key(0), pair)
    return jax.random.randint(pair_key, (), 0, self.num_values)

  def sample(self, key: Array) -> Example:
    pair = jax.random.randint(key, (), *self._bounds)
    if self.split != 'all':
      bits = jax.random.bits(self._key(1), (self.num_pairs,))
      pair = jnp.argsort(bits)[pair].astype(jnp.int32)
    entity, relation = pair // self.num_relations, pair % self.num_relations
    prompt = vocab.join(
      self._name(entity),
      vocab.literal(' '),
      self._name(self.num_entities + relation),
      vocab.literal('?'),
    )
    return base.example(prompt, {'pair': pair}, self.prompt_length)

  def _answer(self, example: Example) -> Text:
    value = self.value(example.answer['pair'])
    return self._name(self.num_entities + self.num_relations + value)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'abstained', with `abstain` above 0."""
    verdict = base.exact_match(self._answer(example), completion, mask, '>')
    if self.abstain:
      said = base.exact_match(vocab.literal('?'), completion, mask, '>')
      verdict['abstained'] = said['reward']
    return verdict

  def solve(self, example: Example, key: Array) -> Text:
    answer = base.finish(self._answer(example), self.completion_length)
    if not self.abstain:
      return answer  # one solution only
    silent = jax.random.uniform(key) < self.abstain
    nothing = base.finish(vocab.literal('?'), self.completion_length)
    return jax.tree.map(lambda x, y: jnp.where(silent, x, y), nothing, answer)
