"""Task, arms, sizes and claims of the study of second tries: all that is fixed
before it runs.
"""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

# Few answers come into question, so that to know that one of them is wrong is
# worth something.
TASK = dict(name='countdown', num_numbers=2, max_number=48)
# Half of the problems that bases learn from, and SFT, show an answer and its
# mark, and half of these answers are of another problem.
SHOWN = dict(wrong=0.5, plain=0.5, feedback='verdict')
RATE = 'optimizer.lr'
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01
TURNS = 5
# Answers of a problem of GRPO, and of a group that has a guest besides.
GROUP = 7
# Second answers behind a wrong first one, of which RISE takes the best.
TRIES = 8

_NO_GUEST = (
  ('demos_per_prompt', '0'), ('demos_from', 'oracle'),
  ('expert_loss.name', 'none'),
)  # fmt: skip
# {program: (spec, problems of a step, what is changed in it)}
PROGRAMS: dict[str, tuple[str, int, tuple[tuple[str, str], ...]]] = {
  'sft': ('configs/sft.py:recipe=sft', 96, ()),
  'rise': (
    'configs/sft.py:recipe=rise', 48,
    (('collect.sampler', 'ref'), ('group_size', str(TRIES)),
     ('weights.temperature', '0.4')),
  ),
  'grpo': ('configs/rl.py:recipe=critique_grpo', 48, _NO_GUEST),
  'luffy': (
    'configs/rl.py:recipe=critique_grpo', 48, (('demos_from', 'oracle'),)
  ),
  # A second answer to each of a group costs as much as the first: half as many
  # problems.
  'critique': (
    'configs/rl.py:recipe=critique_grpo', 24,
    (('refine.feedback', 'verdict'),),
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  program  of PROGRAMS
  tuned    the measure on validation problems that its rate is chosen by; '':
           it takes the rate of the arm `like`
  after    the arm whose model it starts from; '' is the base
  """

  label: str
  family: str
  program: str
  tuned: str = ''
  after: str = ''
  like: str = ''


WAYS = {
  'sft': Way('SFT', 'sft', 'sft', 'first'),
  'rise': Way('RISE, one round', 'sft', 'rise', 'fifth'),
  'rise_2': Way('RISE, two rounds', 'sft', 'rise', '', 'rise', 'rise'),
  'grpo': Way('GRPO', 'rl', 'grpo', 'first'),
  'luffy': Way('GRPO and a demonstration (LUFFY)', 'hybrid', 'luffy', 'first'),
  'critique': Way(
    'GRPO and a second answer (Critique-GRPO)', 'hybrid', 'critique', 'first'
  ),
  'sft_grpo': Way('SFT, then GRPO', 'hybrid', 'grpo', '', 'sft', 'grpo'),
}  # fmt: skip
# {arm: (arm, what is made of five answers)}: arms a second time, by what else
# could be done with as many answers.
APART = {
  'base_majority': ('base', 'majority'),
  'base_any': ('base', 'any'),
  'rise_2_majority': ('rise_2', 'majority'),
  'rise_2_any': ('rise_2', 'any'),
}
APART_LABELS = {
  'majority': 'five apart, their majority',
  'any': 'five apart, any right',
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's; they divide `seeds`
  base_seeds    of the bases: the seeds of tuning and run, which have one each
  base_steps    of SFT on `base_rows` demonstrations each, at `base_rate`
  steps         of an arm, and of a round of RISE
  grid          of learning rates, the same for all arms; it grows at most
                `extend` times at each end
  problems      of each half of the held-out ones, a seed
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  base_seeds: tuple[int, ...]
  preset: str
  base_steps: int
  base_rows: int
  base_rate: float
  steps: int
  grid: tuple[float, ...]
  extend: int
  arms: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101), base_seeds=(100, 101, *range(8)),
    preset='depth-2', base_steps=300, base_rows=64, base_rate=4e-3, steps=80,
    grid=(5e-5, 1.6e-4, 5e-4, 1.6e-3), extend=0, arms=tuple(WAYS), problems=256,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), base_seeds=(100, 0, 1), preset='depth-1',
    base_steps=20, base_rows=16, base_rate=3e-3, steps=6, grid=(1e-3, 3e-3),
    extend=0, arms=('rise', 'rise_2', 'grpo', 'critique'), problems=32,
  ),
}  # fmt: skip

MARGIN = 3.0  # points of accuracy
_BASE = Check('the base has some ability', 'first', ('base',), 15.0, 70.0)
_LEARNED = 5.0
_LEARNED_TURNS = 3.0  # points after five turns


def _turns(
  name: str, said: str, measure: str, arm: str, against: str,
  direction: str = 'greater', margin: float = MARGIN, room: bool = True, **keys,
) -> Claim:  # fmt: skip
  """Of RISE: testable where RISE learned, and there is room above."""
  learned = Check('RISE learned', 'gain_fifth', ('rise_2',), _LEARNED_TURNS)
  checks = [_BASE, learned]
  if room:
    checks.append(Check('no ceiling', measure, (against,), most=90.0))
  return Claim(
    name, '077', said, measure, arm, against, direction, margin,
    checks=tuple(checks), **keys,
  )  # fmt: skip


def _guest(name: str, said: str, against: str, **keys) -> Claim:
  """Of Critique-GRPO: testable where both learned, and there is room."""
  return Claim(
    name, '105', said, 'first', 'critique', against, 'greater', MARGIN,
    'gain', _LEARNED,
    (_BASE, Check('no ceiling', 'first', (against,), most=90.0)), **keys,
  )  # fmt: skip


CLAIMS = (
  _turns('majority', 'after five turns RISE is above the majority of five '
         'answers of the same model', 'fifth', 'rise_2', 'rise_2_majority',
         spread=19.1),
  _turns('verifier', 'after five turns RISE is above five answers of the same '
         'model apart, of which a verifier takes a right one (our control)',
         'fifth', 'rise_2', 'rise_2_any',
         spread=1.1),
  _turns('first', 'RISE keeps what the base can do at the first turn', 'lost',
         'rise_2', 'base', 'equal', room=False),
  _turns('more', 'RISE gains more from turn one to turn five than its base',
         'over', 'rise_2', 'base', room=False,
         spread=5.7),
  _turns('rounds', 'a second round of RISE ends above the first', 'fifth',
         'rise_2', 'rise', margin=2.0,
         spread=0.7),
  _guest('refined', 'GRPO with a second answer as guest is above GRPO at as '
         'many answers', 'grpo',
         spread=2.1),
  _guest('demonstration', 'a second answer as guest is above a demonstration '
         'as guest', 'luffy',
         spread=1.3),
)  # fmt: skip

_FULL = SCALES['full']
STUDY = lab.Study(
  name='second_tries',
  title='Second tries',
  question=(
    'A model answers, is told that it was wrong, and answers again. Does '
    'training on second answers help at the first try, and at later turns?'
  ),
  paper_claims=(
    'RISE (077): a model that was trained on the best of its own second '
    'answers gains over five turns, more than its base does, and more than '
    'the majority of five answers apart is worth; what it can do at the first '
    'turn is kept; a second round adds to it.',
    'Critique-GRPO (105): a second answer that saw a verdict on the first, as '
    "a guest of its problem's group, is worth more than GRPO alone and than a "
    'demonstration in its place.',
  ),
  setup=(
    'Two numbers to 48 are to make a target to 99 by one of four operations '
    '(Countdown). Every seed has a base of its own (SFT, '
    f'{_FULL.base_steps} steps of {_FULL.base_rows} rows, {_FULL.preset}), of '
    'whose demonstrations half stand behind an answer and its mark, right or '
    "wrong; wrong ones are other problems' answers.",
    f'RISE: the first answer of the model as a round begins to 48 problems a '
    f'step, and behind the mark of a wrong one the best of {TRIES} second '
    f'ones; {_FULL.steps} steps a round, weights exp(reward / 0.4), as its '
    'script has it. Nobody demonstrates.',
    'Critique-GRPO: each of seven answers is read back with its mark, right '
    'or wrong, and answered again; the first right second answer is the '
    "group's eighth. The same without a guest is GRPO, and with the oracle's "
    'demonstration as guest LUFFY. All three draw 336 answers a step, second '
    'ones counted: 48 problems of seven, Critique-GRPO 24 of twice seven.',
    'SFT learns 96 demonstrations a step, half of them behind an answer and '
    'its mark, as the base did.',
    'Turns: the next answer sees the problem, the last answer and its mark, '
    'and none before; a right one stays right. Beside it what five answers '
    'apart are worth: their majority, and any right one. At temperature 1, on '
    f'{_FULL.problems} held-out problems a seed, five chains each.',
  ),
  equal='steps of a round; for GRPO with and without guests, answers drawn',
  tuning=(
    f'one grid of {len(_FULL.grid)} learning rates for all arms, from '
    f'{_FULL.grid[0]:g} to {_FULL.grid[-1]:g}: the '
    'lowest that comes within a point of the best on validation '
    'problems, with two seeds of their own, by accuracy after five turns '
    '(RISE, in its first round) or at the first; the second round takes the '
    "first one's, GRPO after SFT that of GRPO"
  ),
  measures={
    'first': lab.Measure('First turn', '%', 'higher', 1),
    'gain': lab.Measure('Gained at the first turn', 'points', 'higher', 1),
    'lost': lab.Measure('Lost at the first turn', 'points', 'lower', 1),
    'fifth': lab.Measure('With five answers', '%', 'higher', 1),
    'gain_fifth': lab.Measure('Gained with five', 'points', 'higher', 1),
    'over': lab.Measure('From turn 1 to 5', 'points', 'higher', 1),
    'mended': lab.Measure('Mended at turn 2', '%', 'higher', 1),
    'repeated': lab.Measure('Said again at turn 2', '%', 'lower', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    'Turns without a verdict, of which RISE takes the majority: here a mark '
    'says truly whether the last answer was right, as in its turns with an '
    'oracle.',
    'The true answer, or a critique in words, before a second answer (105): '
    'what is told is right or wrong. With the answer told, a second answer is '
    'a copy of the demonstration.',
    'A stronger teacher for second answers (077).',
  ),
)

READING: tuple[str, ...] = (
  'RISE learns from its own answers alone, and gains 17 points at the first '
  'turn (26 to 43%) and 13 after five (61 to 74%); its second round ends 5 '
  'above the first. Five turns with a verdict are 22 points above the '
  'majority of five answers apart, but for the base it was 28: it is the '
  'verdict that does it.',
  'Against five answers apart of which a verifier takes a right one its turns '
  'are 2.5 points ahead (-0.6 to 5.7, undecided); those of the base were 3.6 '
  'behind. So it learnt to use a turn somewhat, but from turn one to turn five '
  'it gains no more than before (31.5 and 35.6 points: not seen), as there is '
  'less left to mend. A wrong first answer is said again in 22% of second '
  'turns, by the base in 15.',
  'A second answer as guest (105) is 4.8 points below GRPO at as many answers '
  '(43 and 48%; an effect of 3 is excluded): half of its answers are second '
  'ones, and it sees half as many problems. A demonstration as guest comes to '
  '54%, at the last rate of the grid, so that this claim cannot be judged.',
  'GRPO has the best first turns in all three forms, but after five turns it '
  'is at 65 to 68%, below RISE (74), SFT (71), and SFT before it (75): 28 to '
  '33% of its second turns say the same again.',
)
