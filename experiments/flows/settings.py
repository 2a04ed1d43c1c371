"""Tasks, arms and sizes of the study of flows: all that is fixed of a run."""

import dataclasses
from typing import Any

# 119: three of eight shown letters, in their order: 56 answers are right, and
# all of them can be counted out.
COUNT, SHOWN = 3, 8
PICKS = dict(
  name='picks', min_count=COUNT, max_count=COUNT, shown=SHOWN
)  # fmt: skip
# 183: names by their popularity, which falls as 1 / rank; what is wanted is its
# square root, a popularity of 1 / rank^0.5.
NAMES = dict(name='catalogue', items=200, zipf=1.0, flatten=0.5)
FLAT = 0.5
TOP = 10
# 119, of losses that ask what beginnings are worth: any name is as good.
ALIKE = NAMES | dict(flatten=0.0)
TASKS = {'picks': PICKS, 'names': NAMES, 'alike': ALIKE}
# {part: whose base it has}
BASES = {'picks': 'picks', 'names': 'names', 'alike': 'names'}
# How many tries different right answers are counted in: the paper's 16 for 56
# right ones, and for 200 names as many more.
TRIES = {'picks': 16, 'alike': 64, 'names': 64}
RATE = 'optimizer.lr'
FLOOR = 'log_reward.floor'
# Temperatures that trained models are drawn at, to spread what they say for
# nothing; the best is taken with the tuning seeds. First those of answers of
# PPO, then those of names of SFT.
HOT = (1.0, 1.3, 1.7)
HEAT = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
PARTS = ('picks', 'alike', 'names')
# Shares of right answers that are so close are as good: the claims' own.
CLOSE = 0.03
# What the rate of an arm is chosen by, and how far below the best it is as
# good: the lowest of such rates is taken. Shares of answers that are right, of
# those that are names, of users.
SCORES = {
  'picks': ('right', CLOSE), 'alike': ('right', CLOSE), 'names': ('hit', 0.005),
}  # fmt: skip
# Points of the share of users that Flower may lose to SFT.
LOST = 2.0


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  part     of PARTS
  spec     of its config, and `items` that are changed in it
  rows     problems of a step
  group    answers to each
  task     knobs of the task that differ
  hparams  numbers that the program takes as inputs, besides the rate
  """

  label: str
  family: str
  part: str
  spec: str
  items: tuple[tuple[str, str], ...] = ()
  rows: int = 16
  group: int = 8
  task: tuple[tuple[str, Any], ...] = ()
  hparams: tuple[tuple[str, float], ...] = ()


_TOKENS = (('reduce.name', 'token_mean'),)
# What an answer that earns nothing is worth, of 1: the recipe's, and the
# paper's. There are 17 million texts of four tokens, so that a higher one would
# give most of the mass to wrong answers.
FLOORS = (1e-6, 1e-10)
BONUSES = (0.03, 0.1)
_ON_FLOWS = (('reward', 'flow'),)


# A tree's process rewards are as low as e^-75: no floor may hide them.
_LOW = (FLOOR, '1e-30')
# To the power of a half a beginning is worth e^-7.5 of what begins so, which is
# how often a model after SFT stops there. At the task's own e^-15 SubTB first
# unlearns to stop, by drawing more of whatever it drew, and collapses.
_HALF = ('log_reward.temperature', '2.0')


def _grpo(label: str, bonus: float) -> Way:
  numbers = (('entropy_coef', bonus),)
  return Way(label, 'rl', 'picks', 'configs/rl.py:recipe=grpo', _TOKENS,
             hparams=numbers)  # fmt: skip


def _var(floor: float) -> Way:
  return Way(
    f'Var-TB, floor {floor:g}', 'rl', 'picks',
    'configs/rl.py:recipe=gflowvlm_var_tb', hparams=((FLOOR, floor),),
  )  # fmt: skip


def _alike(label: str, spec: str, *items: tuple[str, str], **keys) -> Way:
  """Any name is as good: the same reward for all arms."""
  return Way(
    f'Alike: {label}', 'rl', 'alike', f'configs/rl.py:recipe={spec}', items,
    task=_ON_FLOWS, **keys,
  )  # fmt: skip


THETAS = (0.999, 0.9)


def _flower(theta: float) -> Way:
  return Way(
    f'Flower, theta {theta:g}', 'sft', 'names', 'configs/rl.py:recipe=flower',
    (_LOW, ('sft_loss.coef', f'{theta:g}')), 64, 2, _ON_FLOWS,
  )  # fmt: skip


WAYS = {
  'sft': Way('More SFT', 'sft', 'picks', 'configs/sft.py:recipe=sft', rows=128,
             group=1),
  'ppo': Way('PPO', 'rl', 'picks', 'configs/rl.py:recipe=ppo'),
  'grpo': _grpo('GRPO', 0.0),
  **{f'bonus_{x:g}': _grpo(f'GRPO, entropy bonus {x:g}', x) for x in BONUSES},
  **{f'var_tb_{x:g}': _var(x) for x in FLOORS},
  'alike_ppo': _alike('PPO', 'ppo'),
  **{
    f'alike_bonus_{x:g}': _alike(
      f'GRPO, entropy bonus {x:g}', 'grpo', *_TOKENS,
      hparams=(('entropy_coef', x),),
    )
    for x in BONUSES
  },
  'alike_sub_tb': _alike('SubTB', 'gflowvlm_sub_tb', _LOW, _HALF),
  'alike_db': _alike('DB', 'gflowvlm_db', _LOW, _HALF),
  'names_sft': Way('Names: SFT', 'sft', 'names', 'configs/sft.py:recipe=sft',
                   rows=64, group=1),
  'names_flat': Way('Names: SFT on flattened rows', 'sft', 'names',
                    'configs/sft.py:recipe=sft', rows=64, group=1,
                    task=(('zipf', NAMES['zipf'] * FLAT),)),
  'names_ppo': Way('Names: PPO', 'rl', 'names', 'configs/rl.py:recipe=ppo',
                   rows=64, group=2, task=_ON_FLOWS),
  **{f'flower_{x:g}': _flower(x) for x in THETAS},
}  # fmt: skip
# {arm: (label, of which)}: the one that finds most with the tuning seeds of
# those that are right as often as the best of them, up to CLOSE; each at its
# own rate.
BEST = {
  'best_bonus': ('Best bonus', tuple(f'bonus_{x:g}' for x in BONUSES)),
  'best_var_tb': ('Best Var-TB', tuple(f'var_tb_{x:g}' for x in FLOORS)),
  'alike_bonus': (
    'Best bonus', tuple(f'alike_bonus_{x:g}' for x in BONUSES)
  ),
  'alike_flow': (
    'Best of states', ('alike_sub_tb', 'alike_db')
  ),
}  # fmt: skip
# {arm: (label, of which)}: at the rate at which they find most, whatever the
# share that is right, the one that does.
MOST = {
  'most_ppo': ('Finds most: PPO', ('ppo',)),
  'most_bonus': ('Finds most: bonus', BEST['best_bonus'][1]),
  'most_var_tb': ('Finds most: Var-TB', BEST['best_var_tb'][1]),
}  # fmt: skip
FLOWERS = tuple(f'flower_{x:g}' for x in THETAS)


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  first_seed   of the study; every seed has a base of its own
  tune_seeds   rates are chosen with; `places` cells of a grid share a program
  presets      {base: size of its models}
  base_rows    of a step of SFT, {base: `base_steps`} of them
  steps        of an arm after the base
  problems     of each half of the held-out ones that are measured
  grids        {part: of learning rates, one for all arms}, which grows at most
               `extend` times at each end
  """

  seeds: int
  presets: dict[str, str]
  base_rows: int
  base_steps: dict[str, int]
  steps: dict[str, int]
  problems: int
  grids: dict[str, tuple[float, ...]]
  arms: tuple[str, ...]
  extend: int = 1
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101)
  places: int = 4


SCALES = {
  'full': Scale(
    seeds=8, presets={'picks': 'depth-2', 'names': 'depth-2'}, base_rows=128,
    base_steps={'picks': 300, 'names': 300},
    steps={'picks': 100, 'alike': 100, 'names': 100}, problems=128,
    grids={
      'picks': (3e-5, 1e-4, 3e-4, 1e-3), 'alike': (3e-5, 1e-4, 3e-4, 1e-3),
      'names': (1e-4, 3e-4, 1e-3, 3e-3),
    },
    arms=tuple(WAYS),
  ),
  'reduced': Scale(
    seeds=2, presets={'picks': 'depth-1', 'names': 'depth-1'}, base_rows=32,
    base_steps={'picks': 20, 'names': 20}, steps=dict.fromkeys(PARTS, 10),
    problems=16, grids=dict.fromkeys(PARTS, (1e-3, 3e-3)),
    arms=('ppo', 'var_tb_1e-06', 'alike_ppo', 'alike_sub_tb', 'names_sft',
          'names_flat', 'flower_0.9'),
    extend=0, tune_seeds=(100, 101), places=1,
  ),
}  # fmt: skip
