"""Search problems whose demonstrations take a set number of wrong turns.

'|1_34_41__1_34__1:' -> 'b2e4#e3f...>2432...' (Sudoku): a trace of steps and
detours, then '>' and the answer, which alone is judged. `search_cells.py` and
`search_numbers.py` say how each puzzle is written.

Reference: Cai et al. (2025), How Much Backtracking is Enough?,
https://arxiv.org/abs/2505.24273 and
https://github.com/jchy20/how-much-backtrack; their Countdown repeats one wrong
path in a trace, here every detour of a trace is another one.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import active, nearest
from posttrain_jax.core.types import Array, Example
from posttrain_jax.tasks import base, split, vocab
from posttrain_jax.tasks.parts.search_cells import (
  Branches,
  Coloring,
  Queens,
  Sudoku,
)
from posttrain_jax.tasks.parts.search_numbers import Numbers
from posttrain_jax.tasks.vocab import Text

PUZZLES = {
  'sudoku': Sudoku,
  'countdown': Numbers,
  'queens': Queens,
  'coloring': Coloring,
}
MARKER = vocab.token('>')


@dataclasses.dataclass(frozen=True)
class Task:
  """A puzzle with a trace of `backtracks` detours before its answer.

  puzzle          'sudoku', 'countdown', 'queens' or 'coloring'
  size            holes of a Sudoku, queens to place, vertices, or how many of
                  the operators '+-*/' Countdown has
  max_backtracks  that a trace has room for
  depth           steps that a detour writes at most; longer ones are left out
  partial         reward of a well-formed answer that is wrong

  Shares and counts of demonstrations, which may be traced:

  backtracks      detours of a trace, each another one; fewer where the problem
                  has not as many
  direct          share without a trace
  incorrect       share that ends in a wrong answer: the same trace around a
                  path that errs at a random step
  shuffled        share whose steps and detours stand in random order
  prune           share whose trace is short: the same steps, and of the same
                  detours the first `pruned_to`; 1 keeps one that failed, 0
                  the path alone
  """

  puzzle: str = 'sudoku'
  size: int = 4
  max_backtracks: int = 10
  depth: int = 2
  partial: float = 0.0
  backtracks: float = 1.0
  direct: float = 0.0
  incorrect: float = 0.0
  shuffled: float = 0.0
  prune: float = 0.0
  pruned_to: float = 1.0

  def __post_init__(self):
    base.check(
      self.puzzle in PUZZLES,
      f'backtracking: no puzzle="{self.puzzle}".'
      + nearest(self.puzzle, PUZZLES),
    )
    low, high = PUZZLES[self.puzzle].sizes
    base.check(
      low <= self.size <= high,
      f'backtracking: size={self.size} is not in {low}..{high} with '
      f'puzzle="{self.puzzle}"',
    )
    base.check(
      1 <= self.depth <= 64,
      f'backtracking: depth={self.depth} is not in 1..64',
    )
    base.check(
      0 <= self.max_backtracks <= 99,
      f'backtracking: max_backtracks={self.max_backtracks} is not in 0..99',
    )
    limits = {
      'partial': 1.0, 'backtracks': self.max_backtracks, 'direct': 1.0,
      'incorrect': 1.0, 'shuffled': 1.0, 'prune': 1.0,
      'pruned_to': 99,
    }  # fmt: skip
    for name, most in limits.items():
      value = getattr(self, name)
      base.check(
        isinstance(value, jax.core.Tracer) or 0 <= value <= most,
        f'backtracking: {name}={value} is not in 0..{most:g}',
      )

  @functools.cached_property
  def _puzzle(self) -> Any:
    return PUZZLES[self.puzzle](size=self.size, depth=self.depth)

  @property
  def prompt_length(self) -> int:
    return self._puzzle.prompt_length

  @property
  def completion_length(self) -> int:
    own = self._puzzle
    trace = own.levels * own.step_length
    trace += self.max_backtracks * own.detour_length
    return trace + 1 + own.answer_length + 1

  def sample(self, key: Array) -> Example:
    return self._puzzle.sample(key)

  def identity(self, example: Example) -> Array:
    """The puzzle's own where it has one, else the prompt."""
    return split.identity(self._puzzle, example)

  def verify(
    self, example: Example, completion: Array, mask: Array
  ) -> dict[str, Array]:
    """1 for a right answer, `partial` for another well-formed one; what says
    '>' more than once is neither."""
    said = vocab.before_eos(completion, mask)
    once = jnp.sum((completion == MARKER) & (said > 0)) <= 1
    text = base.final_text(completion, mask, '>')
    right, formed = self._puzzle.read(example, text)
    right, formed = right & once, formed & once
    reward = jnp.where(right, 1.0, self.partial * formed)
    return {
      'reward': reward.astype(jnp.float32),
      'format': formed.astype(jnp.float32),
    }

  def solve(self, example: Example, key: Array) -> Text:
    """A demonstration; its randomness is the trace's detours and kind."""
    branch_key, trace_key = jax.random.split(key)
    drawn = jax.random.uniform(trace_key, (3 + self._puzzle.pieces, 2))
    kind, noise = drawn[:3, 0], drawn[3:]
    found = self._puzzle.branches(
      example.answer, branch_key, kind[0] < self.incorrect
    )
    most = self.backtracks
    if active(self.prune):
      short = drawn[0, 1] < self.prune
      most = jnp.where(short, jnp.minimum(most, self.pruned_to), most)
    trace = _trace(found, noise, most, kind[1] < self.shuffled)
    trace = vocab.join(trace, vocab.literal('>'))
    shown = trace.length * (kind[2] >= self.direct)
    trace = Text(trace.tokens, shown.astype(jnp.int32))
    return base.finish(vocab.join(trace, found.answer), self.completion_length)


def _trace(
  found: Branches, noise: Array, backtracks: Array, shuffled: Array
) -> Text:
  """Steps in order, the chosen detours before the step that they miss.

  noise  [M + L, 2] uniform numbers
  """
  count, levels = len(found.ok), len(found.steps.length)
  # The first `backtracks` of the detours there are, in random order.
  chance = jnp.where(found.ok, noise[:count, 0], 2.0)
  rank = jnp.sum(chance[None] < chance[:, None], axis=1)
  taken = found.ok & (rank < backtracks)
  width = found.detours.tokens.shape[1]
  steps = found.steps.tokens
  steps = jnp.pad(steps, ((0, 0), (0, width - steps.shape[1])))
  tokens = jnp.concatenate([found.detours.tokens, steps])
  lengths = jnp.concatenate([found.detours.length * taken, found.steps.length])
  place = jnp.concatenate([found.level, jnp.arange(levels) + 0.5])
  # A level's detours in random order, all of them before its step.
  at_random = noise[:, 1]
  place = jnp.where(shuffled, at_random, place + at_random * 0.25)
  # Each piece begins where those before it end: a sort compiles for seconds.
  start = jnp.sum((place[None] < place[:, None]) * lengths[None], axis=1)
  column = jnp.arange(width)[None]
  size = tokens.size
  slot = jnp.where(column < lengths[:, None], start[:, None] + column, size)
  buffer = jnp.zeros(size, jnp.int32).at[slot].set(tokens, mode='drop')
  return Text(buffer, jnp.sum(lengths))
