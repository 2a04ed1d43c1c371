r"""Sokoban, played: '@____\n_pb_\n__._\n____:' -> 'u.r.d'.

The prompt is that of `sokoban` but for its first token. After each move of the
model the environment says what came of it: '.' walked, 'b' pushed a box, '*'
pushed it onto a goal, '#' could not move, '?' no move. The game is over when
every box is on a goal, at the last move and with an EOS.
"""

import dataclasses

import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.environments import Environment
from posttrain_jax.tasks import sokoban, vocab
from posttrain_jax.tasks.parts import grids, turns
from posttrain_jax.tasks.vocab import Text


@dataclasses.dataclass(frozen=True)
class Level(Environment):
  """A level that is played.

  size       cells along each side
  max_moves  moves of a game; a token that is no move counts as one
  """

  size: int
  max_moves: int

  @property
  def observation_length(self) -> int:
    return 1

  def enter(
    self, floor: Array, goals: Array, boxes: Array, player: Array
  ) -> PyTree:
    """The game before its first move, of a level as `sokoban` has them."""
    return {
      'floor': floor,
      'goals': goals,
      'boxes': boxes,
      'player': player,
      'moves': jnp.int32(0),
    }

  def home(self, world: PyTree) -> Array:
    """Which boxes are on goals, [num_boxes] bool."""
    same = world['boxes'][:, None] == world['goals'][None, :]
    return jnp.any(same, axis=1)

  def react(self, world, token):
    floor, boxes = world['floor'], world['boxes']
    hit = token == grids.move_tokens()
    valid = jnp.any(hit)
    step = jnp.asarray(grids.offsets(self.size))[jnp.argmax(hit)]
    there = world['player'] + step
    beyond = there + step
    pushed = boxes == there
    pushes = jnp.any(pushed)
    stuck = ~floor[beyond] | jnp.any(boxes == beyond)
    can = valid & floor[there] & ~(pushes & stuck)
    over = token == vocab.EOS
    after = world | {
      'boxes': jnp.where(can & pushed, beyond, boxes),
      'player': jnp.where(can, there, world['player']),
      'moves': world['moves'] + ~over,
    }
    scores = jnp.any(world['goals'] == beyond)
    told = jnp.select(
      [~valid, ~can, ~pushes, scores],
      [vocab.token(answer) for answer in '?#.*'],
      vocab.token('b'),
    )
    over |= after['moves'] >= self.max_moves
    return after, vocab.char(told), over | jnp.all(self.home(after))


@dataclasses.dataclass(frozen=True)
class Task:
  """A level of `sokoban`, of the same knobs, one move at a time.

  size, num_boxes, wall_density, num_pushes
             of the level
  max_moves  moves of a game, and of the oracle, at most

  A game is won with every box on a goal. An EOS follows the oracle's last
  move, for those who train on it; in a game that is played the last move is
  the last token.
  """

  size: int = 5
  num_boxes: int = 1
  wall_density: float = 0.15
  num_pushes: int = 4
  max_moves: int = 16

  def __post_init__(self):
    _ = self._level  # refuses what sokoban refuses

  @property
  def _level(self) -> sokoban.Task:
    return sokoban.Task(**dataclasses.asdict(self))

  @property
  def prompt_length(self) -> int:
    return self._level.prompt_length

  @property
  def completion_length(self) -> int:
    return 2 * self.max_moves

  @property
  def guide(self) -> Level:
    return Level(self.size, self.max_moves)

  def episode(self, example: Example) -> PyTree:
    level, answer = self.guide, example.answer
    names = ('floor', 'goals', 'boxes', 'player')
    return level.begin(level.enter(*(answer[name] for name in names)))

  def sample(self, key: Array) -> Example:
    return self.level(self._level.sample(key))

  def level(self, level: Example) -> Example:
    """The game of a level of `sokoban`."""
    return level.replace(prompt=level.prompt.at[0].set(vocab.token('@')))

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Won or not; number of 'steps', share of boxes 'on_goal' at the end."""
    world, faithful = turns.replayed(self, example, completion, mask)
    home = self.guide.home(world)
    return {
      'reward': (jnp.all(home) & faithful).astype(jnp.float32),
      'steps': world['moves'].astype(jnp.float32),
      'on_goal': jnp.mean(home.astype(jnp.float32)),
    }

  def solve(self, example: Example, key: Array) -> Text:
    written = self._level.solve(example, key)
    return turns.transcript(self, example, written, self.completion_length)
