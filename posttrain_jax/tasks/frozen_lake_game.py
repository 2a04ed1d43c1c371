r"""Frozen lake, played: '@s..o\n.o..\n...o\no..g:' -> 'd.d.r.r.d.r'.

The prompt is that of `frozen_lake` but for its first token. After each move of
the model the environment says what came of it: '.' moved, '#' stayed where it
is, 'u', 'd', 'l' or 'r' slipped that way, '?' no move. The game is over at the
goal, in a hole, at the last move and with an EOS.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example, PyTree
from posttrain_jax.rollout.environments import Environment
from posttrain_jax.tasks import base, frozen_lake, vocab
from posttrain_jax.tasks.parts import grids, turns
from posttrain_jax.tasks.vocab import Text

OBSERVE = ('full', 'none')
# Where one goes who asked for 'udlr': straight on, to the left, to the right.
TURNS = np.array([[0, 1, 2, 3], [2, 3, 1, 0], [3, 2, 0, 1]], np.int32)
BACK = np.array([0, 2, 1], np.int32)  # the turn that undoes a turn


@dataclasses.dataclass(frozen=True)
class Lake(Environment):
  """A lake that is walked on.

  size       cells along each side
  slippery   probability that a move goes to one side
  max_moves  moves of a game; a token that is no move counts as one
  warns      a digit after each answer: how many of the four cells around are
             holes
  """

  size: int
  slippery: float
  max_moves: int
  warns: bool

  @property
  def observation_length(self) -> int:
    return 1 + self.warns

  def enter(
    self, holes: Array, start: Array, goal: Array, seed: Array
  ) -> PyTree:
    """The game before its first move; `seed` [] uint32 says where one slips."""
    return {
      'holes': holes,
      'goal': goal,
      'seed': seed,
      'cell': start,
      'moves': jnp.int32(0),
      'won': jnp.bool_(False),
      'fell': jnp.bool_(False),
    }

  def slip(self, seed: Array, number: Array) -> Array:
    """The turn of move `number` of a game: a row of TURNS."""
    if self.slippery == 0:
      return jnp.int32(0)
    # A named generator: a game must not change with jax's default one.
    key = jax.random.key(seed, impl='threefry2x32')
    point = jax.random.uniform(jax.random.fold_in(key, number))
    side = jnp.where(point < self.slippery / 2, 1, 2)
    return jnp.where(point < self.slippery, side, 0)

  def react(self, world, token):
    tokens = grids.move_tokens()
    offsets = jnp.asarray(grids.offsets(self.size))
    hit = token == tokens
    asked, valid = jnp.argmax(hit), jnp.any(hit)
    way = jnp.asarray(TURNS)[self.slip(world['seed'], world['moves']), asked]
    there = world['cell'] + offsets[way]
    can = valid & jnp.asarray(grids.inside(self.size))[there]
    cell = jnp.where(can, there, world['cell'])
    over = token == vocab.EOS
    moves = world['moves'] + ~over
    fell, won = world['holes'][cell], cell == world['goal']
    after = world | {'cell': cell, 'moves': moves, 'won': won, 'fell': fell}
    told = jnp.select(
      [~valid, ~can, way == asked],
      [vocab.token('?'), vocab.token('#'), vocab.token('.')],
      tokens[way],
    )
    told = vocab.char(told)
    if self.warns:
      near = jnp.sum(world['holes'][cell + offsets])
      told = vocab.join(told, vocab.char(vocab.ZERO + near))
    return after, told, over | fell | won | (moves >= self.max_moves)


@dataclasses.dataclass(frozen=True)
class Task:
  """A lake of `frozen_lake`, of the same knobs, one move at a time.

  size, hole_density, corners
             of the lake
  observe    'full': the prompt shows the holes; 'none': it does not, and a
             digit after each answer says how many are around
  slippery   probability that a move goes to one side, either equally often;
             Gymnasium's slippery lake has 2/3
  max_moves  moves of a game, at least 2 * size

  A game is won at the goal. The oracle takes a shortest way; it knows of hidden
  holes and foresees every slip. An EOS follows its last move, for those who
  train on it; in a game that is played the last move is the last token.
  """

  size: int = 4
  hole_density: float = 0.3
  corners: bool = False
  observe: str = 'full'
  slippery: float = 0.0
  max_moves: int = 12

  def __post_init__(self):
    least = 2 * self._lake.size  # refuses what frozen_lake refuses
    base.check(
      self.observe in OBSERVE,
      f'frozen_lake_game: unknown observe "{self.observe}".'
      f'{nearest(self.observe, OBSERVE)}',
    )
    base.check(
      0 <= self.slippery <= 1,
      f'frozen_lake_game: slippery={self.slippery} is not in 0..1',
    )
    base.check(
      least <= self.max_moves <= 999,
      f'frozen_lake_game: max_moves={self.max_moves} is not in '
      f'2*size={least}..999',
    )

  @property
  def _lake(self) -> frozen_lake.Task:
    return frozen_lake.Task(self.size, self.hole_density, self.corners)

  @property
  def prompt_length(self) -> int:
    return self._lake.prompt_length

  @property
  def completion_length(self) -> int:
    told = (self.max_moves - 1) * self.guide.observation_length
    return self.max_moves + told + 1

  @property
  def guide(self) -> Lake:
    hidden = self.observe == 'none'
    return Lake(self.size, self.slippery, self.max_moves, hidden)

  def episode(self, example: Example) -> PyTree:
    lake, answer = self.guide, example.answer
    names = ('holes', 'start', 'goal', 'seed')
    return lake.begin(lake.enter(*(answer[name] for name in names)))

  def sample(self, key: Array) -> Example:
    lake_key, seed_key = jax.random.split(key)
    return self.level(self._lake.sample(lake_key), jax.random.bits(seed_key))

  def level(self, lake: Example, seed: Array) -> Example:
    """The game on a lake of `frozen_lake`; `seed` [] uint32 of the slips."""
    prompt = lake.prompt.at[0].set(vocab.token('@'))
    if self.observe == 'none':
      hole = prompt == vocab.token('o')
      prompt = jnp.where(hole, vocab.token('.'), prompt)
    return lake.replace(prompt=prompt, answer=lake.answer | {'seed': seed})

  def identity(self, example: Example) -> Array:
    """The lake with its holes, seen or not; slips make no other problem."""
    answer = example.answer
    ends = jnp.stack([answer['start'], answer['goal']])
    return jnp.concatenate([answer['holes'].astype(jnp.int32), ends])

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Won or not; number of 'steps', 'fell' into a hole, 'optimal' if won in
    as few moves as the way is long."""
    world, faithful = turns.replayed(self, example, completion, mask)
    won = world['won'] & faithful
    shortest = world['moves'] == example.answer['distance']
    return {
      'reward': won.astype(jnp.float32),
      'steps': world['moves'].astype(jnp.float32),
      'fell': world['fell'].astype(jnp.float32),
      'optimal': (won & shortest).astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    walk = self._lake.solve(example, key)
    tokens = grids.move_tokens()
    slip = lambda number: self.guide.slip(example.answer['seed'], number)
    turn = jax.vmap(slip)(jnp.arange(walk.tokens.shape[0]))
    hit = walk.tokens[:, None] == tokens[None, :]
    ways = jnp.argmax(hit, axis=1)
    asked = tokens[jnp.asarray(TURNS)[jnp.asarray(BACK)[turn], ways]]
    asked = jnp.where(jnp.any(hit, axis=1), asked, walk.tokens)
    written = Text(asked, walk.length)
    return turns.transcript(self, example, written, self.completion_length)
