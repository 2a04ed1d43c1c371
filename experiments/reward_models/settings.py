"""Tasks, arms and sizes of the study: all numbers of it."""

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
SLIPS = 0.05  # share of tokens of SFT's demonstrations that slip
PROMPTS, GROUP = 16, 4  # problems of a step, own answers to each
DEMOS = 64  # demonstrations of a step of SFT
KL = 0.02  # of PPO, in the reward, to where it began
# What a reward is made of, and a rubric that can be exploited: vowels say
# nothing of what most problems want. The verdict itself is hidden from it.
PARTS = ('verifier', 'vowels', 'score')
VERDICT, RUBRIC = (1.0, 0.0, 0.0), (0.0, 3.0, 1.0)
NUMBERS = tuple(f'rewards.audited.weights.{i}' for i in range(len(PARTS)))
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01

_OWN = (('prompts_per_step', str(PROMPTS)), ('group_size', str(GROUP)))
_REWARDS = (
  '[{"name": "verifier", "weight": 0}, '
  '{"name": "verifier", "part": "vowels", "weight": 0}, '
  '{"name": "verifier", "part": "score", "weight": 0}, '
  '{"name": "audited", "of": ["verifier", "vowels", "score"], '
  '"weights": [1.0, 0.0, 0.0]}]'
)
# {program: (spec, what is changed in it)}.
PROGRAMS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
  'sft': (
    'configs/sft.py:recipe=sft',
    (('prompts_per_step', str(DEMOS)), ('collect.slips', str(SLIPS))),
  ),
  'superhf': (
    'configs/sft.py:recipe=raft',
    (*_OWN, ('loss.name', 'asft'), ('loss.alpha', '0.0'),
     ('loss.kl_coef', '0.35'), ('loss.direction', 'reverse')),
  ),
  'ppo': (
    'configs/rl.py:recipe=ppo',
    (*_OWN, ('rewards', _REWARDS), ('kl.name', 'kl_k1'),
     ('kl.place', 'reward'), ('kl.coef', str(KL))),
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm is trained.

  program  of PROGRAMS
  weights  of PARTS, of what PPO pays for at the start
  audited  whether an audit moves them between rounds
  rounds   of PPO
  after    the arm that it goes on from; '' is the base
  rate_of  the arm whose rate it takes; '' has a grid of its own
  """

  label: str
  family: str
  program: str
  weights: tuple[float, ...] = ()
  audited: bool = False
  rounds: int = 2
  after: str = ''
  rate_of: str = ''


# In an order in which each finds the models that it needs.
WAYS = {
  'sft': Way('SFT', 'sft', 'sft'),
  'superhf': Way('SuperHF', 'hybrid', 'superhf'),
  'ppo': Way('PPO, by the verdict', 'rl', 'ppo', VERDICT),
  'sft_ppo': Way('SFT, then PPO', 'hybrid', 'ppo', VERDICT, after='sft'),
  'fixed': Way(
    'PPO, fixed rubric', 'rl', 'ppo', RUBRIC, rounds=4, rate_of='ppo'
  ),
  'audited': Way(
    'PPO, audited rubric (MPO)', 'rl', 'ppo', RUBRIC, audited=True, rounds=4,
    rate_of='ppo',
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  seeds        of the run
  tuning_seeds rates are chosen with, none of the run's; as many rates as go
               into the seeds of both, side by side
  base_steps   of SFT on `base_rows` demonstrations each, at `base_rate`
  sft_steps    of demonstrations
  steps        of SuperHF; PPO has half of them in a round
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
  sft_steps: int
  steps: int
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
    base_rows=64, base_rate=3e-3, sft_steps=30, steps=48,
    grid=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), extend=0, problems=256,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100,), preset='depth-1', base_steps=30,
    base_rows=32, base_rate=3e-3, sft_steps=3, steps=4,
    grid=(3e-4, 1e-3, 3e-3), extend=0, problems=32,
  ),
}  # fmt: skip
