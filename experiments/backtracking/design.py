"""Which puzzles, traces and sizes there are, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.statistics import Claim

SAMPLES = 8  # of each problem, for pass@k
MOST = 7  # detours that an answer of RL has room for
PARTIAL = 0.1  # reward of a well-formed answer that is wrong


@dataclasses.dataclass(frozen=True)
class Kind:
  """Demonstrations of an arm: knobs of the task."""

  label: str
  backtracks: int = 0
  direct: float = 0.0
  incorrect: float = 0.0
  shuffled: float = 0.0


KINDS = {
  'direct': Kind('Answer only', direct=1.0),
  'b0': Kind('0 backtracks'),
  'b1': Kind('1 backtrack', 1),
  'b5': Kind('5 backtracks', 5),
  'incorrect': Kind('5 backtracks, wrong answers', 5, incorrect=1.0),
  'shuffled': Kind('5 backtracks, shuffled', 5, shuffled=1.0),
}


@dataclasses.dataclass(frozen=True)
class Setting:
  """A puzzle, the steps of its warm-ups, and the arms that it has."""

  label: str
  puzzle: str
  size: int
  sft_steps: int
  kinds: tuple[str, ...]


_CONTROLS = ('direct', 'b0', 'b1', 'b5', 'incorrect', 'shuffled')
SETTINGS = {
  'countdown': Setting('Countdown', 'countdown', 4, 600, _CONTROLS),
  'coloring': Setting('Colouring', 'coloring', 6, 400, ('b0', 'b1', 'b5')),
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode; every arm has the same steps, rows and rates.

  sft_share  of a setting's warm-up that is done
  """

  seeds: int
  sft_share: float
  sft_rows: int
  steps: int
  prompts: int
  rates: tuple[float, ...]
  settings: tuple[str, ...]
  kinds: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, sft_share=1.0, sft_rows=64, steps=40, prompts=16,
    rates=(1e-4, 3e-4), settings=tuple(SETTINGS), kinds=tuple(KINDS),
    problems=256,
  ),
  'reduced': Scale(
    seeds=2, sft_share=0.2, sft_rows=32, steps=10, prompts=8, rates=(3e-4,),
    settings=('countdown',), kinds=('b0', 'b5', 'shuffled'), problems=64,
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
    'A trace has as many detours as asked, or all that its problem has. The '
    'verifier sees the answer alone: 1 for a right one, 0.1 for another '
    'well-formed one.',
    'Warm-up from scratch: depth-2 (0.1M parameters), 64 demonstrations a '
    'step, 600 steps on Countdown and 400 on Colouring. Then GRPO, 40 steps '
    'of 16 problems x 8 answers, the same for all arms.',
    'Measured on 256 held-out problems: greedily, and 8 answers each at '
    'temperature 1.',
    'Tried before the claims were written, with one seed: Countdown after 0 '
    'and 5 backtracks and answers only; GRPO on two of them with 64 rows at '
    '0.001, where both collapsed, and with 128 rows at the rates of the '
    'study; Colouring with five vertices after 0 and 5 backtracks.',
  ),
  equal=(
    'optimizer steps, rows per step and learning rates of the warm-up (its '
    'tokens are reported, and grow with the traces), and all of RL'
  ),
  tuning=(
    'two learning rates of GRPO (0.0001, 0.0003) for every arm, the best by '
    'accuracy on validation problems; the warm-up has 0.003 everywhere'
  ),
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
    Claim('easy', '010', 'Colouring, the easier puzzle: no backtracks are '
          'better than five after RL', 'accuracy', 'coloring_b0',
          'coloring_b5', 'greater', 2.0),
    Claim('difficulty', '010', 'five backtracks change pass@1 for the better '
          'on Countdown, compared with Colouring', 'over_b0', 'countdown_b5',
          'coloring_b5', 'greater', 2.0),
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
    'Sudoku, queens and ten backtracks are tasks of the library '
    '(posttrain_jax/tasks/backtracking.py) without arms here: in a pilot with '
    'one seed, 300 steps on 4x4 Sudoku with five backtracks came to 2% right '
    'answers, too few for RL to begin with. Arc1D, Geometry, Color Cube, List '
    'Functions, Zebra and Self-reference are missing.',
    'The second reasoning-gym task (queens) is tested against the package, '
    'and not run; two difficulties of one puzzle are not compared.',
    'Models have 0.1M parameters and no pretraining, not 3B; steps are '
    'matched, not tokens; problems have at most about ten detours; traces '
    'with wrong answers are made by the oracle, not distilled from a model.',
    'PPO, and RL without any warm-up.',
  ),
)  # fmt: skip

# Written after the full run.
READING: tuple[str, ...] = ()
