"""Levels, arms, sizes and claims of the study of curricula: all that is fixed
before it runs.
"""

import dataclasses
from typing import Any

from configs import sft
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

# Digits to be summed, one level after the other; the last is never drawn.
LEVELS = (4, 5, 6, 7)
EVEN = (1.0, 1.0, 1.0, 0.0)
HARDEST = (0.0, 0.0, 1.0, 0.0)
MOST = 3  # the largest digit
# Of each level in what bases learn, and how often its writer counts one too
# many: long sums are rare there, and have more steps to err at.
SEEN = (1.0, 0.3, 0.1, 0.03)
SLIPS = 0.15
RATE = 'optimizer.lr'
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01
PROMPTS, GROUP = 16, 8


def name_of(level: int) -> str:
  """A part of the mixture; configs sort names, so numbers are padded."""
  return f'digits_{level:02d}'


def levels(weights: tuple[float, ...], slips: float = 0.0) -> Any:
  """Config entry of the levels with these weights."""
  return sft.mixture({
    name_of(level): dict(
      task='running_sums', count=level, most=MOST, slips=slips, weight=weight
    )
    for level, weight in zip(LEVELS, weights, strict=True)
  })  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
  """What arms of one program share: they differ in numbers alone.

  weights     of the levels
  curriculum  of posttrain_jax.curricula; '' = none
  """

  spec: str
  weights: tuple[float, ...] = EVEN
  curriculum: str = ''


_GRPO = 'configs/rl.py:recipe=grpo'
PROGRAMS = {
  'sft': Program('configs/sft.py:recipe=sft'),
  'bandit': Program(_GRPO, EVEN, 'bandit'),
  'easy_to_hard': Program(_GRPO, EVEN, 'easy_to_hard'),
  'learnable': Program(_GRPO, EVEN, 'learnable'),
  'hardest': Program(_GRPO, HARDEST),
}


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  program  of PROGRAMS
  hparams  numbers that the program takes as inputs
  """

  label: str
  family: str
  program: str
  hparams: tuple[tuple[str, float], ...] = ()


def _bandit(
  label: str, temperature: float, rate: float, floor: float = 0.0
) -> Way:
  numbers = (
    ('curriculum.temperature', temperature), ('curriculum.rate', rate),
    ('curriculum.floor', floor),
  )  # fmt: skip
  return Way(label, 'rl', 'bandit', numbers)


WAYS = {
  'sft': Way('SFT on an even mixture', 'sft', 'sft'),
  # All is floor: each level is as likely at every step.
  'uniform': _bandit('Even mixture', 1.0, 0.5, 1.0),
  # The numbers of the paper's Countdown, and those of its grid of tasks and
  # levels.
  'bandit': _bandit('Bandit (SEC), temperature 1', 1.0, 0.5),
  'bandit_sharp': _bandit('Bandit, temperature 0.2', 0.2, 0.5),
  'easy_to_hard': Way('Easy to hard', 'rl', 'easy_to_hard'),
  'learnable': Way('Levels solved half of the time', 'rl', 'learnable'),
  'hardest': Way('The hardest level alone', 'rl', 'hardest'),
}  # fmt: skip
# The row that claims are on: the one of these that does best with the tuning
# seeds.
BANDITS = ('bandit', 'bandit_sharp')
BEST = 'best_bandit'


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's; they divide `seeds`
  base_steps    of SFT on `base_rows` demonstrations each, at `base_rate`
  grid          of learning rates, the same for all arms
  each          problems of each level, of each half of the held-out ones
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  preset: str
  base_steps: int
  base_rows: int
  base_rate: float
  steps: int
  grid: tuple[float, ...]
  arms: tuple[str, ...]
  each: int


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101),
    preset='depth-2', base_steps=600, base_rows=64, base_rate=3e-3, steps=40,
    grid=(5e-5, 1.6e-4, 5e-4, 1.6e-3), arms=tuple(WAYS), each=256,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), preset='depth-1',
    base_steps=20, base_rows=32, base_rate=3e-3, steps=6, grid=(1e-3, 3e-3),
    arms=('uniform', 'bandit', 'bandit_sharp'), each=16,
  ),
}  # fmt: skip

MARGIN = 3.0  # points of accuracy
_FULL = SCALES['full']


def measure_of(level: int) -> str:
  return f'sum_{level}'


def _above(
  name: str, said: str, measure: str, against: str, spread: float = 0.0
) -> Claim:
  """The bandit is above; testable where both arms gained ten points on some
  level and the one that is compared with leaves room."""
  checks = (
    Check('the base has some ability', measure_of(LEVELS[0]), ('base',), 30.0),
    Check('room is left', measure, (against,), most=90.0),
  )
  return Claim(
    name, '093', said, measure, BEST, against, 'greater', MARGIN, 'gain', 10.0,
    checks, spread,
  )  # fmt: skip


_HARD, _UNSEEN = measure_of(LEVELS[-2]), measure_of(LEVELS[-1])
CLAIMS = (
  _above('hardest', 'the bandit is above an even mixture on the hardest level '
         'that is drawn', _HARD, 'uniform', 1.4),
  _above('unseen', 'the bandit is above an even mixture on a harder level that '
         'is never drawn', _UNSEEN, 'uniform', 9.4),
  _above('mean', 'the bandit is above an even mixture on the mean of all '
         'levels', 'accuracy', 'uniform', 1.4),
  _above('order', 'the bandit is above going from easy to hard on the level '
         'that is never drawn', _UNSEEN, 'easy_to_hard', 13.8),
)  # fmt: skip

_NAMES = ', '.join(str(x) for x in LEVELS[:-1])
STUDY = lab.Study(
  name='curricula',
  title='The order of problems',
  question=(
    'RL with as many steps, problems and tries: does it matter which levels '
    'of difficulty the problems are drawn from, and can a bandit find out '
    'which while it learns?'
  ),
  paper_claims=(
    'SEC (093): a bandit that draws more of the levels whose answers have '
    'large advantages is above problems in random order, and above going from '
    'easy to hard, most of all on levels that are harder than all it drew.',
  ),
  setup=(
    f'The last digit of the sum of {_NAMES} digits from 0 to {MOST}, with a '
    f'thought that has it after each further digit; {LEVELS[-1]} digits are '
    'never drawn. Every seed has a base of its own (SFT, '
    f'{_FULL.base_steps} steps of {_FULL.base_rows} rows, {_FULL.preset}: 0.1M '
    'parameters) from a writer who counts one too many in '
    f'{SLIPS:.0%} of steps and mostly writes short sums (weights of the four '
    f'levels {", ".join(f"{x:g}" for x in SEEN)}).',
    f'Every arm takes {_FULL.steps} steps of GRPO on {PROMPTS} problems with '
    f'{GROUP} answers each, and differs in what levels these are of: as many '
    'of each; by the bandit of SEC (more of levels whose advantages are '
    'large), at the temperature of its Countdown, and at a sharper '
    'one; from easy to hard, two neighbours at a time; '
    'more of levels that are solved half of the time; the hardest alone. SFT '
    'reads a right demonstration of as many problems, evenly mixed.',
    'The best bandit is the one of the two that does best with the tuning '
    'seeds, and is what claims are on.',
    f'One answer at temperature 1 to each of {_FULL.each} held-out problems '
    'of each level a seed.',
  ),
  equal='steps, problems, own answers a step, and tries',
  tuning=(
    f'one grid of {len(_FULL.grid)} learning rates for all arms, from '
    f'{_FULL.grid[0]:g} to {_FULL.grid[-1]:g}: the lowest whose mean accuracy '
    'on the drawn levels comes within a point of the best on validation '
    'problems, with two seeds of their own; the two temperatures of '
    'the bandit are arms of their own, each with the same grid'
  ),
  measures={
    'accuracy': lab.Measure('Mean of levels', '%', 'higher', 1),
    'gain': lab.Measure('Gained on some level', 'points', 'higher', 1),
    **{
      measure_of(x): lab.Measure(f'{x} digits', '%', 'higher', 1)
      for x in LEVELS
    },
  },
  claims=CLAIMS,
  not_reproduced=(
    'Language models, Countdown, Zebra puzzles, ARC and mathematics, and '
    'arms that are kinds of problems crossed with levels.',
  ),
)

READING: tuple[str, ...] = (
  'At temperature 1, the one of the paper for Countdown, the bandit is the '
  'even mixture: 47.1% on the mean of levels, both, and within 2 points on '
  'each. Levels solved half of the time (47.3) and easy to hard (47.4) are '
  'level with them.',
  'The sharp bandit (0.2), which did better with the tuning seeds and which '
  'claims are on, is 3.0 points below the even mixture on the mean (-7.4 to '
  '1.5, not seen above), 0.9 below on the hardest drawn level (-7.6 to 5.8) '
  'and 3.0 below on the one never drawn (-10.5 to 4.5; both undecided). Its '
  "rate is three times the others'; what two tuning seeds had shown of it (5 "
  'points ahead on the hardest level) did not carry over to eight.',
  'The hardest level alone is best on that level, by 3 points, and loses 13 '
  'on the shortest sums. Nothing moves the level that is never drawn (18 to '
  '22%, the base 20). SFT on as many problems comes to 48.4%.',
)
