"""4x4 Sudoku: '|1_34_41__1_34__1:' -> the grid's 16 digits, row by row.

Rows, columns and the four 2x2 boxes hold 1..4 once each. With a chain of
thought every fill comes first, as row, column and value: '12=2,21=3,...>1234..'
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, vocab
from posttrain_jax.tasks.vocab import Text

ANSWERS = ('grid', 'holes')
# No puzzle whose every clue is needed has more clues than this, so that many
# holes can be dug in any order.
MAX_NEEDED_CLUES = 6


@functools.cache
def grids() -> np.ndarray:
  """All 288 grids, [288, 16] int32 of 1..4."""
  rows = np.array(list(itertools.permutations((1, 2, 3, 4))))
  # Every choice of four rows, then those whose columns and boxes are right.
  choice = np.stack(np.meshgrid(*[np.arange(24)] * 4, indexing='ij'), -1)
  grids = rows[choice.reshape(-1, 4)].reshape(-1, 16)
  for unit in _units()[4:]:
    grids = grids[np.all(np.sort(grids[:, unit]) == [1, 2, 3, 4], axis=1)]
  return grids.astype(np.int32)


@functools.cache
def _units() -> np.ndarray:
  """Cells of the rows, the columns and the boxes, [12, 4]."""
  cells = np.arange(16).reshape(4, 4)
  boxes = cells.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
  return np.concatenate([cells, cells.T, boxes])


@functools.cache
def peers() -> np.ndarray:
  """Whether two cells share a unit, [16, 16] int32; not with itself."""
  member = np.any(_units()[:, :, None] == np.arange(16), axis=1).astype(int)
  return ((member.T @ member > 0) & ~np.eye(16, dtype=bool)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Task:
  """A grid with `num_empty` holes, all grids equally often.

  num_empty        holes
  unique           the clues leave one solution only; at most 10 holes
  answer           what to write: 'grid', all 16 digits, or 'holes', the
                   missing ones in reading order
  chain_of_thought the oracle fills the holes one by one, each time the one
                   with the fewest values left, then writes '>' and the answer

  The verifier accepts every grid that agrees with the clues.
  """

  num_empty: int = 6
  unique: bool = True
  answer: str = 'grid'
  chain_of_thought: bool = False

  def __post_init__(self):
    most = 16 - MAX_NEEDED_CLUES if self.unique else 16
    base.check(
      1 <= self.num_empty <= most,
      f'sudoku: num_empty={self.num_empty} is not in 1..{most} with '
      f'unique={self.unique}',
    )
    base.check(
      self.answer in ANSWERS,
      f'sudoku: no answer="{self.answer}".{nearest(self.answer, ANSWERS)}',
    )

  @property
  def prompt_length(self) -> int:
    return 18

  @property
  def completion_length(self) -> int:
    thought = 5 * self.num_empty if self.chain_of_thought else 0
    return thought + (16 if self.answer == 'grid' else self.num_empty) + 1

  def sample(self, key: Array) -> Example:
    grid_key, hole_key = jax.random.split(key)
    boards = jnp.asarray(grids())
    grid = boards[jax.random.randint(grid_key, (), 0, len(boards))]
    order = jax.random.permutation(hole_key, 16)
    holes = self._dig(grid, order)
    shown = jnp.where(holes, vocab.token('_'), vocab.ZERO + grid)
    prompt = vocab.join(
      vocab.literal('|'),
      Text(shown.astype(jnp.int32), jnp.int32(16)),
      vocab.literal(':'),
    )
    answer = {'grid': grid, 'holes': holes}
    return base.example(prompt, answer, self.prompt_length)

  def _dig(self, grid: Array, order: Array) -> Array:
    """Holes [16] bool: the first cells of `order` that may be dug."""
    bit = 1 << jnp.arange(16)
    # Where each of the 288 grids differs from this one, as 16 bits.
    differs = jnp.sum((jnp.asarray(grids()) != grid[None, :]) * bit[None], 1)

    def dig(carry, cell):
      clues, count = carry
      fewer = clues & ~bit[cell]
      may = count < self.num_empty
      if self.unique:
        # The grid itself is the only one that no clue tells from it.
        may &= jnp.sum((differs & fewer) == 0) == 1
      return (jnp.where(may, fewer, clues), count + may), None

    start = (jnp.int32(2**16 - 1), jnp.int32(0))
    (clues, _), _ = jax.lax.scan(dig, start, order)
    return (clues & bit) == 0

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    text = base.final_text(completion, mask, '>')
    holes = example.answer['holes']
    size = 16 if self.answer == 'grid' else self.num_empty
    written = vocab.fit(text, size).tokens - vocab.ZERO
    well_formed = (text.length == size) & jnp.all(
      (written >= 1) & (written <= 4)
    )
    if self.answer == 'holes':
      place = jnp.clip(jnp.cumsum(holes) - 1, 0, size - 1)
      written = jnp.where(holes, written[place], example.answer['grid'])
    agrees = jnp.all(holes | (written == example.answer['grid']))
    is_grid = jnp.any(jnp.all(jnp.asarray(grids()) == written[None, :], axis=1))
    return {
      'reward': (well_formed & agrees & is_grid).astype(jnp.float32),
      'format': well_formed.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    del key  # the grid the problem was made from
    grid, holes = example.answer['grid'], example.answer['holes']
    keep = holes if self.answer == 'holes' else jnp.ones(16, bool)
    answer = vocab.compact(vocab.ZERO + grid, keep)
    if not self.chain_of_thought:
      return base.finish(answer, self.completion_length)
    cells = self._fill_order(grid, holes)
    one = jnp.ones_like(cells)
    lines = [
      vocab.ZERO + 1 + cells // 4,
      vocab.ZERO + 1 + cells % 4,
      one * vocab.token('='),
      vocab.ZERO + grid[cells],
      one * vocab.token(','),
    ]
    thought = jnp.stack(lines, axis=1).reshape(-1)
    thought = thought.at[-1].set(vocab.token('>'))
    thought = Text(thought, jnp.int32(thought.shape[0]))
    return base.finish(vocab.join(thought, answer), self.completion_length)

  def _fill_order(self, grid: Array, holes: Array) -> Array:
    """The holes [num_empty], at each time the one with fewest values left."""
    values = jax.nn.one_hot(grid - 1, 4, dtype=jnp.int32)

    def fill(empty, _):
      known = jnp.where(empty[:, None], 0, values)
      seen = jnp.minimum(jnp.asarray(peers()) @ known, 1)
      left = jnp.where(empty, 4 - seen.sum(axis=1), 5)
      cell = jnp.argmin(left)
      return empty & (jnp.arange(16) != cell), cell

    _, cells = jax.lax.scan(fill, holes, length=self.num_empty)
    return cells
