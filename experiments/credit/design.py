"""Task, arms, sizes and claims of the study of credit for steps: all that is
fixed before it runs.
"""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

# Every total is a step that is right or wrong, given the one before.
TASK = dict(name='running_sums', count=6, most=3)
# Who writes what the bases learn from counts one too many, and stops to think
# early now and then; demonstrations of the arms do neither.
WRITER = dict(slips=0.08, cut=0.4)
RATE = 'optimizer.lr'
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01
PROMPTS, GROUP = 16, 8
# Tokens of a thought: before the first of five steps, and after each.
BUDGETS = (0, 2, 4, 6, 8, 10)
FREE = 1e3  # units of reward: a bound that a critic alone does not meet
ANSWER = 2  # tokens of an answer with its end

_TOKENS = ('reduce.name', 'token_mean')
_LENGTHS = (
  '[{"name": "verifier", "weight": 1.0}, '
  '{"name": "relative_length", "weight": 0.2}]'
)
# {program: (spec, what is changed in it)}. Arms of a program differ in numbers.
PROGRAMS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
  'sft': ('configs/sft.py:recipe=sft', ()),
  'grpo': ('configs/rl.py:recipe=grpo', (_TOKENS,)),
  'short': ('configs/rl.py:recipe=grpo', (_TOKENS, ('rewards', _LENGTHS))),
  'mrt': ('configs/rl.py:recipe=mrt', ()),
  'segments': (
    'configs/rl.py:recipe=fine_grained',
    (('prompts_per_step', '32'), ('group_size', '4')),
  ),
  'ppo': (
    'configs/rl.py:recipe=carft',
    (('contrastive.name', 'none'), ('contrastive.coef', '0.0'),
     ('demos_per_prompt', '0')),
  ),
  'carft': ('configs/rl.py:recipe=carft', ()),
  'carft_other': (
    'configs/rl.py:recipe=carft', (('contrastive.annotation', 'another'),)
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  program  of PROGRAMS
  hparams  numbers that the program takes as inputs
  critic   the arm whose critic it begins with; '' has none
  """

  label: str
  family: str
  program: str
  hparams: tuple[tuple[str, float], ...] = ()
  critic: str = ''


def _segments(label: str, at_end: float, critic: str) -> Way:
  numbers = (('token_rewards.at_end', at_end),)
  return Way(label, 'rl', 'segments', numbers, critic)


WAYS = {
  'sft': Way('SFT, as many demonstrations', 'sft', 'sft'),
  'grpo': Way('GRPO, outcome', 'rl', 'grpo'),
  'short': Way('GRPO, outcome and length', 'rl', 'short'),
  'mrt': Way('MRT, progress', 'rl', 'mrt'),
  'total': _segments('PPO, total of segments at the end', 1.0, 'total'),
  'segments': _segments('PPO, segments (Fine-Grained)', 0.0, 'segments'),
  'ppo': Way('PPO (ReFT)', 'rl', 'ppo', (), 'ppo'),
  'carft': Way('CARFT', 'hybrid', 'carft', (), 'ppo'),
  'carft_other': Way(
    "CARFT, other problems' annotations", 'hybrid', 'carft_other', (), 'ppo'
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's; they divide `seeds`
  base_seeds    of the bases: the seeds of tuning and run, which have one each
  base_steps    of SFT on `base_rows` demonstrations each, at `base_rate`
  critic_steps  in which an arm's value head alone learns, at `critic_rate`
  grid          of learning rates, the same for all arms; it grows at most
                `extend` times at each end (0: it is wide instead)
  problems      of each half of the held-out ones, a seed
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  base_seeds: tuple[int, ...]
  preset: str
  base_steps: int
  base_rows: int
  base_rate: float
  critic_steps: int
  critic_rate: float
  steps: int
  grid: tuple[float, ...]
  extend: int
  arms: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101), base_seeds=(100, 101, *range(8)),
    preset='depth-2', base_steps=300, base_rows=64, base_rate=3e-3,
    critic_steps=20, critic_rate=1e-2, steps=50,
    grid=(5e-5, 1.6e-4, 5e-4, 1.6e-3), extend=0, arms=tuple(WAYS),
    problems=256,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), base_seeds=(100, 0, 1), preset='depth-1',
    base_steps=20, base_rows=32, base_rate=3e-3, critic_steps=4,
    critic_rate=1e-2, steps=6, grid=(1e-3, 3e-3), extend=0,
    arms=('grpo', 'mrt', 'total', 'segments', 'carft', 'carft_other'),
    problems=32,
  ),
}  # fmt: skip

MARGIN = 3.0  # points of accuracy
_LEARNED = 5.0
_BASE = Check('the base has some ability', 'accuracy', ('base',), 10.0, 60.0)


def _claim(
  name: str, paper: str, said: str, measure: str, arm: str, against: str,
  margin: float = MARGIN, direction: str = 'greater', **keys,
) -> Claim:  # fmt: skip
  """Testable where both arms learned and the one that is compared with leaves
  room."""
  checks = (
    _BASE, Check('no ceiling', 'accuracy', (against,), most=95.0),
  )  # fmt: skip
  return Claim(
    name, paper, said, measure, arm, against, direction, margin, 'gain',
    _LEARNED, checks, **keys,
  )  # fmt: skip


CLAIMS = (
  _claim('sooner', '118', 'rewards of segments are learnt from sooner than '
         'their total at the end', 'curve', 'segments', 'total', 2.0,
         spread=1.6),
  _claim('segments', '118', 'rewards of segments end above their total at the '
         'end', 'accuracy', 'segments', 'total', spread=7.6),
  _claim('regret', '059', 'rewards of progress have less regret over budgets '
         'than the outcome alone', 'regret', 'mrt', 'grpo', 2.0, 'less',
         spread=2.1),
  _claim('price', '059', 'rewards of progress take fewer tokens for a right '
         'answer than the outcome alone', 'price', 'mrt', 'grpo', 1.0, 'less',
         spread=0.8),
  _claim('outcome', '059', 'rewards of progress are above the outcome alone',
         'accuracy', 'mrt', 'grpo', spread=3.8),
  _claim('length', '059', 'rewards of progress are above a reward of length',
         'accuracy', 'mrt', 'short'),
  _claim('carft', '204', 'CARFT is above PPO', 'accuracy', 'carft', 'ppo'),
  _claim('annotations', '204', 'its own annotations are worth more than those '
         'of other problems', 'accuracy', 'carft', 'carft_other'),
)  # fmt: skip

_FULL = SCALES['full']
STUDY = lab.Study(
  name='credit',
  title='Credit for steps',
  question=(
    'A chain of steps is right or wrong at its end. Does it pay to say which '
    'steps earned that: by rewards of segments, by how much each step raised '
    'the chance of the answer, or by the likeness to an annotated chain?'
  ),
  paper_claims=(
    'Fine-Grained RLHF (118): rewards of segments are learnt from sooner than '
    'one reward of the whole answer, and end above it.',
    'MRT (059): a reward for the progress of each step has less regret over '
    'budgets of thought than the outcome alone, and takes fewer tokens for a '
    'right answer; a reward of length saves tokens and costs accuracy.',
    'CARFT (204): to draw right answers to the annotated chain of their '
    'problem, in the space of embeddings, is above PPO (ReFT). Whether it '
    'matters what the annotation says is our question: the control takes those '
    'of other problems.',
  ),
  setup=(
    'The last digit of the sum of six digits from 0 to 3; a thought has it '
    'after each further digit, then comes the answer. Every seed has a base of '
    f'its own (SFT, {_FULL.base_steps} steps of {_FULL.base_rows} rows, '
    'depth-2: 0.1M parameters) from a writer who counts one too many in '
    f'{WRITER["slips"]:.0%} of steps, and in {WRITER["cut"]:.0%} of '
    'demonstrations ends the thought early, so that it can answer when told '
    'to.',
    f'Every arm takes {_FULL.steps} steps of {PROMPTS * GROUP} own answers at '
    f'temperature 1: {PROMPTS} problems with {GROUP} each, Fine-Grained RLHF '
    f'{PROMPTS * GROUP // 4} with 4, as its recipe has it. SFT takes {PROMPTS} '
    'right and whole demonstrations a step, as many as CARFT reads.',
    f'Arms of PPO begin with a critic: in {_FULL.critic_steps} steps before '
    'theirs the value head alone learns what the base earns by their rewards.',
    'Segments are the five steps of a thought, each judged by the one before '
    'it, and the answer: 0.3 for a right one, -0.3 for a wrong one, beside the '
    'verdict of 1. The control earns the same total on its last token.',
    'Progress: the probability of the right answer, if asked for after each of '
    'four episodes (one or two steps), less that after the one before, times '
    '0.2. The reward of length is that of Kimi, times 0.2 too.',
    'Regret: the share of wrong answers, averaged over budgets of 0 to 10 '
    'tokens; a longer thought is cut there and the answer asked for. All of '
    'one answer at temperature 1 to each of 256 held-out problems a seed; '
    'accuracy while it learns is that of the own answers of all steps.',
  ),
  equal='steps, own answers a step and tries',
  tuning=(
    f'one grid of {len(_FULL.grid)} learning rates for all arms, from '
    f'{_FULL.grid[0]:g} to {_FULL.grid[-1]:g}: the lowest whose accuracy comes '
    'within a point of the best on validation problems, with two seeds of '
    'their own; weights of rewards and terms are those of the recipes'
  ),
  measures={
    'accuracy': lab.Measure('Accuracy', '%', 'higher', 1),
    'gain': lab.Measure('Gained', 'points', 'higher', 1),
    'curve': lab.Measure('Accuracy while it learns', '%', 'higher', 1),
    'regret': lab.Measure('Regret over budgets', '%', 'lower', 1),
    'length': lab.Measure('Tokens of an answer', '', '', 1),
    'price': lab.Measure('Tokens for a right answer', '', 'lower', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    'Learned reward models of segments, human feedback, and several kinds of '
    'errors with weights of their own (118): the task itself says which step '
    'is wrong.',
    'Continuations that are sampled from cut thoughts, as MRT rewards them, '
    'and thoughts of thousands of tokens: here the chance of the one right '
    'answer is read off, and a whole thought has 10 tokens.',
    'The projection of embeddings and the further negatives of CARFT.',
  ),
)

READING: tuple[str, ...] = (
  'From bases at 38% every arm learns 22 to 31 points; SFT on as many right '
  'demonstrations as CARFT reads learns 41 (at the last rate of the grid).',
  'Rewards where segments end are not learnt from sooner than their total at '
  'the end (58 and 59% while learning), nor do they end above it (66 and '
  '68.5%): not seen, both. At equal low rates they were a point ahead on the '
  'tuning seeds, but the total bears a rate three times as high.',
  'MRT ends where GRPO does (64 and 64.5%), with its regret over budgets (74 '
  'both, not seen to be less) and its tokens for a right answer (21.6 and '
  '20.8, undecided). Thoughts that are cut before the last step but one are '
  'answered right in 20% or less by base, GRPO and MRT alike, so that regret '
  'has little room.',
  'A reward of length saves 1.5 of 12.9 tokens, most of it in one seed that '
  'gave up thinking (18% right); that MRT is above it (4 points) is undecided.',
  'CARFT is 4 points below PPO (64.6 and 68.7%), and 2.5 below itself with '
  "other problems' annotations: neither is seen. What the annotations say "
  'earns nothing here.',
)
