"""Square grids to walk in: moves, distances, shortest paths, prompts.

A grid of size x size cells is held flat, with a border of one cell around it:
[(size + 2) ** 2]. The border is never open, so no walk leaves the grid, and a
move adds a constant to a cell's index.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core.types import Array
from posttrain_jax.tasks import vocab
from posttrain_jax.tasks.vocab import Text

MOVES = 'udlr'  # move m is undone by move m ^ 1
FAR = 2**20  # the distance of what is not reached


def offsets(size: int) -> np.ndarray:
  """What each of the four moves adds to a cell's index, [4]."""
  return np.array([-(size + 2), size + 2, -1, 1], np.int32)


@functools.cache
def cells(size: int) -> np.ndarray:
  """Indices of the cells in reading order, [size * size]."""
  rows, columns = np.divmod(np.arange(size * size), size)
  return ((rows + 1) * (size + 2) + columns + 1).astype(np.int32)


@functools.cache
def inside(size: int) -> np.ndarray:
  """True on cells, False on the border, [(size + 2) ** 2]."""
  flags = np.zeros((size + 2) ** 2, bool)
  flags[cells(size)] = True
  return flags


def put(values: Array, size: int, border) -> Array:
  """Values of the cells [size * size], with `border` around them."""
  whole = jnp.full((size + 2) ** 2, border, values.dtype)
  return whole.at[cells(size)].set(values)


def distances(open_: Array, target: Array, size: int, limit: int) -> Array:
  """Moves from each cell to cell `target` through open ones.

  open_   [(size + 2) ** 2] bool, False on the border
  target  [] cell; it needs not be open itself
  limit   what is farther than this counts as not reached

  Returns [(size + 2) ** 2] int32, FAR where there is no way.
  """
  here = jnp.arange(open_.shape[0]) == target

  def sweep(_, field):
    near = [jnp.roll(field, -int(step)) for step in offsets(size)]
    near = functools.reduce(jnp.minimum, near) + 1
    return jnp.where(open_, jnp.minimum(field, near), field)

  start = jnp.where(here, 0, FAR).astype(jnp.int32)
  return jax.lax.fori_loop(0, limit, sweep, start)


def descend(
  field: Array, start: Array, size: int, limit: int, noise: Array | None = None
) -> Text:
  """Moves of a shortest way from `start` to where `field` is 0.

  field  distances; `start` is at most `limit` away
  noise  [limit, 4] in [0, 1), which of equally good moves is taken; without it
         the first one in 'udlr'
  """
  steps = jnp.asarray(offsets(size))
  if noise is None:
    noise = jnp.zeros((limit, 4))

  def step(cell, noise):
    away = field[cell] > 0
    move = jnp.argmin(field[cell + steps] + noise)
    return jnp.where(away, cell + steps[move], cell), (move, away)

  _, (moves, away) = jax.lax.scan(step, start, noise)
  tokens = move_tokens()[moves]
  length = jnp.sum(away).astype(jnp.int32)
  return Text(jnp.where(away, tokens, vocab.PAD), length)


def move_tokens() -> Array:
  """Tokens of the four moves, [4]."""
  return jnp.array([vocab.token(move) for move in MOVES], jnp.int32)


def read_moves(text: Text) -> tuple[Array, Array]:
  """(moves [L], well-formed []): 0..3 as in MOVES, -1 after the text's end.

  A well-formed text has at least one move and nothing else.
  """
  hit = text.tokens[:, None] == move_tokens()[None, :]
  counts = jnp.arange(text.tokens.shape[0]) < text.length
  moves = jnp.where(counts, jnp.argmax(hit, axis=1), -1)
  ok = jnp.all(jnp.any(hit, axis=1) | ~counts) & (text.length > 0)
  return moves.astype(jnp.int32), ok


def prompt(first: str, tokens: Array, size: int) -> Text:
  """`first`, the rows of `tokens` [(size + 2) ** 2] on a line each, ':'."""
  rows = tokens[cells(size)].reshape(size, size).astype(jnp.int32)
  breaks = jnp.full((size, 1), vocab.token('\n'))
  lines = jnp.concatenate([rows, breaks], axis=1).reshape(-1)
  lines = lines.at[-1].set(vocab.token(':'))
  head = jnp.array([vocab.token(first)], jnp.int32)
  lines = jnp.concatenate([head, lines])
  return Text(lines, jnp.int32(lines.shape[0]))
