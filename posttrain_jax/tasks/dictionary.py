"""Translation by looking words up: 'ab cd:' -> '[ab]xy|[cd]zw|>xy zw'.

'[ab]' asks for a word and the environment answers 'xy|', or '?|' where the word
is unknown. Each problem has a word list of its own, which is not in the prompt.
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.environments import Environment
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import lists, turns
from posttrain_jax.tasks.vocab import Text

LETTERS = 26
# Where a token stands: outside of calls, in one, after the '>'.
OUTSIDE, INSIDE, ANSWER = range(3)


def _spell(code: Array, length: int) -> Text:
  """Word number `code` of the 26 ** length."""
  powers = LETTERS ** jnp.arange(length - 1, -1, -1)
  tokens = vocab.token('a') + code // powers % LETTERS
  return Text(tokens.astype(jnp.int32), jnp.int32(length))


@dataclasses.dataclass(frozen=True)
class Book(Environment):
  """Answers a word of the list with its translation.

  word_length  letters of every word
  max_calls    calls that are answered; a '[' after them gets '?|'

  A call breaks, with '?|', at the first token that is no letter or one too
  many. After a '>' outside of a call nothing is answered.
  """

  word_length: int
  max_calls: int

  @property
  def observation_length(self) -> int:
    return max(self.word_length + 1, 2)

  def open(self, source: Array, target: Array) -> PyTree:
    """The book of a list: word source[i] [N] means target[i] [N], as codes."""
    counts = ('part', 'calls', 'errors', 'code', 'letters')
    return {name: jnp.int32(0) for name in counts} | {
      'source': source,
      'target': target,
    }

  def react(self, world, token):
    part, code, letters = world['part'], world['code'], world['letters']
    inside = part == INSIDE
    letter = token - vocab.token('a')
    spells = inside & (letter >= 0) & (letter < LETTERS)
    spells &= letters < self.word_length
    closes = inside & (token == vocab.token(']'))
    asks = (part == OUTSIDE) & (token == vocab.token('['))
    opens = asks & (world['calls'] < self.max_calls)
    hit = (world['source'] == code) & (letters == self.word_length)
    found = closes & jnp.any(hit)
    over = token == vocab.EOS
    broken = inside & ~(spells | closes)
    error = ~over & (broken | (asks & ~opens) | (closes & ~found))
    after = world | {
      'part': jnp.select(
        [
          opens,
          closes | broken,
          (part == OUTSIDE) & (token == vocab.token('>')),
        ],
        [INSIDE, OUTSIDE, ANSWER],
        part,
      ),
      'calls': world['calls'] + opens,
      'errors': world['errors'] + error,
      'code': jnp.select([opens, spells], [0, code * LETTERS + letter], code),
      'letters': jnp.where(opens, 0, letters + spells),
    }
    meaning = jnp.sum(jnp.where(hit, world['target'], 0))
    told = vocab.join(_spell(meaning, self.word_length), vocab.literal('|'))
    told = Text(told.tokens, told.length * found)
    return after, vocab.where(error, vocab.literal('?|'), told), over


@dataclasses.dataclass(frozen=True)
class Task:
  """A sentence in words of a list that is drawn for each problem.

  num_words        words of the list
  sentence_length  words of the sentence; they may repeat
  word_length      letters of every word, of both languages
  reverse          the translation is in reversed order (the prompt then ends
                   with '<', else with ':')
  max_calls        words that can be looked up, at least sentence_length

  The oracle looks up every word of the sentence, in order.
  """

  num_words: int = 8
  sentence_length: int = 3
  word_length: int = 2
  reverse: bool = False
  max_calls: int = 4

  def __post_init__(self):
    base.check(
      1 <= self.word_length <= 5,
      f'dictionary: word_length={self.word_length} is not in 1..5',
    )
    most = min(LETTERS**self.word_length, 256)
    base.check(
      1 <= self.num_words <= most,
      f'dictionary: num_words={self.num_words} of {self.word_length} letters '
      f'is not in 1..{most}',
    )
    base.check(
      1 <= self.sentence_length <= 32,
      f'dictionary: sentence_length={self.sentence_length} is not in 1..32',
    )
    base.check(
      self.sentence_length <= self.max_calls <= 99,
      f'dictionary: max_calls={self.max_calls} is not in sentence_length='
      f'{self.sentence_length}..99',
    )

  @property
  def prompt_length(self) -> int:
    return self.sentence_length * (self.word_length + 1)

  @property
  def completion_length(self) -> int:
    call = self.word_length + 2
    return self.max_calls * (call + self.word_length + 1) + (
      self.prompt_length + 1
    )

  @property
  def guide(self) -> Book:
    return Book(self.word_length, self.max_calls)

  def episode(self, example: Example) -> PyTree:
    book = self.guide
    words = example.answer['source'], example.answer['target']
    return book.begin(book.open(*words))

  def _words(self, key: Array) -> Array:
    """Different words, as codes [num_words]."""
    value_key, order_key = jax.random.split(key)
    # One of each part of the alphabetical list of all words.
    part = LETTERS**self.word_length // self.num_words
    starts = part * jnp.arange(self.num_words)
    words = starts + jax.random.randint(value_key, starts.shape, 0, part)
    return jax.random.permutation(order_key, words)

  def sample(self, key: Array) -> Example:
    source_key, target_key, sentence_key = jax.random.split(key, 3)
    sentence = jax.random.randint(
      sentence_key, (self.sentence_length,), 0, self.num_words
    )
    return self.level(
      self._words(source_key), self._words(target_key), sentence
    )

  def level(self, source: Array, target: Array, sentence: Array) -> Example:
    """The problem of a list of codes and a sentence of its words.

    source, target  [num_words] codes of words, those of source all different
    sentence        [sentence_length] which of the words
    """
    answer = {'source': source, 'target': target, 'sentence': sentence}
    return base.example(
      self._say(source[sentence], '<' if self.reverse else ':'),
      answer,
      self.prompt_length,
    )

  def _say(self, codes: Array, end: str = '') -> Text:
    """Words with spaces between them, and `end`."""
    spelled = jax.vmap(lambda code: _spell(code, self.word_length).tokens)(
      codes
    )
    space = jnp.full((codes.shape[0], 1), vocab.token(' '))
    tokens = jnp.concatenate([spelled, space], axis=1).reshape(-1)[:-1]
    said = Text(tokens, jnp.int32(tokens.shape[0]))
    return vocab.join(said, vocab.literal(end)) if end else said

  def _answer(self, example: Example) -> Text:
    meaning = example.answer['target'][example.answer['sentence']]
    return self._say(meaning[::-1] if self.reverse else meaning)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; how many 'calls' were begun, how many '?|' ('errors')."""
    verdict = base.exact_match(self._answer(example), completion, mask, '>')
    world, faithful = turns.replayed(self, example, completion, mask)
    return {
      'reward': verdict['reward'] * faithful,
      'calls': world['calls'].astype(jnp.float32),
      'errors': world['errors'].astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one order of the words only
    asked = example.answer['source'][example.answer['sentence']]
    calls = jax.vmap(
      lambda code: vocab.join(
        vocab.literal('['),
        _spell(code, self.word_length),
        vocab.literal(']'),
      )
    )(asked)
    written = vocab.join(
      lists.concat(calls),
      vocab.literal('>'),
      self._answer(example),
      vocab.special(vocab.EOS),
    )
    return turns.transcript(self, example, written, self.completion_length)
