"""Tasks, arms and sizes of the study of reward models: all numbers of it."""

import dataclasses
from typing import Any

from posttrain_jax import lab

# What is learnt: letters of five segments, each with a principle of its own.
TARGET: dict[str, Any] = dict(name='attributes', segments=5, width=2)
# What the base can do besides, and nobody asks of later stages.
SKILLS: dict[str, dict[str, Any]] = {
  'up': dict(name='sorting', length=3, max_value=9),
  'down': dict(name='sorting', length=3, max_value=9, order='descending'),
}
WEIGHTS = (0.3, 0.35, 0.35)  # of the target and of these, in the base
HELDOUT = 0.25
RATE = 'optimizer.lr'
NOISE = 0.2  # share of pairs that are the wrong way round
SLIPS = 0.15  # share of tokens of SFT's demonstrations that slip
GROUP = 4  # own answers to a problem
ASKED, PROMPTS = 32, 16  # problems of a step: for pairs, for policies
# The rubric that is exploited: two parts of the verdict, of which vowels say
# nothing of what is wanted.
RUBRIC = {'vowels': 3.0, 'score': 1.0}
# Scores that are so close are as good: the lowest of their rates is taken.
CLOSE = {'ranked': 0.003, 'gold': 0.01, 'proxy': 0.01}

_OWN = (('prompts_per_step', str(PROMPTS)), ('group_size', str(GROUP)))
_PAIRS = (
  ('prompts_per_step', str(ASKED)), ('group_size', str(GROUP)),
  ('collect.sampler', 'ref'), ('collect.fixed', 'true'),
)  # fmt: skip
_RUBRIC = (
  '[{"name": "verifier", "weight": 0}, '
  '{"name": "verifier", "part": "vowels", "weight": 0}, '
  '{"name": "verifier", "part": "score", "weight": 0}, '
  '{"name": "audited", "of": ["vowels", "score"], "weights": [3.0, 1.0]}]'
)
_MODEL = 'configs/preference.py:recipe=reward_model'
# {program: (spec, what is changed in it, its other models)}. Arms of a program
# differ in numbers and in the models that they begin from.
PROGRAMS: dict[str, tuple[str, tuple[tuple[str, str], ...], tuple]] = {
  'plain': (_MODEL, _PAIRS, ()),
  'flip': (
    _MODEL, (*_PAIRS, ('flip_fraction', str(NOISE))), ('first', 'second')
  ),
  'meta': (
    'configs/preference.py:recipe=meta_rm',
    (*_PAIRS, ('meta.sampler', 'later')), ('later',),
  ),
  'sft': ('configs/sft.py:recipe=sft', (('prompts_per_step', '64'),
          ('collect.slips', str(SLIPS))), ()),
  'ppo': ('configs/rl.py:recipe=rlhf', (*_OWN, ('kl.coef', '0.05')),
          ('reward',)),
  'superhf': (
    'configs/sft.py:recipe=raft',
    (*_OWN, ('collect.judge', 'reward'), ('collect.threshold', '-1e9'),
     ('loss.name', 'asft'), ('loss.alpha', '0.0'), ('loss.kl_coef', '0.35'),
     ('loss.direction', 'reverse')),
    ('reward',),
  ),
  'rubric': ('configs/rl.py:recipe=ppo', (*_OWN, ('rewards', _RUBRIC)), ()),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm is trained.

  program  of PROGRAMS
  hparams  numbers that the program takes as inputs
  after    the arm that it goes on from; '' is the base
  rate_of  the arm whose rate it takes; '' has a grid of its own
  """

  label: str
  family: str
  program: str
  hparams: tuple[tuple[str, float], ...] = ()
  after: str = ''
  rate_of: str = ''


_NOISY = (('collect.noise', NOISE),)


def _rubric(label: str) -> Way:
  return Way(label, 'rl', 'rubric', rate_of='gold')


MODELS = {
  'plain': Way('Plain', 'other', 'plain', _NOISY),
  'flip': Way('Weakest pairs flipped', 'other', 'flip', _NOISY),
  'meta': Way('MetaRM', 'other', 'meta', _NOISY),
  'clean': Way(
    'Plain, of clean pairs', 'other', 'plain', (('collect.noise', 0.0),),
    rate_of='plain',
  ),
}  # fmt: skip
POLICIES = {
  'sft': Way('SFT', 'sft', 'sft'),
  'ppo': Way('PPO on the reward model', 'rl', 'ppo'),
  'superhf': Way('SuperHF', 'hybrid', 'superhf'),
  'sft_ppo': Way('SFT, then PPO', 'hybrid', 'ppo', after='sft'),
}
RUBRICS = {
  'gold': Way('PPO, the part that counts alone', 'rl', 'rubric'),
  'fixed': _rubric('PPO, fixed rubric'),
  'audited': _rubric('PPO, audited rubric (MPO)'),
}
WAYS = {**MODELS, **POLICIES, **RUBRICS}
# {arm: what its rate is chosen by}, in an order in which each finds the models
# that it needs.
TUNED = {
  'plain': 'ranked', 'flip': 'ranked',
  'sft': 'gold', 'ppo': 'proxy', 'superhf': 'proxy', 'sft_ppo': 'proxy',
  'meta': 'ranked', 'gold': 'gold',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  seeds        of the run
  tuning_seeds rates are chosen with, none of the run's; as many rates as go
               into the seeds of both, side by side
  base_steps   of SFT on `base_rows` demonstrations each, at `base_rate`
  pairs        of a data set
  judge_steps, judge_rate  of the two models that say how sure a pair is
  steps        {program: steps}; of the rubric they are those of a round
  rounds       of the rubric
  grid         of learning rates, the same for all arms; it grows at most
               `extend` times at each end
  problems     of each half of the held-out ones, a seed
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  preset: str
  base_steps: int
  base_rows: int
  base_rate: float
  pairs: int
  judge_steps: int
  judge_rate: float
  model_steps: int
  sft_steps: int
  steps: int
  rounds: int
  grid: tuple[float, ...]
  extend: int
  problems: int

  def all(self, runs: lab.Lab) -> lab.Lab:
    """A lab of the seeds of tuning and run, that trains whatever both use."""
    return lab.of_all(runs, self.tuning_seeds, range(self.seeds))

  @property
  def places(self) -> int:
    """Rates that train side by side in a program of all seeds."""
    return (self.seeds + len(self.tuning_seeds)) // len(self.tuning_seeds)


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101), preset='depth-2', base_steps=240,
    base_rows=64, base_rate=3e-3, pairs=2048, judge_steps=64, judge_rate=2e-3,
    model_steps=128, sft_steps=30, steps=60, rounds=4,
    grid=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), extend=0, problems=128,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), preset='depth-1', base_steps=30,
    base_rows=32, base_rate=3e-3, pairs=256, judge_steps=4, judge_rate=2e-3,
    model_steps=6, sft_steps=3, steps=4, rounds=2, grid=(3e-4, 1e-3, 3e-3),
    extend=0, problems=32,
  ),
}  # fmt: skip
