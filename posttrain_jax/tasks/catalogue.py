"""Names of a catalogue by their popularity: 'c>' -> 'bade'.

A user of group c takes an item, popular ones more often. Which names there are
and how often each group takes them is a pure function of `table_seed`. A
recommender has to give names that exist, and to give them as often as they are
wanted: the names are leaves of a prefix tree, and the popularity below a prefix
is its flow.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

REWARDS = ('listed', 'hit', 'flow')
FIRST = vocab.token('a')
# A step that no name takes is worth so much, in nats; Flower's code.
IMPOSSIBLE = -15.0


@functools.lru_cache(maxsize=32)
def _table(
  items: int, length: int, letters: int, groups: int, zipf: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """(tokens of the names [N, L], popularity [U, N], which sums to 1)."""
  # Its `random` is fixed by name; other methods may change with a release.
  draw = np.random.Generator(np.random.PCG64(seed)).random
  # Early letters are likelier, so that prefixes differ in what is below them.
  ends = np.cumsum(1.0 / np.arange(1, letters + 1))
  names: dict[tuple[int, ...], None] = {}
  while len(names) < items:
    code = np.searchsorted(ends, draw(length) * ends[-1])
    names.setdefault(tuple(code.tolist()))
  rank = np.argsort(np.argsort(draw((groups, items)), axis=1), axis=1)
  weight = (1.0 + rank) ** -zipf
  tokens = np.array(list(names), np.int32) + FIRST
  return tokens, weight / weight.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Task:
  """Asks for an item that a user of a group takes.

  items        names in the catalogue
  name_length  letters of each
  letters      that names are made of: the first so many of the alphabet
  groups       of users, each with a popularity of its own
  zipf         an item of rank k is taken 1 / k^zipf times as often as the first
  flatten      power of popularity that an item is worth, with reward 'flow': 1
               as it is, 0 all alike
  reward       'listed': 1.0 for any name of the catalogue; 'hit': for the item
               that this user took; 'flow': what a name is worth, a share of the
               group's total, for answers in proportion to it
  table_seed   of names and popularity

  With 'flow' a text that is no name has the flow of its longest prefix that
  begins one, times e^-15 for every step from there, that of ending included:
  `sub_trajectory_balance_stop` then reads the process rewards of the paper,
  where `log_reward.floor` is as low (1e-30).
  Whatever the reward, 'hit' and 'listed' are told too.

  Reference: Gao et al. (2025), Flower, https://arxiv.org/abs/2503.07377; its
  code for the reward of what is impossible. The task is ours.
  """

  items: int = 200
  name_length: int = 4
  letters: int = 12
  groups: int = 4
  zipf: float = 1.0
  flatten: float = 0.5
  reward: str = 'listed'
  table_seed: int = 0

  def __post_init__(self):
    for knob, low, high in (
      ('items', 2, 4096),
      ('name_length', 1, 16),
      ('letters', 2, 26),
      ('groups', 1, 26),
      ('table_seed', 0, 2**31 - 1),
    ):
      value = getattr(self, knob)
      base.check(
        low <= value <= high,
        f'catalogue: {knob}={value} is not in {low}..{high}',
      )
    names = self.letters**self.name_length
    # A table of rare names would take long to draw.
    base.check(
      4 * self.items <= names,
      f'catalogue: items={self.items} is more than a quarter of the {names} '
      f'names of name_length={self.name_length} out of letters={self.letters}',
    )
    base.check(
      0.0 <= self.zipf <= 4.0, f'catalogue: zipf={self.zipf} is not in 0..4'
    )
    base.check(
      0.0 <= self.flatten <= 1.0,
      f'catalogue: flatten={self.flatten} is not in 0..1',
    )
    base.check(
      self.reward in REWARDS,
      f'catalogue: unknown reward "{self.reward}".'
      + nearest(self.reward, REWARDS),
    )

  @property
  def prompt_length(self) -> int:
    return 2

  @property
  def completion_length(self) -> int:
    return self.name_length + 1

  @property
  def names(self) -> np.ndarray:
    """[items, name_length] tokens."""
    return self._tables[0]

  @property
  def popularity(self) -> np.ndarray:
    """[groups, items] chance that a user of a group takes an item."""
    return self._tables[1]

  @property
  def worth(self) -> np.ndarray:
    """[groups, items] `popularity`, flattened; sums to 1 over items."""
    flat = self.popularity**self.flatten
    return flat / flat.sum(axis=1, keepdims=True)

  @property
  def _tables(self) -> tuple[np.ndarray, np.ndarray]:
    return _table(
      self.items, self.name_length, self.letters, self.groups, self.zipf,
      self.table_seed,
    )  # fmt: skip

  def of_group(self, group: Array, item: Array) -> Example:
    """The problem of a user of `group` who took `item`."""
    prompt = vocab.join(vocab.char(FIRST + group), vocab.literal('>'))
    return base.example(
      prompt, {'group': group, 'item': item}, self.prompt_length
    )

  def sample(self, key: Array) -> Example:
    group_key, item_key = jax.random.split(key)
    group = jax.random.randint(group_key, (), 0, self.groups)
    chance = jnp.asarray(self.popularity, jnp.float32)[group]
    return self.of_group(group, base.pick(item_key, chance))

  def log_flow(self, group: Array, text: Text) -> Array:
    """[] log of what a text that ends here is worth, as 'flow' says."""
    begun = vocab.fit(text, self.name_length)
    same = jnp.asarray(self.names) == begun.tokens[None]
    same &= (jnp.arange(self.name_length) < begun.length)[None]
    follows = jnp.cumprod(same, axis=1)  # [N, L] the first letters are a name's
    worth = jnp.asarray(self.worth, jnp.float32)[group]
    flows = worth @ follows.astype(jnp.float32)  # [L] of prefixes
    steps = jnp.sum(flows > 0)  # how far a name goes
    flow = jnp.where(steps > 0, flows[jnp.maximum(steps - 1, 0)], 1.0)
    whole = (steps == self.name_length) & (text.length == self.name_length)
    beyond = jnp.where(whole, 0, text.length - steps + 1)
    return jnp.log(flow) + IMPOSSIBLE * beyond

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    text = base.final_text(completion, mask)
    name = vocab.fit(text, self.name_length)
    same = jnp.all(jnp.asarray(self.names) == name.tokens[None], axis=1)
    same &= text.length == self.name_length
    told = {
      'listed': jnp.any(same).astype(jnp.float32),
      'hit': same[example.answer['item']].astype(jnp.float32),
    }
    if self.reward == 'flow':
      worth = jnp.exp(self.log_flow(example.answer['group'], text))
      return {'reward': worth, **told}
    return {'reward': told[self.reward], **told}

  def solve(self, example: Example, key: Array) -> Text:
    del key  # the item that was taken
    tokens = jnp.asarray(self.names)[example.answer['item']]
    name = Text(tokens, jnp.int32(self.name_length))
    return base.finish(name, self.completion_length)
