"""Strings with properties that the prompt asks for: '+v-e-r+v:' -> 'aioe...'.

A principle is a sign and a property, 'v', 'e' or 'r'; with '+' more than half
of what it counts has to be so, with '-' less than half:

  v  letters that are vowels
  e  letters of the first half of the alphabet
  r  neighbours of which the second letter does not come before the first

Every set of principles can be met at once. What a string has of each property
is told beside the verdict, so that rewards of one property, their weights and
their principles can be tried.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

PROPERTIES = 'ver'
NAMES = ('vowels', 'early', 'rising')
PLACES = ('each', 'whole')
LETTERS = 26
FIRST = vocab.token('a')
IS_VOWEL = np.isin(np.arange(LETTERS), [ord(x) - ord('a') for x in 'aeiou'])
IS_EARLY = np.arange(LETTERS) < LETTERS // 2
OF_LETTER = np.stack([IS_VOWEL, IS_EARLY])  # [2, LETTERS]


@dataclasses.dataclass(frozen=True)
class Task:
  """Strings of `segments` segments, each of `width` letters.

  segments  segments of a string
  width     letters of a segment, an even number
  places    'each': every segment has a principle of its own, in order; 'whole':
            one to three principles, each of another property, hold in all
            segments
  least     fewest principles of a string, with 'whole'
  most      most of them

  A string is right that has the length asked for and meets every principle in
  every segment that it is for.

  References: Sun et al. (2023), SALMON, https://arxiv.org/abs/2310.05910
  (principles, negated or not); Li et al. (2024),
  https://arxiv.org/abs/2412.14626 (control that changes along a text); the
  task is ours
  """

  segments: int = 4
  width: int = 4
  places: str = 'each'
  least: int = 1
  most: int = 3

  def __post_init__(self):
    base.check(
      1 <= self.segments <= 16,
      f'attributes: segments={self.segments} is not in 1..16',
    )
    base.check(
      self.width % 2 == 0 and 2 <= self.width <= 12,
      f'attributes: width={self.width} is not an even number in 2..12',
    )
    base.check(
      self.places in PLACES,
      f'attributes: unknown places="{self.places}".'
      + nearest(self.places, PLACES),
    )
    base.check(
      1 <= self.least <= self.most <= len(PROPERTIES),
      f'attributes: needs 1 <= least={self.least} <= most={self.most} <= '
      f'{len(PROPERTIES)}',
    )

  @property
  def prompt_length(self) -> int:
    count = self.segments if self.places == 'each' else self.most
    return 2 * count + 1

  @property
  def completion_length(self) -> int:
    return self.segments * self.width + 1

  def sample(self, key: Array) -> Example:
    count_key, which_key, sign_key = jax.random.split(key, 3)
    n = len(PROPERTIES)
    if self.places == 'each':
      which = jax.random.randint(which_key, (self.segments,), 0, n)
      sign = 2 * jax.random.randint(sign_key, (self.segments,), 0, 2) - 1
      wanted = sign[:, None] * (which[:, None] == jnp.arange(n)[None])
      return self.level(wanted)
    count = jax.random.randint(count_key, (), self.least, self.most + 1)
    rank = jnp.argsort(jax.random.permutation(which_key, n))
    sign = 2 * jax.random.randint(sign_key, (n,), 0, 2) - 1
    wanted = jnp.where(rank < count, sign, 0)
    return self.level(jnp.broadcast_to(wanted, (self.segments, n)))

  def level(self, wanted: Array) -> Example:
    """The problem of `wanted` [segments, 3]: 1, -1 or 0 (any) of each property;
    one of each segment is not 0 with 'each', all segments are alike with
    'whole'."""
    n = len(PROPERTIES)
    shown = wanted if self.places == 'each' else wanted[:1]
    signs = jnp.where(shown > 0, vocab.token('+'), vocab.token('-'))
    letters = jnp.broadcast_to(jnp.asarray(vocab.encode(PROPERTIES)), (n,))
    pairs = jnp.stack([signs, jnp.broadcast_to(letters, signs.shape)], axis=-1)
    keep = jnp.broadcast_to((shown != 0)[..., None], pairs.shape)
    said = vocab.compact(pairs.reshape(-1), keep.reshape(-1))
    prompt = vocab.join(said, vocab.literal(':'))
    return base.example(prompt, {'wanted': wanted}, self.prompt_length)

  def shares(self, completion: Array, mask: Array) -> tuple[Array, Array]:
    """([segments, 3] what each segment has of each property, 0 to 1; whether
    the string is one)."""
    text = base.final_text(completion, mask)
    size = self.segments * self.width
    code = vocab.fit(text, size).tokens - FIRST
    known = jnp.arange(text.tokens.shape[0]) < text.length
    letters = (text.tokens >= FIRST) & (text.tokens < FIRST + LETTERS)
    formed = (text.length == size) & jnp.all(letters | ~known)
    code = jnp.clip(code, 0, LETTERS - 1).reshape(self.segments, self.width)
    of_letter = jnp.asarray(OF_LETTER)[:, code].mean(axis=-1)  # [2, segments]
    rising = jnp.mean(code[:, 1:] >= code[:, :-1], axis=-1)
    found = jnp.concatenate([of_letter, rising[None]]).T
    return jnp.where(formed, found, 0.0), formed

  def degrees(
    self, example: Example, completion: Array, mask: Array
  ) -> tuple[Array, Array]:
    """([K] what the string has of the property of each principle, [K] 1, -1 or
    0 where it is asked for, negated or not named).

    K is 3 with 'whole', and `segments` with 'each', one principle each.
    """
    found, _ = self.shares(completion, mask)
    wanted = example.answer['wanted']
    if self.places == 'whole':
      return found.mean(axis=0), wanted[0]
    own = jnp.abs(wanted)
    return jnp.sum(found * own, axis=1), jnp.sum(wanted, axis=1)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'format': a string of that length; 'score': how far the
    principles are met, on average; 'vowels', 'early' and 'rising': what the
    string has of each property, whatever is wanted."""
    wanted = example.answer['wanted']
    found, formed = self.shares(completion, mask)
    asked = wanted != 0
    met = jnp.where(wanted > 0, found > 0.5, found < 0.5)
    degree = jnp.where(wanted > 0, found, 1.0 - found)
    score = jnp.sum(degree * asked) / jnp.sum(asked)
    numbers = dict(zip(NAMES, found.mean(axis=0)))
    return {
      'reward': (formed & jnp.all(met | ~asked)).astype(jnp.float32),
      'format': formed.astype(jnp.float32),
      'score': jnp.where(formed, score, 0.0),
      **numbers,
    }

  def solve(self, example: Example, key: Array) -> Text:
    """A string that meets every principle wholly, or as far as letters go: all
    vowels or none, all early or none, rising or falling with every step."""
    wanted = example.answer['wanted']
    fits = jnp.ones((self.segments, LETTERS), bool)
    for place, is_so in enumerate(OF_LETTER):
      asked = wanted[:, place, None]
      fits &= (asked == 0) | (jnp.asarray(is_so)[None] == (asked > 0))
    noise = jax.random.uniform(key, (self.segments, self.width, LETTERS))
    drawn = jnp.argmax(jnp.where(fits[:, None], noise, -1.0), axis=-1)
    # Two different letters in turns, the later first: half of the steps and one
    # more fall, however few letters there are.
    order = jnp.argsort(jnp.where(fits, noise[:, 0], -1.0), axis=-1)
    two = jnp.sort(order[:, -2:], axis=-1)
    turns = jnp.arange(self.width)[None] % 2
    falling = jnp.where(turns == 0, two[:, 1:], two[:, :1])
    rising = jnp.sort(drawn, axis=-1)
    asked = wanted[:, 2, None]
    code = jnp.where(asked > 0, rising, jnp.where(asked < 0, falling, drawn))
    size = self.segments * self.width
    tokens = (code.reshape(-1) + FIRST).astype(jnp.int32)
    return base.finish(Text(tokens, jnp.int32(size)), self.completion_length)
