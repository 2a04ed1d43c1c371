"""Entity tracking: '#a1b2c3;12,b3,31?b' -> '1', or state by state before it.

Items (letters) lie in boxes (digits). A move '12' swaps what is in boxes 1 and
2, a move 'b3' puts item b into box 3, and '?b' asks in which box b is at last.
In the spirit of the boxes task of Kim and Schuster (2023),
https://arxiv.org/abs/2305.02363
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text


def _text(tokens: Array) -> Text:
  """A text that fills its buffer."""
  return Text(tokens.astype(jnp.int32), jnp.int32(tokens.shape[0]))


@dataclasses.dataclass(frozen=True)
class Task:
  """Where one of `num_items` items ends after `num_moves` random moves.

  num_boxes        boxes, named 1, 2, ...
  num_items        items, named a, b, ...
  num_moves        moves, of one item or of a whole box equally often
  chain_of_thought the oracle writes the state after each move, as in
                   'a2b1c3,a2b3c3,a2b1c1,>1'
  """

  num_boxes: int = 3
  num_items: int = 3
  num_moves: int = 3
  chain_of_thought: bool = False

  def __post_init__(self):
    for knob, low, high in (
      ('num_boxes', 2, 9),
      ('num_items', 1, 26),
      ('num_moves', 1, 64),
    ):
      value = getattr(self, knob)
      base.check(
        low <= value <= high,
        f'entity_tracking: {knob}={value} is not in {low}..{high}',
      )

  @property
  def prompt_length(self) -> int:
    return 2 * self.num_items + 3 * self.num_moves + 3

  @property
  def completion_length(self) -> int:
    thought = 0
    if self.chain_of_thought:
      thought = self.num_moves * (2 * self.num_items + 1) + 1
    return thought + 2

  def _state_tokens(self, boxes: Array) -> Array:
    """'a1b2c3' for boxes [num_items], numbered from 0."""
    letters = vocab.token('a') + jnp.arange(self.num_items)
    return jnp.stack([letters, vocab.ZERO + 1 + boxes], axis=1).reshape(-1)

  def _move_tokens(self, moves: Array) -> Array:
    """'b3' or '12' for each of moves [num_moves, 2]."""
    first, target = moves[:, 0], moves[:, 1]
    item, box = vocab.token('a') + first, vocab.ZERO + 1 + first
    mover = jnp.where(first < self.num_items, item, box - self.num_items)
    return jnp.stack([mover, vocab.ZERO + 1 + target], axis=1)

  def _moved(self, boxes: Array, move: Array) -> Array:
    """Boxes of the items after a move (item or num_items + box, box)."""
    first, target = move
    source = first - self.num_items
    swapped = jnp.select(
      [boxes == source, boxes == target], [target, source], boxes
    )
    one = jnp.where(jnp.arange(self.num_items) == first, target, boxes)
    return jnp.where(first < self.num_items, one, swapped)

  def sample(self, key: Array) -> Example:
    start_key, move_key, item_key = jax.random.split(key, 3)
    start = jax.random.randint(start_key, (self.num_items,), 0, self.num_boxes)

    def move(boxes, key):
      # The source is some item's box: no move is of an empty box.
      mover_key, target_key, kind_key = jax.random.split(key, 3)
      item = jax.random.randint(mover_key, (), 0, self.num_items)
      source = boxes[item]
      shift = jax.random.randint(target_key, (), 1, self.num_boxes)
      target = (source + shift) % self.num_boxes
      whole_box = jax.random.bernoulli(kind_key)
      first = jnp.where(whole_box, self.num_items + source, item)
      ends = jnp.stack([first, target])
      return self._moved(boxes, ends), ends

    move_keys = jax.random.split(move_key, self.num_moves)
    _, moves = jax.lax.scan(move, start, move_keys)
    item = jax.random.randint(item_key, (), 0, self.num_items)
    commas = jnp.full((self.num_moves, 1), vocab.token(','))
    written = jnp.concatenate([commas, self._move_tokens(moves)], axis=1)
    prompt = vocab.join(
      vocab.literal('#'),
      _text(self._state_tokens(start)),
      vocab.literal(';'),
      _text(written.reshape(-1)[1:]),
      vocab.literal('?'),
      vocab.char(vocab.token('a') + item),
    )
    answer = {'start': start, 'moves': moves, 'item': item}
    return base.example(prompt, answer, self.prompt_length)

  def _states(self, example: Example) -> Array:
    """Box of each item after each move, [num_moves, num_items]."""

    def move(boxes, ends):
      boxes = self._moved(boxes, ends)
      return boxes, boxes

    answer = example.answer
    return jax.lax.scan(move, answer['start'], answer['moves'])[1]

  def _answer(self, example: Example) -> Text:
    box = self._states(example)[-1, example.answer['item']]
    return vocab.char(vocab.ZERO + 1 + box)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    return base.exact_match(self._answer(example), completion, mask, '>')

  def solve(self, example: Example, key: Array) -> Text:
    del key  # one solution only
    answer = self._answer(example)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    steps = jax.vmap(self._state_tokens)(self._states(example))
    commas = jnp.full((self.num_moves, 1), vocab.token(','))
    steps = jnp.concatenate([steps, commas], axis=1).reshape(-1)
    text = vocab.join(_text(steps), vocab.literal('>'), answer)
    return base.finish(text, self.completion_length)
