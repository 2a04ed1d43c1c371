"""Puzzles of cells to be filled, as search: Sudoku, queens and colourings.

The holes of a puzzle are filled in order. Two cells with values they may not
have together clash, and a full assignment without a clash is a solution. What
`Branches` holds is written as cell and value, 'a3b1': cells are letters. A
detour is a wrong value and what follows from it until a cell has no value left,
'a2b4c#', or one that clashes with what is there already, 'a2#'.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, sudoku, vocab
from posttrain_jax.tasks.vocab import Text

STUCK = vocab.token('#')
LETTER = vocab.token('a')  # of cell 0; letters follow in order
BOARD = 8  # rows of the queens' board
COLORS = 3
EDGE = 0.5  # chance of an edge


class Branches(NamedTuple):
  """The way to an answer and the wrong turns beside it.

  steps    [L, S] texts, one a level
  detours  [M, D] texts, each another wrong turn; they end in '#'
  level    [M] int32, the step before which a detour may stand
  ok       [M] bool, whether there is such a detour
  answer   what is said in the end
  """

  steps: Text
  detours: Text
  level: Array
  ok: Array
  answer: Text


class _State(NamedTuple):
  """A walk down the holes.

  blocked  [N, V] bool, values that clash with what is there
  dead     whether a cell without a value was met
  length   [] int32, tokens written so far
  """

  blocked: Array
  dead: Array
  length: Array


@dataclasses.dataclass(frozen=True)
class Cells:
  """What the three puzzles share.

  size   how many holes; of a colouring, how many vertices
  depth  values that a detour writes at most, longer ones are left out

  A puzzle says `num_cells` N, `num_values` V, `clashes(answer)` [N, V, N, V]
  bool and `table()` [S, N], assignments among which are all solutions.
  `Example.answer` has `values` [N] int32 from 0 on, a solution, and `holes`
  [N] bool.
  """

  size: int
  depth: int

  @property
  def levels(self) -> int:
    return self.size

  @property
  def pieces(self) -> int:
    """Steps and possible detours."""
    return self.size * (self.num_values + 1)

  @property
  def step_length(self) -> int:
    return 2

  @property
  def detour_length(self) -> int:
    return 2 * self.depth + 2

  @property
  def answer_length(self) -> int:
    return self.size

  def read(self, example: Example, text: Text) -> tuple[Array, Array]:
    """(right, well-formed) of an answer: one value a hole, in order."""
    answer = example.answer
    written = vocab.fit(text, self.size).tokens - vocab.ZERO - 1
    fine = (written >= 0) & (written < self.num_values)
    formed = (text.length == self.size) & jnp.all(fine)
    place = jnp.clip(jnp.cumsum(answer['holes']) - 1, 0, self.size - 1)
    written = jnp.clip(written, 0, self.num_values - 1)
    values = jnp.where(answer['holes'], written[place], answer['values'])
    at = jnp.arange(self.num_cells)
    meets = self.clashes(answer)[at, values][:, at, values]
    return formed & ~jnp.any(meets), formed

  def branches(self, answer: dict, key: Array, wrong: Array) -> Branches:
    """The solution's path and its detours; a path that errs if `wrong`."""
    # All randomness in one draw: each further one would compile for seconds.
    turns = self.depth + 1
    count = self.size * self.num_values
    noise = jax.random.uniform(key, (count, turns + 2, self.num_values))
    # The holes in order; `nonzero` would not know how many there are.
    place = jnp.where(answer['holes'], jnp.cumsum(answer['holes']) - 1, -1)
    at = jnp.arange(self.size)[:, None]
    cells = jnp.argmax(place[None] == at, axis=1)
    clashes = self.clashes(answer)
    path = answer['values'][cells]
    alive = self._alive(answer, cells, path)
    erring = self._err(noise[:, turns:], answer, cells, clashes, path, alive)
    path = jnp.where(wrong, erring, path)
    alive = self._alive(answer, cells, path)
    walk = functools.partial(self._walk, answer, cells, clashes, path)
    index = jnp.arange(count)
    level, value = index // self.num_values, index % self.num_values
    detours, dead = jax.vmap(walk)(noise[:, :turns], level, value)
    ok = dead & ~alive.reshape(-1) & (value != path[level])
    steps = jnp.stack([LETTER + cells, vocab.ZERO + 1 + path], axis=1)
    lengths = jnp.full(self.size, 2, jnp.int32)
    said = Text((vocab.ZERO + 1 + path).astype(jnp.int32), jnp.int32(self.size))
    return Branches(
      Text(steps.astype(jnp.int32), lengths), detours, level, ok, said
    )

  def _alive(self, answer: dict, cells: Array, path: Array) -> Array:
    """[L, V] whether a solution has the path before a level and a value."""
    table = jnp.asarray(self.table())
    clues = answer['holes'][None] | (table == answer['values'][None])
    fits = jnp.all(clues, axis=1) & self._solves(answer, table)
    there = table[:, cells]
    agrees = jnp.cumprod(there == path[None], axis=1) > 0
    before = jnp.concatenate([jnp.ones_like(agrees[:, :1]), agrees[:, :-1]], 1)
    before &= fits[:, None]
    has = there[:, :, None] == jnp.arange(self.num_values)[None, None]
    return jnp.any(before[:, :, None] & has, axis=0)

  def _solves(self, answer: dict, table: Array) -> Array:
    """[S] which rows of the table are solutions; all, where not said."""
    del answer
    return jnp.ones(len(table), bool)

  def _blocked(self, answer, cells, clashes, path, level) -> Array:
    """[N, V] what clashes with the clues and the path before `level`."""
    values = answer['values'].at[cells].set(path)
    order = jnp.full(self.num_cells, -1).at[cells].set(jnp.arange(self.size))
    at = jnp.arange(self.num_cells)
    meets = clashes[at, values] & (order < level)[:, None, None]
    return jnp.any(meets, axis=0)

  def _walk(self, answer, cells, clashes, path, noise, level, value):
    """(text [D], whether it ends in a dead end) of one wrong value.

    noise  [depth + 1, V] uniform numbers, for the values that follow it
    """
    blocked = self._blocked(answer, cells, clashes, path, level)

    def step(state: _State, item):
      turn, noise = item
      at = level + turn
      cell = cells[jnp.minimum(at, self.size - 1)]
      free = ~state.blocked[cell]
      drawn = jnp.argmax(jnp.where(free, noise, -1.0))
      chosen = jnp.where(turn == 0, value, drawn)
      clash = (turn == 0) & state.blocked[cell, value]
      none = (turn > 0) & ~jnp.any(free)
      going = ~state.dead & (at < self.size) & ((turn < self.depth) | none)
      written = jnp.where(none, STUCK, vocab.ZERO + 1 + chosen)
      pair = jnp.stack([LETTER + cell, written])
      blocked = state.blocked | clashes[cell, chosen]
      new = _State(
        jnp.where(going & ~none, blocked, state.blocked),
        state.dead | (going & (clash | none)),
        state.length + 2 * going,
      )
      return new, (pair, going)

    turns = jnp.arange(self.depth + 1)
    start = _State(blocked, jnp.bool_(False), jnp.int32(0))
    end, (pairs, went) = jax.lax.scan(step, start, (turns, noise))
    tokens = jnp.where(went[:, None], pairs, vocab.PAD).reshape(-1)
    # A value that clashes at once is all that its detour writes.
    clash = blocked[cells[level], value]
    tokens = jnp.where(clash, tokens.at[2].set(STUCK), tokens)
    length = jnp.where(clash, 3, end.length)
    return Text(tokens.astype(jnp.int32), length.astype(jnp.int32)), end.dead

  def _err(self, noise, answer, cells, clashes, path, alive) -> Array:
    """A path [L] that leaves the solutions at a random level, and then goes on
    with values that do not clash, as long as there are any.

    noise  [L * V, 2, V] uniform numbers
    """
    chance = jnp.where(alive.reshape(-1), -1.0, noise[:, 0, 0])
    pick = jnp.argmax(chance)
    level, value = pick // self.num_values, pick % self.num_values
    blocked = self._blocked(answer, cells, clashes, path, level)

    def fill(blocked, item):
      index, cell, right, noise = item
      free = ~blocked[cell]
      allowed = free | ~jnp.any(free)
      drawn = jnp.argmax(jnp.where(allowed, noise, -1.0))
      chosen = jnp.where(index == level, value, drawn)
      chosen = jnp.where(index < level, right, chosen)
      more = blocked | clashes[cell, chosen]
      return jnp.where(index < level, blocked, more), chosen

    items = (
      jnp.arange(self.size), cells, path, noise[: self.size, 1]
    )  # fmt: skip
    _, erring = jax.lax.scan(fill, blocked, items)
    return erring.astype(path.dtype)


@dataclasses.dataclass(frozen=True)
class Sudoku(Cells):
  """4x4, one solution: '|1_34_41__1_34__1:'."""

  num_cells = 16
  num_values = 4
  sizes = (1, 10)
  prompt_length = 18

  @staticmethod
  @functools.cache
  def table() -> np.ndarray:
    return sudoku.grids() - 1

  def clashes(self, answer: dict) -> Array:
    del answer
    same = np.eye(4, dtype=bool)[None, :, None]
    return jnp.asarray(sudoku.peers()[:, None, :, None].astype(bool) & same)

  def sample(self, key: Array) -> Example:
    example = sudoku.Task(num_empty=self.size).sample(key)
    answer = example.answer
    kept = {'values': answer['grid'] - 1, 'holes': answer['holes']}
    return example.replace(answer=kept)


@functools.cache
def _queens() -> np.ndarray:
  """All solutions, [92, BOARD] int32: the column of each row's queen."""
  rows = np.array(list(itertools.permutations(range(BOARD))))
  for sign in (1, -1):
    tilt = np.sort(rows + sign * np.arange(BOARD), axis=1)
    rows = rows[np.all(np.diff(tilt, axis=1) > 0, axis=1)]
  return rows.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Queens(Cells):
  """Eight queens, `size` of them taken off: '4_7_1_5_:', a column a row.

  The problems of reasoning-gym's `n_queens`: a solution and the queens that
  leave it, all evenly likely. Any solution that keeps the others is right.
  """

  num_cells = BOARD
  num_values = BOARD
  sizes = (1, BOARD - 1)
  prompt_length = BOARD + 1

  @staticmethod
  def table() -> np.ndarray:
    return _queens()

  def clashes(self, answer: dict) -> Array:
    del answer
    at = np.arange(BOARD)
    far = np.abs(at[:, None] - at[None])
    rows, columns = far[:, None, :, None], far[None, :, None, :]
    return jnp.asarray((rows > 0) & ((columns == 0) | (columns == rows)))

  def sample(self, key: Array) -> Example:
    board_key, hole_key = jax.random.split(key)
    boards = jnp.asarray(self.table())
    values = boards[jax.random.randint(board_key, (), 0, len(boards))]
    holes = jax.random.permutation(hole_key, BOARD) < self.size
    shown = jnp.where(holes, vocab.token('_'), vocab.ZERO + 1 + values)
    prompt = vocab.join(
      Text(shown.astype(jnp.int32), jnp.int32(BOARD)), vocab.literal(':')
    )
    answer = {'values': values, 'holes': holes}
    return base.example(prompt, answer, self.prompt_length)


@dataclasses.dataclass(frozen=True)
class Coloring(Cells):
  """Three colours for a graph of `size` vertices: '101001:'.

  The signs say which pairs (0, 1), (0, 2), (1, 2), (0, 3), ... are edges. The
  problems of reasoning-gym's `graph_color`: every edge with chance EDGE, drawn
  again until the greedy colouring in the order of the vertices needs no fourth
  colour; it is the solution of the oracle. Any proper colouring is right.
  """

  num_values = COLORS
  sizes = (2, 7)

  @property
  def num_cells(self) -> int:
    return self.size

  @property
  def prompt_length(self) -> int:
    return self.size * (self.size - 1) // 2 + 1

  def table(self) -> np.ndarray:
    grid = np.indices((COLORS,) * self.size).reshape(self.size, -1)
    return grid.T.astype(np.int32)

  def clashes(self, answer: dict) -> Array:
    same = jnp.eye(COLORS, dtype=bool)[None, :, None]
    return answer['edges'][:, None, :, None] & same

  def _solves(self, answer: dict, table: Array) -> Array:
    same = table[:, :, None] == table[:, None, :]
    return ~jnp.any(same & answer['edges'][None], axis=(1, 2))

  def greedy(self, edges: Array) -> tuple[Array, Array]:
    """(colours [N], whether three are enough) for edges [N, N]."""
    colors = jnp.full(self.size, -1)
    fine = jnp.bool_(True)
    for vertex in range(self.size):
      taken = colors[:, None] == jnp.arange(COLORS)[None]
      free = ~jnp.any(edges[vertex][:, None] & taken, axis=0)
      colors = colors.at[vertex].set(jnp.argmax(free))
      fine &= jnp.any(free)
    return colors, fine

  def sample(self, key: Array) -> Example:
    low = jnp.tril(jnp.ones((self.size, self.size), bool), -1)

    def draw(carry):
      key, _, _ = carry
      key, own = jax.random.split(key)
      edges = low & (jax.random.uniform(own, low.shape) < EDGE)
      return key, edges | edges.T, self.greedy(edges | edges.T)[1]

    start = (key, low, jnp.bool_(False))
    _, edges, _ = jax.lax.while_loop(lambda carry: ~carry[2], draw, start)
    rows, columns = np.tril_indices(self.size, -1)
    shown = vocab.ZERO + edges[rows, columns]
    prompt = vocab.join(
      Text(shown.astype(jnp.int32), jnp.int32(len(rows))), vocab.literal(':')
    )
    answer = {
      'values': self.greedy(edges)[0],
      'holes': jnp.ones(self.size, bool),
      'edges': edges,
    }
    return base.example(prompt, answer, self.prompt_length)
