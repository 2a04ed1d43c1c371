r"""Frozen lake: '&s..o\n.o..\n...o\no..g:' -> 'ddrrdr', a way to the goal.

's' start, 'g' goal, '.' ice, 'o' hole; moves 'u', 'd', 'l', 'r', and a move
off the lake does nothing. The lake is that of Gymnasium's FrozenLake, not
slippery: https://gymnasium.farama.org/environments/toy_text/frozen_lake/
"""

import dataclasses

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import grids
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Task:
  """A size x size lake with a way of at most `2 * size` moves.

  size          cells along each side
  hole_density  probability of a hole, per cell
  corners       the way leads from the upper left to the lower right corner;
                else start and goal are anywhere

  A lake without such a way gets one: the holes on a random walk from start to
  goal without detours are closed. A walk is right that ends at the goal and
  was in no hole, however long. The oracle's walk is a shortest one, any of
  them with its key.
  """

  size: int = 4
  hole_density: float = 0.3
  corners: bool = False

  def __post_init__(self):
    base.check(
      2 <= self.size <= 12, f'frozen_lake: size={self.size} is not in 2..12'
    )
    base.check(
      0 <= self.hole_density <= 1,
      f'frozen_lake: hole_density={self.hole_density} is not in 0..1',
    )

  @property
  def prompt_length(self) -> int:
    return self.size * (self.size + 1) + 1

  @property
  def completion_length(self) -> int:
    return self._limit + 1

  @property
  def _limit(self) -> int:
    return 2 * self.size

  def sample(self, key: Array) -> Example:
    hole_key, end_key, carve_key = jax.random.split(key, 3)
    count = self.size * self.size
    ends = jnp.array([0, count - 1])
    if not self.corners:
      ends = jax.random.choice(end_key, count, (2,), replace=False)
    start, goal = jnp.asarray(grids.cells(self.size))[ends]
    holes = jax.random.bernoulli(hole_key, self.hole_density, (count,))
    holes = grids.put(holes, self.size, False)
    index = jnp.arange(holes.shape[0])
    holes &= (index != start) & (index != goal)
    far = self._distances(holes, goal)[start] > self._limit
    holes &= ~(far & self._walk(carve_key, start, goal))
    return self.level(holes, start, goal)

  def level(self, holes: Array, start: Array, goal: Array) -> Example:
    """The problem of a given lake.

    holes  [(size + 2) ** 2] bool, with a border as in `grids`
    start, goal  [] cells, without a hole
    """
    index = jnp.arange(holes.shape[0])
    tokens = jnp.select(
      [index == start, index == goal, holes],
      [vocab.token('s'), vocab.token('g'), vocab.token('o')],
      vocab.token('.'),
    )
    answer = {
      'holes': holes,
      'start': start,
      'goal': goal,
      'distance': self._distances(holes, goal)[start],
    }
    prompt = grids.prompt('&', tokens, self.size)
    return base.example(prompt, answer, self.prompt_length)

  def _distances(self, holes: Array, goal: Array) -> Array:
    ice = jnp.asarray(grids.inside(self.size)) & ~holes
    return grids.distances(ice, goal, self.size, self._limit)

  def _walk(self, key: Array, start: Array, goal: Array) -> Array:
    """True on the cells of a random walk without detours."""
    width = self.size + 2

    def step(carry, vertical):
      cell, seen = carry
      down = goal // width - cell // width
      right = goal % width - cell % width
      vertical = (down != 0) & (vertical | (right == 0))
      move = jnp.where(vertical, jnp.sign(down) * width, jnp.sign(right))
      seen |= jnp.arange(width**2) == cell
      return (cell + move, seen), None

    coins = jax.random.bernoulli(key, shape=(2 * self.size - 1,))
    (_, seen), _ = jax.lax.scan(step, (start, jnp.zeros(width**2, bool)), coins)
    return seen

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'format', number of 'steps', 'optimal' if none is shorter.

    'steps' is 0.0 for a malformed completion.
    """
    answer = example.answer
    text = base.final_text(completion, mask, '>')
    moves, ok = grids.read_moves(text)
    offsets = jnp.asarray(grids.offsets(self.size))
    inside = jnp.asarray(grids.inside(self.size))

    def step(carry, move):
      cell, dry = carry
      there = cell + offsets[move]
      cell = jnp.where((move >= 0) & inside[there], there, cell)
      return (cell, dry & ~answer['holes'][cell]), None

    start = (answer['start'], jnp.bool_(True))
    (cell, dry), _ = jax.lax.scan(step, start, moves)
    right = ok & dry & (cell == answer['goal'])
    return {
      'reward': right.astype(jnp.float32),
      'format': ok.astype(jnp.float32),
      'steps': jnp.where(ok, text.length, 0).astype(jnp.float32),
      'optimal': (right & (text.length == answer['distance'])).astype(
        jnp.float32
      ),
    }

  def solve(self, example: Example, key: Array) -> Text:
    answer = example.answer
    field = self._distances(answer['holes'], answer['goal'])
    noise = jax.random.uniform(key, (self._limit, 4), maxval=0.5)
    walk = grids.descend(field, answer['start'], self.size, self._limit, noise)
    return base.finish(walk, self.completion_length)
