"""Which puzzles, traces and sizes there are, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

SAMPLES = 8  # of each problem, for pass@k
FEW, MANY = 4, 13  # detours that answers have room for
PARTIAL = 0.1  # reward of a well-formed answer that is wrong


@dataclasses.dataclass(frozen=True)
class Kind:
  """Demonstrations of an arm: knobs of the task."""

  label: str
  backtracks: int = 0
  direct: float = 0.0
  incorrect: float = 0.0
  shuffled: float = 0.0

  @property
  def room(self) -> int:
    """Detours that an answer of RL has room for: more than it was shown."""
    return FEW if self.backtracks <= 1 else MANY


KINDS = {
  'direct': Kind('Answer only', direct=1.0),
  'b0': Kind('0 backtracks'),
  'b1': Kind('1 backtrack', 1),
  'b5': Kind('5 backtracks', 5),
  'b10': Kind('10 backtracks', 10),
  'incorrect': Kind('5 backtracks, wrong answers', 5, incorrect=1.0),
  'shuffled': Kind('5 backtracks, shuffled', 5, shuffled=1.0),
}


COUNTS = ('b0', 'b1', 'b5', 'b10')


@dataclasses.dataclass(frozen=True)
class Setting:
  """A puzzle and the arms that it has.

  size   of its problems, as the task says
  smaller  sizes that the base has learned before, without backtracks
  """

  label: str
  puzzle: str
  size: int
  smaller: tuple[int, ...]
  kinds: tuple[str, ...] = COUNTS


SETTINGS = {
  'countdown': Setting(
    'Countdown', 'countdown', 4, (2, 3),
    ('direct', *COUNTS, 'incorrect', 'shuffled'),
  ),
  'sudoku': Setting('Sudoku', 'sudoku', 6, (1, 2, 3)),
  'queens': Setting('Queens', 'queens', 3, (1, 2)),
  'coloring': Setting('Colouring', 'coloring', 6, (3, 4, 5)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode; every arm has the same steps, rows and rates."""

  seeds: int
  base_steps: int
  sft_steps: int
  rows: int
  steps: int
  prompts: int
  settings: tuple[str, ...]
  kinds: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, base_steps=800, sft_steps=250, rows=64, steps=40, prompts=16,
    settings=tuple(SETTINGS), kinds=tuple(KINDS), problems=256,
  ),
  'reduced': Scale(
    seeds=2, base_steps=100, sft_steps=100, rows=32, steps=10, prompts=8,
    settings=('countdown', 'sudoku'), kinds=('b0', 'b5', 'shuffled'),
    problems=64,
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='backtracking',
  title='How many wrong turns before RL?',
  question=(
    'Is a warm-up on traces that take wrong turns and undo them a better start '
    'for RL than one on straight solutions, how many should there be, and do '
    'they have to be right?'
  ),
  paper_claims=(
    'How Much Backtracking is Enough (010, 2505.24273): SFT on long chains of '
    'thought with backtracks, then RL, is better than RL after short ones; the '
    'best number of backtracks grows with the difficulty: 0 on Arc1D, 1 on '
    'Countdown, 5 on Sudoku.',
    'What the traces say matters little (traces with wrong answers are as '
    'good); their structure matters (shuffled ones are worse).',
  ),
  setup=(
    'Countdown: three numbers of 1 to 9 and + - * / make a target of up to '
    '35. A trace writes a first and a last step, "3+58"; a detour is a first '
    'step that nothing can follow, or a last one that misses, each another '
    'one, and "#". The answer is an expression.',
    'Colouring: the problems of reasoning-gym\'s graph_color with six '
    'vertices, three colours and edges of chance 0.5. A trace colours one '
    'vertex after the other, "a1"; a detour is a colour that clashes or '
    'leaves the next vertex none, and "#". The answer is six colours.',
    '4x4 Sudoku with one solution and six holes: "a1", hole by hole. Queens: '
    'eight of them, three taken off (reasoning-gym\'s n_queens). Their '
    'detours are written like those of Colouring.',
    'A trace has as many detours as asked, or all that its problem has. The '
    'verifier sees the answer alone: 1 for a right one, 0.1 for another '
    'well-formed one.',
    'A base for each puzzle: depth-2 (0.1M parameters), 800 steps of 64 rows '
    'on smaller problems (Sudoku and queens with fewer holes, fewer vertices, '
    'fewer operators), half of them with a straight trace, half the answer '
    'alone: it knows the rules and has seen no backtrack.',
    'Warm-up: 250 steps of 64 demonstrations. Then GRPO, 40 steps of 16 '
    'problems x 8 answers, the same for all arms but for the room of an '
    'answer: 4 detours after warm-ups on none or one, 13 after those on more.',
    'Measured on 256 held-out problems: greedily, and 8 answers each at '
    'temperature 1.',
    'Tried before the claims were written: the same study without a base, all '
    'of it (commit fe9d1cf, in README.md); with one seed and a base, Sudoku '
    'after 0 and 5 backtracks and queens with 4 holes after the same, where 6% '
    'were right after 5; GRPO on Sudoku at 0.0001 to 0.001 with 16 to 64 '
    'problems, which gained little at the lower rates (at most 4 points) and '
    'lost at the higher ones.',
  ),
  equal=(
    'optimizer steps, rows per step and learning rates of the warm-up (its '
    'tokens are reported, and grow with the traces), and all of RL but the '
    'room of an answer'
  ),
  tuning='none: the warm-up has 0.003 and GRPO 0.0001 everywhere',
  measures={
    'accuracy': lab.Measure('pass@1', '%', 'higher', 1),
    'accuracy_0': lab.Measure('pass@1 before RL', '%', 'higher', 1),
    'gain': lab.Measure('Gained by RL', '%', 'higher', 1),
    'over_b0': lab.Measure('More than without backtracks', '%', '', 1),
    'greedy': lab.Measure('Greedy', '%', 'higher', 1),
    'greedy_0': lab.Measure('Greedy before RL', '%', 'higher', 1),
    'passk': lab.Measure(f'pass@{SAMPLES}', '%', 'higher', 1),
    'passk_0': lab.Measure(f'pass@{SAMPLES} before RL', '%', 'higher', 1),
    'formed': lab.Measure('Well-formed', '%', '', 1),
    'formed_0': lab.Measure('Well-formed before RL', '%', '', 1),
    'backtracks': lab.Measure('Backtracks', '', '', 2),
    'backtracks_0': lab.Measure('Backtracks before RL', '', '', 2),
    'length': lab.Measure('Tokens of an answer', '', '', 1),
    'length_0': lab.Measure('Tokens before RL', '', '', 1),
    'reward': lab.Measure('Reward in training', '', 'higher', 2),
    'sft_tokens': lab.Measure('Warm-up tokens (thousands)', '', '', 0),
  },
  claims=(
    Claim('one', '010', 'Countdown: one backtrack is better than none after '
          'RL', 'accuracy', 'countdown_b1', 'countdown_b0', 'greater', 2.0),
    Claim('five', '010', 'Countdown: one backtrack is better than five after '
          'RL', 'accuracy', 'countdown_b1', 'countdown_b5', 'greater', 2.0),
    Claim('sudoku_five', '010', 'Sudoku: five backtracks are better than none '
          'after RL', 'accuracy', 'sudoku_b5', 'sudoku_b0', 'greater', 2.0),
    Claim('sudoku_ten', '010', 'Sudoku: five backtracks are better than ten '
          'after RL', 'accuracy', 'sudoku_b5', 'sudoku_b10', 'greater', 2.0),
    Claim('difficulty', '010', 'five backtracks change pass@1 for the better '
          'on Sudoku, compared with Colouring', 'over_b0', 'sudoku_b5',
          'coloring_b5', 'greater', 2.0),
    Claim('queens', '010', 'Queens, a harder puzzle: five backtracks are '
          'better than none after RL', 'accuracy', 'queens_b5', 'queens_b0',
          'greater', 2.0),
    Claim('easy', '010', 'Colouring, the easier puzzle: no backtracks are '
          'better than five after RL', 'accuracy', 'coloring_b0',
          'coloring_b5', 'greater', 2.0),
    Claim('gain', '010', 'Sudoku: RL gains more after five backtracks than '
          'after none', 'gain', 'sudoku_b5', 'sudoku_b0', 'greater', 1.0),
    Claim('cold', '010', 'Countdown: a warm-up on traces without backtracks '
          'is a better start than one on answers only', 'accuracy',
          'countdown_b0', 'countdown_direct', 'greater', 2.0),
    Claim('search', '010', 'and so is one with five backtracks', 'accuracy',
          'countdown_b5', 'countdown_direct', 'greater', 2.0),
    Claim('incorrect', '010', 'Countdown: traces with wrong answers are as '
          'good as right ones after RL', 'accuracy', 'countdown_incorrect',
          'countdown_b5', 'equal', 5.0, moved='gain', at_least=1.0),
    Claim('shuffled', '010', 'Countdown: shuffled traces are worse than '
          'traces in order after RL', 'accuracy', 'countdown_shuffled',
          'countdown_b5', 'less', 2.0),
  ),
  not_reproduced=(
    'Arc1D, Geometry, Color Cube, List Functions, Zebra and Self-reference are '
    'missing.',
    'Models have 0.1M parameters and a base that knows smaller problems of the '
    'same puzzle, not 3B parameters and a language; steps are matched, not '
    'tokens; Countdown and Colouring have fewer than ten detours in most '
    'problems; traces with wrong answers are made by the oracle, not distilled '
    'from a model.',
    'PPO, and RL without any warm-up.',
  ),
)  # fmt: skip

# Written after the full run.
READING: tuple[str, ...] = ()
