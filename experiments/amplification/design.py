"""Which bases, arms and sizes there are, and what is claimed."""

import dataclasses

from experiments.amplification.probe import NAMES
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

DIGITS = 2
SAMPLES = 16  # of each problem, for pass@k
KLS = {'grpo_kl': 0.1, 'grpo_kl1': 1.0}  # coefficients of the penalty
RARE = 'program'  # the format that the third base has seldom seen


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's
  tilt_steps    of the third base on its own mixture
  rare_steps    of GRPO on that base, where a format has a longer way to go
  rates         the grid of all arms, which grows at most `extend` times at each
                end
  ways          arms on the small base; on the others there is GRPO
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
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
  'small': Kind('Small base', 'Small', preset='pico'),
  'large': Kind('Large base', 'Large', preset='nano'),
  'rare': Kind(
    f'Small base, {RARE} rare', f'Small, {RARE} rare', start='small',
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
    seeds=8, tuning_seeds=(100, 101), base_steps=400, tilt_steps=60, steps=40,
    rare_steps=120, snapshots=(10, 20), rates=(3e-4, 1e-3, 3e-3), extend=2,
    bases=('small', 'large', 'rare'),
    ways=tuple(WAYS), problems=128,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), base_steps=200, tilt_steps=20, steps=20,
    rare_steps=20, snapshots=(10,), rates=(1e-3, 3e-3), extend=0,
    bases=('small',), ways=('grpo', 'ei'), problems=64,
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='amplification',
  title='Which format does RL converge on?',
  question=(
    'Does RL from a base that was pretrained on several formats of solutions '
    'converge on one of them, is it the most accurate one, and does it depend '
    'on the size of the model, the algorithm or a KL penalty?'
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
    'Bases from scratch: 400 steps of 128 demonstrations. Small: pico (0.2M '
    'parameters); large: nano (0.44M).',
    f'Third base: the small one after 60 more steps on a mixture with a tenth '
    f'of the weight on "{RARE}", in which the small bases of a pilot were best '
    '(one answer in 31; 10 in 31 for each other format).',
    'PPO, GRPO and expert iteration from the small base: 40 steps of 16 '
    'problems x 8 answers at temperature 1, one update a step; GRPO from the '
    'third base: 120, as 40 were too few for any format to win in the first '
    'run. Expert '
    'iteration is SFT on the right answers, without duplicates, of the policy '
    'as it was at steps 0, 10, 20 and 30.',
    'Measured on 128 held-out problems a seed, 16 answers each at temperature '
    '1 (2 answers on the way there). "Best format": the one in which the base '
    'of that seed is right most often on the other half of the held-out '
    'problems, those that choices are made on.',
    'Tried before the claims were written, with one seed of the small base: '
    'GRPO and PPO at two learning rates, expert iteration at one.',
  ),
  equal=(
    'optimizer steps from a base, and answers judged in each step (128); the '
    'claim on the third base compares with that base alone'
  ),
  tuning=(
    'one grid of learning rates for all arms, which grows for all where an '
    "arm's best is its first or last; the best by accuracy on validation "
    'problems with two seeds of its own'
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
          'small_grpo', 'small', 'greater', 20.0),
    Claim('converges_ppo', '073', 'and so does PPO', 'top', 'small_ppo',
          'small', 'greater', 20.0),
    Claim('best', '073', 'it is the format that the base is best in', 'best',
          'small_grpo', 'small', 'greater', 20.0),
    Claim('best_rare', '073', 'also where that format is rare in the '
          'mixture', 'best', 'rare_grpo', 'rare', 'greater', 20.0),
    Claim('pass_1', '073', 'pass@1 rises', 'accuracy', 'small_grpo', 'small',
          'greater', 5.0),
    Claim('pass_k', '073', f'pass@{SAMPLES} falls', 'passk', 'small_grpo',
          'small', 'less', 0.0),
    Claim('diversity', '073', 'answers to a problem become less diverse',
          'distinct', 'small_grpo', 'small', 'less', 10.0),
    Claim('ei_shifts_less', '073', 'expert iteration shifts formats less than '
          'PPO', 'top', 'small_ei', 'small_ppo', 'less', 10.0),
    Claim('ei_learns_less', '073', 'and ends with a lower pass@1', 'accuracy',
          'small_ei', 'small_ppo', 'less', 2.0),
    Claim('kl', '073', 'a KL penalty (coefficient 1) slows the convergence: '
          'after 10 steps', 'early', 'small_grpo_kl1', 'small_grpo', 'less',
          5.0),
    Claim('size', '073', 'the large model converges on another format: it '
          f'answers less in "{RARE}"', f'share_{RARE}', 'large_grpo',
          'small_grpo', 'less', 20.0),
  ),
  not_reproduced=(
    'The formats are four ways to write one sum, not Python, code in tags and '
    'text; models have 0.2M and 0.44M parameters, not 150M and 1B, and no '
    'other text is in their pretraining.',
    'Mixtures besides the two, pass@64, the transfer of RL on easy problems to '
    'harder ones, REINFORCE.',
    'Expert iteration keeps 8 answers a problem and 4 iterations, not 64 and '
    'restarts from the base; PPO and GRPO take one update on each batch.',
  ),
)  # fmt: skip

# Written after the full run.
READING = (
  'GRPO and PPO converge: at least 98% of the answers are programs in every '
  'seed after 40 steps, from 22%. Programs are what the base is right in most '
  'often (90%, against 23% to 40%). pass@1 doubles (47% to 89% and 92%), and '
  'of 16 answers to a problem 11% are different, from 57%.',
  'It is more than a filter: of the right answers of the base 46% are '
  'programs. Expert iteration (41%) and GRPO with a KL coefficient of 1 (44%) '
  'end about there; GRPO with 0.1 goes on to 96%.',
  '"Expert iteration shifts less" depends on its learning rate, and is not '
  'testable here: on validation '
  'problems its three rates are as good (63% to 65%), and at the highest one '
  '82% are programs, at the lowest, which was chosen, 42%. GRPO and PPO at '
  'that highest rate converge too and end below the base (30% and 26% right).',
  '"pass@16 falls" could hardly be shown: the base has 97%.',
  'The size: not seen, but our formats give the claim little chance. '
  'Programs are best at both sizes (97% in the large base, against 46% to '
  '68%), and both models converge on them; nothing crosses, as code and text '
  'do in the paper.',
  'Where programs are rare, the mean (+33 points) hides that seeds part: '
  'programs become the most common format in two of five seeds (45%, 91%); in '
  'two they grow to 19% and 13% and another format leads after 40 steps; in '
  'one, whose few programs were right less often than its reversed sums, they '
  'vanish, and the reversed sum counts as best. One seed lost 9 points of '
  'pass@1. The prior counts beside the accuracy.',
)
