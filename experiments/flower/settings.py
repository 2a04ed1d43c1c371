"""Task, arms and sizes of the study of Flower: all that is fixed of a run."""

import dataclasses
from typing import Any

# Names of a prefix tree; users take them as often as 1 / rank, and what is
# wanted is the square root of that.
TASK = dict(name='catalogue', items=200, zipf=1.0, flatten=0.5)
# Bases know which names there are, and nothing of what users take.
EVEN = dict(zipf=0.0)
FLAT = 0.5
TOP = 10
RATE = 'optimizer.lr'
# Temperatures that SFT is drawn at, to spread its names for nothing.
HEAT = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
# Shares of users that are so close are as good: the lowest of their rates is
# taken.
CLOSE = 0.005
# Points of the share of users that Flower may lose to SFT.
LOST = 2.0


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm learns.

  spec   of its config, and `items` that are changed in it
  group  names that it draws itself for each user, in RL and in DPO's pairs
  task   knobs of the task that differ
  """

  label: str
  family: str
  spec: str
  items: tuple[tuple[str, str], ...] = ()
  group: int = 1
  task: tuple[tuple[str, Any], ...] = ()


THETAS = (0.999, 0.99)
_ON_FLOWS = (('reward', 'flow'),)


def _flower(theta: float) -> Way:
  # Process rewards of a tree are as low as e^-75: no floor may hide them.
  items = ('log_reward.floor', '1e-30'), ('sft_loss.coef', f'{theta:g}')
  return Way(
    f'Flower, theta {theta:g}', 'hybrid', 'configs/rl.py:recipe=flower',
    items, 2, _ON_FLOWS,
  )  # fmt: skip


WAYS = {
  'sft': Way('SFT', 'sft', 'configs/sft.py:recipe=sft'),
  'flat': Way('SFT on flattened rows', 'sft', 'configs/sft.py:recipe=sft',
              task=(('zipf', TASK['zipf'] * FLAT),)),
  'dpo': Way('DPO', 'preference', 'configs/preference.py:recipe=dpo',
             (('collect.name', 'oracle_vs_rollout'),)),
  'ppo': Way('PPO', 'rl', 'configs/rl.py:recipe=ppo', (), 2, _ON_FLOWS),
  **{f'flower_{x:g}': _flower(x) for x in THETAS},
}  # fmt: skip
FLOWERS = tuple(f'flower_{x:g}' for x in THETAS)


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  first_seed  of the study; every seed has a base of its own
  tune_seeds  rates are chosen with; `places` cells of a grid share a program
  base_steps  of `base_rows` names, drawn evenly
  steps       of an arm after it, of `rows` users
  grid        of learning rates, one for all arms, which grows at most `extend`
              times at each end
  """

  seeds: int
  preset: str
  base_rows: int
  base_steps: int
  rows: int
  steps: int
  grid: tuple[float, ...]
  arms: tuple[str, ...]
  extend: int = 1
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101)
  places: int = 4


SCALES = {
  'full': Scale(
    seeds=8, preset='pico', base_rows=128, base_steps=800, rows=64,
    steps=100, grid=(1e-4, 3e-4, 1e-3, 3e-3), arms=tuple(WAYS),
  ),
  'reduced': Scale(
    seeds=2, preset='depth-1', base_rows=32, base_steps=20, rows=16, steps=10,
    grid=(1e-3, 3e-3), arms=('sft', 'flower_0.99'), extend=0, places=1,
  ),
}  # fmt: skip
