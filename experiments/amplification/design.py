"""Which bases, arms and sizes there are, and what is claimed."""

import dataclasses

from experiments.amplification.probe import NAMES
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

DIGITS = 2
SAMPLES = 16  # of each problem, for pass@k
KLS = {'grpo_kl1': 1.0}  # coefficients of the penalty
RARE = 'program'  # the format that the second base has seldom seen
RATE = 'optimizer.lr'
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's
  base_seeds    of the bases, which seeds take turns to start from
  tilt_steps    of the second base on its own mixture
  rare_steps    of GRPO on that base, where a format has a longer way to go
  rates         the grid of all arms, which grows at most `extend` times at each
                end
  ways          arms on the first base; on the other there is GRPO
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  base_seeds: tuple[int, ...]
  base_steps: int
  tilt_steps: int
  steps: int
  rare_steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
  extend: int
  bases: tuple[str, ...]
  ways: tuple[str, ...]
  problems: int


@dataclasses.dataclass(frozen=True)
class Kind:
  """A base: its model, the mixture that it ends with, what it goes on from."""

  label: str
  short: str
  preset: str = ''
  start: str = ''
  weights: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains: a recipe and what it changes there."""

  label: str
  family: str
  spec: str
  items: tuple[tuple[str, str], ...] = ()


BASES = {
  'even': Kind('Base', 'Even', preset='pico'),
  'rare': Kind(
    f'Base, {RARE} rare', f'{RARE.capitalize()} rare', start='even',
    weights=((RARE, 0.1),),
  ),
}  # fmt: skip
_GRPO = 'configs/rl.py:recipe=grpo_kl'
WAYS = {
  'grpo': Way('GRPO', 'rl', _GRPO),
  'ppo': Way('PPO', 'rl', 'configs/rl.py:recipe=ppo'),
  **{key: Way(f'GRPO, KL {x:g}', 'rl', _GRPO) for key, x in KLS.items()},
  # The generator is the policy of the last iteration.
  'ei': Way(
    'Expert iteration', 'sft', 'configs/sft.py:recipe=expert_iteration',
    (('ref.refresh_every', '10'),),
  ),
}  # fmt: skip

# Arms whose penalty is set by the study.
COEFS = {'grpo': 0.0, **KLS}

SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101), base_seeds=(200, 201, 202, 203),
    base_steps=240, tilt_steps=60, steps=40, rare_steps=100,
    snapshots=(10, 20), rates=(3e-4, 1e-3, 3e-3), extend=2,
    bases=('even', 'rare'), ways=tuple(WAYS), problems=128,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100, 101), base_seeds=(200, 201),
    base_steps=100, tilt_steps=20, steps=20, rare_steps=20, snapshots=(10,),
    rates=(1e-3, 3e-3), extend=0, bases=('even',), ways=('grpo', 'ei'),
    problems=64,
  ),
}  # fmt: skip

# The setting can give either answer.
_SPREAD = Check('the base answers in several formats', 'top', ('even',),
                most=50.0)  # fmt: skip
_LEARNED = Check('GRPO learned', 'gain', ('even_grpo',), least=5.0)
_PPO = Check('PPO learned', 'gain', ('even_ppo',), least=5.0)
_RARE = Check('the best format is rare', 'best', ('rare',), most=15.0)
_LEARNED_RARE = Check('GRPO learned', 'gain', ('rare_grpo',), least=5.0)
_ROOM = Check('pass@k can fall and rise', 'passk', ('even',), least=20.0,
              most=97.0)  # fmt: skip
STUDY = lab.Study(
  name='amplification',
  title='Which format does RL converge on?',
  question=(
    'Does RL from a base that was pretrained on several formats of solutions '
    'converge on one of them, is it the most accurate one, and does it depend '
    'on the mixture, the algorithm or a KL penalty?'
  ),
  paper_claims=(
    'Echo Chamber (073, 2504.07912): from pretraining mixtures of Python, code '
    'in tags and text, RL on GSM8K converges on one format within an epoch, '
    'usually the most accurate one, also where another is more common; pass@1 '
    'rises while pass@64 stays or falls; 150M parameters converge on code and '
    '1B on text; expert iteration shifts the formats less than PPO; less KL '
    'penalty, faster convergence.',
  ),
  setup=(
    'Addition of numbers of up to two digits; one in eight problems is held '
    'out. An answer begins with the letter of its format: "direct" (d32), '
    '"reverse" (r23, the lowest digit first), "columns" (c12,3>32, the sum of '
    'each column, then the sum), "program" (p27 5+, which the verifier runs). '
    'Demonstrations are in the four formats in equal shares; prompts name '
    'none; the reward is 1 for a right sum in any of them.',
    'Base: pico (0.2M parameters), 240 steps of 128 demonstrations. Second '
    'base: 60 more steps on a mixture with a tenth of the weight on '
    f'"{RARE}", which the base is best in (one demonstration in 31; 10 in 31 '
    'for each other format). There are four of each, which the seeds take '
    'turns to start from.',
    'PPO, GRPO and expert iteration from the base: 40 steps of 16 problems x 8 '
    'answers at temperature 1, one update a step; GRPO from the second base: '
    '100, as 40 were too few for any format to win in the first run. Expert '
    'iteration is SFT on the right answers, without duplicates, of the policy '
    'as it was at steps 0, 10, 20 and 30.',
    'Measured on 128 held-out problems a seed, 16 answers each at temperature '
    '1 (2 answers on the way there). "Best format": the one in which the base '
    'of that seed is right most often on the other half of the held-out '
    'problems, those that choices are made on.',
  ),
  equal=(
    'optimizer steps from a base, and answers judged in each step (128); the '
    'claim on the second base compares with that base alone'
  ),
  tuning=(
    'one grid of learning rates for GRPO, PPO and expert iteration on the '
    "first base, which grows for all where an arm's best is its first or "
    'last: the lowest whose accuracy comes within a point of the best on '
    'validation problems, with two seeds of their own; GRPO with KL and GRPO '
    'on the second base take the rate of GRPO, so that the penalty, and the '
    'mixture, alone differ'
  ),
  measures={
    'accuracy': lab.Measure('pass@1', '%', 'higher', 1),
    'gain': lab.Measure('Gain of pass@1', '%', 'higher', 1),
    'passk': lab.Measure(f'pass@{SAMPLES}', '%', 'higher', 1),
    'distinct': lab.Measure('Different answers', '%', '', 1),
    'top': lab.Measure('Most common format', '%', '', 1),
    'early': lab.Measure('Most common format, early', '%', '', 1),
    'best': lab.Measure("Format the base is best in", '%', '', 1),
  }
  | {f'share_{x}': lab.Measure(f'In format "{x}"', '%', '', 1) for x in NAMES}
  | {
    f'precision_{x}': lab.Measure(f'"{x}" right', '%', '', 1) for x in NAMES
  },
  claims=(
    Claim('converges', '073', 'GRPO converges on one format', 'top',
          'even_grpo', 'even', 'greater', 20.0, checks=(_SPREAD, _LEARNED),
          spread=0.5),
    Claim('converges_ppo', '073', 'and so does PPO', 'top', 'even_ppo',
          'even', 'greater', 20.0, checks=(_SPREAD, _PPO), spread=0.5),
    Claim('best', '073', 'it is the format that the base is best in', 'best',
          'even_grpo', 'even', 'greater', 20.0, checks=(_SPREAD, _LEARNED),
          spread=4.1),
    Claim('best_rare', '073', 'also where that format is rare in the '
          'mixture', 'best', 'rare_grpo', 'rare', 'greater', 20.0,
          checks=(_RARE, _LEARNED_RARE), spread=0.5),
    Claim('pass_1', '073', 'pass@1 rises', 'accuracy', 'even_grpo', 'even',
          'greater', 5.0, spread=8.6),
    Claim('pass_k', '073', f'pass@{SAMPLES} falls', 'passk', 'even_grpo',
          'even', 'less', 0.0, checks=(_ROOM, _LEARNED), spread=3.3),
    Claim('diversity', '073', 'answers to a problem become less diverse',
          'distinct', 'even_grpo', 'even', 'less', 10.0, checks=(_LEARNED,),
          spread=2.6),
    Claim('ei_shifts_less', '073', 'expert iteration shifts formats less than '
          'PPO', 'top', 'even_ei', 'even_ppo', 'less', 10.0, 'gain', 5.0,
          spread=13.4),
    Claim('ei_learns_less', '073', 'and ends with a lower pass@1', 'accuracy',
          'even_ei', 'even_ppo', 'less', 2.0, checks=(_PPO,), spread=15.6),
    Claim('kl', '073', 'a KL penalty (coefficient 1) slows the convergence: '
          'after 10 steps', 'early', 'even_grpo_kl1', 'even_grpo', 'less',
          5.0, checks=(_SPREAD, _LEARNED), spread=3.3),
  ),
  not_reproduced=(
    'The formats are four ways to write one sum, not Python, code in tags and '
    'text; models have 0.2M parameters, not 150M and 1B, and no other text is '
    'in their pretraining.',
    'The change of format with size: on this task programs are best at any '
    'size (the run before this one), so no format can overtake.',
    'Mixtures besides the two, pass@64, the transfer of RL on easy problems to '
    'harder ones, REINFORCE.',
    'Expert iteration keeps 8 answers a problem and 4 iterations, not 64 and '
    'restarts from the base; PPO and GRPO take one update on each batch.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING: tuple[str, ...] = (
  'One format is left: GRPO and PPO end with 99% of all answers in one, from '
  'bases that used four evenly, and it is the one that the base is best in '
  '(programs, 80% right, against 8 to 13% of the others). That is beyond what '
  "a base's right answers look like (75% programs). After 10 steps 69% are.",
  'Rare is no protection: where the base writes 3% programs, 100 steps of GRPO '
  'end with 99.5% of them, in all eight seeds, although at first the formats '
  'that are common gain (38% columns after 20 steps). The run before this one, '
  'with 40 steps in place of 100, was cut off on the way.',
  'pass@1 goes from 27 to 86%, and 16 samples solve as many problems as before '
  '(96%): what is new with one sample was there with sixteen. It does not '
  'fall, and eight seeds could have shown a fall of 5 points.',
  'Expert iteration goes the same way, less far, in 40 steps of as many judged '
  'answers: 77% programs and 71% right, at its best rate of the same grid. A '
  'KL coefficient of 1 slows the convergence (59 against 69% after 10 steps) '
  'and ends at 54%, with 23 points gained in place of 59.',
)
