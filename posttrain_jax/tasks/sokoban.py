r"""Sokoban: '%____\n_pb_\n__._\n____:' -> 'urd', pushing boxes onto goals.

'_' floor, '#' wall, 'b' box, '.' goal, '*' box on a goal, 'p' player, '+'
player on a goal; the grid is walled in. Moves are 'u', 'd', 'l', 'r', or what
the prompt calls them; a box is pushed, never pulled, and a move that cannot be
made does nothing.

Levels are made by playing backwards from the solved state, pulling boxes, after
Taylor and Parberry (2011), Procedural Generation of Sokoban Levels.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.parts import grids, lists
from posttrain_jax.tasks.vocab import Text


class _State(NamedTuple):
  """A position of the backward game.

  places  [num_boxes] cell of each box
  player  [] cell
  length  [] moves that lead from here to the solved state
  """

  places: Array
  player: Array
  length: Array


@dataclasses.dataclass(frozen=True)
class Task:
  """A size x size level that the oracle solves in at most `max_moves`.

  size          cells along each side
  num_boxes     boxes, and goals
  wall_density  probability of a wall, per cell
  num_pushes    pushes of the oracle, at most
  max_moves     moves of the oracle, at most
  moves         what up, down, left and right are called: four different letters
                or digits; of several names, 'udlr|wsad', each problem has one,
                all equally often
  show_moves    the prompt begins with them: '%wsad;____...'
  chain_of_thought  before its answer the oracle writes, for each move, the row
                and column of the player and the move by its letter of 'udlr':
                '11u01r>wd', with the answer after '>'
  other_moves   names as in moves; the verdict's 'other_moves' is 1.0 for an
                answer that is right if it is read with these, where the problem
                has others

  Any moves that end with every box on a goal are right. The oracle plays what
  the level was made from. One box it pushes as few times as possible, but its
  walks may be detours: of 256 default levels it solves 80 % in the fewest
  moves, of those with two boxes, 6 pushes and 24 moves about half.
  """

  size: int = 5
  num_boxes: int = 1
  wall_density: float = 0.15
  num_pushes: int = 4
  max_moves: int = 16
  moves: str = grids.MOVES
  show_moves: bool = False
  chain_of_thought: bool = False
  other_moves: str = ''

  def __post_init__(self):
    base.check(
      4 <= self.size <= 10, f'sokoban: size={self.size} is not in 4..10'
    )
    base.check(
      1 <= self.num_boxes <= self.size,
      f'sokoban: num_boxes={self.num_boxes} is not in 1..size={self.size}',
    )
    base.check(
      0 <= self.wall_density <= 1,
      f'sokoban: wall_density={self.wall_density} is not in 0..1',
    )
    base.check(
      1 <= self.max_moves <= 999,
      f'sokoban: max_moves={self.max_moves} is not in 1..999',
    )
    base.check(
      1 <= self.num_pushes <= self.max_moves,
      f'sokoban: num_pushes={self.num_pushes} is not in '
      f'1..max_moves={self.max_moves}',
    )
    for names in self.moves.split('|'):
      _check_names('moves', names)
    if self.other_moves:
      _check_names('other_moves', self.other_moves)

  @property
  def prompt_length(self) -> int:
    shown = 5 if self.show_moves else 0
    return shown + self.size * (self.size + 1) + 1

  @property
  def completion_length(self) -> int:
    thought = 3 * self.max_moves + 1 if self.chain_of_thought else 0
    return thought + self.max_moves + 1

  @property
  def _names(self) -> Array:
    """Tokens of the four moves, by each of their names [N, 4]."""
    names = [vocab.encode(names) for names in self.moves.split('|')]
    return jnp.array(names, jnp.int32)

  @property
  def _reach(self) -> int:
    """The longest walk of the oracle between two pushes."""
    return min(2 * self.size, self.max_moves - 1)

  def sample(self, key: Array) -> Example:
    board_key, pull_key, walk_key = jax.random.split(key, 3)
    floor, goals = self._board(board_key)
    state = _State(goals, goals[0], jnp.int32(0))
    state, pieces = jax.lax.scan(
      lambda state, key: self._pull(key, state, floor, goals),
      state,
      jax.random.split(pull_key, self.num_pushes),
    )
    player, first = self._stroll(walk_key, state, floor)
    # Backwards: what was played last comes first.
    pieces = jax.tree.map(lambda x: x[::-1], pieces)
    moves = vocab.join(first, lists.concat(pieces), size=self.max_moves)
    names = self._names
    chosen = jax.random.fold_in(key, 1)
    chosen = jax.random.randint(chosen, (), 0, names.shape[0])
    return self.level(floor, goals, state.places, player, moves, names[chosen])

  def level(
    self,
    floor: Array,
    goals: Array,
    boxes: Array,
    player: Array,
    solution: Text,
    names: Array | None = None,
  ) -> Example:
    """The problem of a given level.

    floor         [(size + 2) ** 2] bool, with a border as in `grids`
    goals, boxes  [num_boxes] cells
    player        [] cell
    solution      moves that solve it, in letters of 'udlr', in a buffer of
                  max_moves
    names         [4] tokens of the moves; None: the first of the task's
    """
    names = self._names[0] if names is None else names
    index = jnp.arange(floor.shape[0])
    on = lambda cells: jnp.any(index[:, None] == cells[None, :], axis=1)
    is_goal, is_box, is_player = on(goals), on(boxes), index == player
    tokens = jnp.select(
      [is_goal & is_box, is_goal & is_player, is_goal, is_box, is_player],
      [vocab.token(c) for c in '*+.bp'],
      jnp.where(floor, vocab.token('_'), vocab.token('#')),
    )
    answer = {
      'floor': floor,
      'goals': goals,
      'boxes': boxes,
      'player': player,
      'solution': solution.tokens,
      'length': solution.length,
    }
    if self.moves != grids.MOVES:
      answer['names'] = names
    prompt = grids.prompt('%', tokens, self.size)
    if self.show_moves:
      first, rest = prompt.tokens[:1], prompt.tokens[1:]
      end = vocab.literal(';').tokens
      shown = jnp.concatenate([first, names, end, rest])
      prompt = Text(shown, prompt.length + 5)
    return base.example(prompt, answer, self.prompt_length)

  def _board(self, key: Array) -> tuple[Array, Array]:
    """Floor [(size + 2) ** 2] and goals; the first goal's box can be pulled."""
    wall_key, place_key, way_key = jax.random.split(key, 3)
    size, cells = self.size, jnp.asarray(grids.cells(self.size))
    order = jax.random.permutation(place_key, cells)
    # From any cell there are two more in some direction, if size >= 4.
    inside = jnp.asarray(grids.inside(size))
    offsets = jnp.asarray(grids.offsets(size))
    first = order[0]
    room = inside[first + offsets] & inside[first + 2 * offsets]
    way = jax.random.categorical(way_key, jnp.where(room, 0.0, -jnp.inf))
    lane = first + offsets[way] * jnp.arange(3)
    # The other goals go to the first cells that are not in its way.
    free = ~jnp.any(order[:, None] == lane[None, :], axis=1)
    others = order[jnp.argsort(~free, stable=True)][: self.num_boxes - 1]
    goals = jnp.concatenate([first[None], others])
    keep = jnp.concatenate([lane, others])
    walls = jax.random.bernoulli(wall_key, self.wall_density, inside.shape)
    return (inside & ~walls).at[keep].set(True), goals

  def _pull(self, key: Array, state: _State, floor: Array, goals: Array):
    """One walk and pull: the state before it, and its moves forwards.

    Returns (state, Text of 1 + _reach slots, empty if no pull is possible).
    """
    offsets = jnp.asarray(grids.offsets(self.size))
    places = state.places
    free = floor.at[places].set(False)
    field = grids.distances(free, state.player, self.size, self._reach)
    # Nothing is played after the last push: the player may stand anywhere.
    field = jnp.where(state.length == 0, 0, field)
    near = places[:, None] + offsets[None, :]  # player; then the box
    after = near + offsets[None, :]  # then the player
    length = state.length + 1 + field[near]
    fits = (field[near] <= self._reach) & (length <= self.max_moves)
    may = free[near] & free[after] & fits & ~self._solves(near, places, goals)
    # No detours: a box is never pulled nearer to where it came from, and pulls
    # that need a short walk are likelier.
    home = goals[:, None]
    back = self._manhattan(near, home) < self._manhattan(places[:, None], home)
    may &= ~back
    logits = jnp.where(may, -0.5 * field[near], -jnp.inf)
    logits = jnp.where(jnp.any(may), logits, 0.0).reshape(-1)
    box, way = jnp.divmod(jax.random.categorical(key, logits), 4)
    walk = grids.descend(field, near[box, way], self.size, self._reach)
    push = vocab.char(grids.move_tokens()[way ^ 1])
    moves = vocab.join(push, walk)
    done = jnp.any(may)
    new = _State(
      places.at[box].set(near[box, way]), after[box, way], length[box, way]
    )
    state = jax.tree.map(lambda a, b: jnp.where(done, a, b), new, state)
    return state, Text(moves.tokens, moves.length * done)

  def _solves(self, near: Array, places: Array, goals: Array) -> Array:
    """Whether box b at near[b, d] puts all boxes on goals, [num_boxes, 4]."""
    home = jnp.any(places[:, None] == goals[None, :], axis=1)
    others = jnp.sum(home) - home == self.num_boxes - 1
    lands = jnp.any(near[:, :, None] == goals[None, None, :], axis=2)
    return others[:, None] & lands

  def _manhattan(self, a: Array, b: Array) -> Array:
    width = self.size + 2
    return jnp.abs(a // width - b // width) + jnp.abs(a % width - b % width)

  def _stroll(self, key: Array, state: _State, floor: Array):
    """(where the player starts, its walk to where the first push begins)."""
    free = floor.at[state.places].set(False)
    field = grids.distances(free, state.player, self.size, self._reach)
    left = jnp.minimum(self._reach, self.max_moves - state.length)
    near = free & (field <= left)
    start = jax.random.categorical(key, jnp.where(near, 0.0, -jnp.inf))
    return start, grids.descend(field, start, self.size, self._reach)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """Right or not; 'format', number of 'steps', share of boxes 'on_goal'.

    Both are 0.0 for a malformed completion. With `other_moves` also that.
    """
    answer = example.answer
    text = base.final_text(completion, mask, '>')
    moves, ok = _read(text, _names_of(answer))
    home = self._played(answer, moves)
    right = ok & jnp.all(home)
    verdict = {
      'reward': right.astype(jnp.float32),
      'format': ok.astype(jnp.float32),
      'steps': jnp.where(ok, text.length, 0).astype(jnp.float32),
      'on_goal': jnp.where(ok, jnp.mean(home.astype(jnp.float32)), 0.0),
    }
    if self.other_moves:
      others = jnp.asarray(vocab.encode(self.other_moves))
      moves, ok = _read(text, others)
      right = ok & jnp.all(self._played(answer, moves))
      right &= jnp.any(others != _names_of(answer))
      verdict['other_moves'] = right.astype(jnp.float32)
    return verdict

  def _played(self, answer: dict[str, Array], moves: Array) -> Array:
    """Which boxes are on goals after `moves`, [num_boxes] bool."""
    offsets = jnp.asarray(grids.offsets(self.size))
    floor = answer['floor']

    def step(carry, move):
      player, boxes = carry
      there = player + offsets[move]
      beyond = there + offsets[move]
      pushed = boxes == there
      stuck = ~floor[beyond] | jnp.any(boxes == beyond)
      can = (move >= 0) & floor[there] & ~(jnp.any(pushed) & stuck)
      boxes = jnp.where(can & pushed, beyond, boxes)
      return (jnp.where(can, there, player), boxes), None

    start = (answer['player'], answer['boxes'])
    (_, boxes), _ = jax.lax.scan(step, start, moves)
    return jnp.any(boxes[:, None] == answer['goals'][None, :], axis=1)

  def identity(self, example: Example) -> Array:
    """The level, whatever its moves are called."""
    counts = example.prompt_mask > 0
    if self.show_moves:
      index = jnp.arange(counts.shape[0])
      counts = counts & ((index == 0) | (index > 5))
    return jnp.where(counts, example.prompt, -1)

  def solve(self, example: Example, key: Array) -> Text:
    del key  # the game that made the level, forwards
    answer = example.answer
    moves = _indices(answer['solution'], grids.move_tokens())
    counts = jnp.arange(moves.shape[0]) < answer['length']
    written = jnp.where(counts, _names_of(answer)[moves], vocab.PAD)
    text = Text(written, answer['length'])
    if self.chain_of_thought:
      text = vocab.join(self._thought(answer, moves), vocab.literal('>'), text)
    return base.finish(text, self.completion_length)

  def _thought(self, answer: dict[str, Array], moves: Array) -> Text:
    """Row and column of the player before each move, and the move."""
    steps = jnp.asarray(grids.offsets(self.size))[moves]
    cells = answer['player'] + jnp.cumsum(steps) - steps
    rows, columns = jnp.divmod(cells, self.size + 2)
    digits = jnp.stack([rows, columns], axis=1) - 1 + vocab.ZERO
    letters = grids.move_tokens()[moves]
    tokens = jnp.concatenate([digits, letters[:, None]], axis=1).reshape(-1)
    length = 3 * answer['length']
    counts = jnp.arange(tokens.shape[0]) < length
    return Text(jnp.where(counts, tokens, vocab.PAD), length)


def _check_names(knob: str, names: str) -> None:
  base.check(
    len(names) == 4
    and len(set(names)) == 4
    and all(c in vocab.CHARACTERS and c.isalnum() for c in names),
    f'sokoban: {knob} has {names!r}, which is not four different letters or '
    'digits, as "udlr"; several names are divided by "|"',
  )


def _names_of(answer: dict[str, Array]) -> Array:
  """Tokens of a problem's moves, [4]."""
  return answer.get('names', grids.move_tokens())


def _indices(tokens: Array, names: Array) -> Array:
  """Which of `names` [4] each token is; 0 where none."""
  return jnp.argmax(tokens[:, None] == names[None, :], axis=1)


def _read(text: Text, names: Array) -> tuple[Array, Array]:
  """(moves [L], well-formed []) of moves with these names [4]."""
  hit = text.tokens[:, None] == names[None, :]
  letters = jnp.where(
    jnp.any(hit, axis=1), grids.move_tokens()[_indices(text.tokens, names)], 0
  )
  return grids.read_moves(Text(letters, text.length))
