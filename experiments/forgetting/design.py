"""Tasks, arms, sizes and claims of the study of forgetting.

All of it was written down, and committed, before the run; the pilot that sizes,
margins and the gain of comparison come from is in README.md.
"""

import dataclasses

from posttrain_jax import lab

BASE = {
  'addition': dict(name='addition', num_digits=2, reverse=True),
  'sorting': dict(name='sorting', length=4, max_value=9),
  'list_functions': dict(
    name='list_functions', depth=1, length=4, functions='abnrsw'
  ),
  'facts': dict(
    name='facts',
    num_entities=128,
    num_relations=2,
    num_values=16,
    heldout_fraction=0.0,
  ),
}
NEW = {
  # Right a third of the time: RL has something to go on.
  'near': dict(name='countdown', num_numbers=2, max_number=48),
  # Almost never right.
  'far': dict(name='countdown', num_numbers=3, max_number=9),
}
EVERY = {**BASE, **NEW}
BY_HEART = ('facts',)
# Of each task in the mixture that the base learns.
WEIGHTS = {
  'addition': 1.5,
  'sorting': 0.4,
  'list_functions': 0.8,
  'facts': 0.9,
  'near': 0.4,
  'far': 0.03,
}
RATE = 'optimizer.lr'
# WiSE-FT: how far from the base to the tuned model.
SHARES = (0.25, 0.5, 0.75)
# Points gained on the new task (validation) at which arms are compared.
GAIN = 12.0
# Rates that count as small and as large ones of plain SFT.
LOW, HIGH = 3e-4, 1e-3
# Measures of frontiers over all rates, which no chosen rate decides.
FRONTIER = ('matched', 'matched_gain', 'most')
# Rank correlation from which on KL counts as saying what is forgotten: half of
# the variance.
EXPLAINED = 0.7


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  snapshots  steps at which every stage is looked at before its end
  grid       of learning rates, one for all arms
  problems   test problems a seed of each set; half as many for validation
  """

  seeds: int
  preset: str
  base_steps: int
  base_rows: int
  steps: int
  rows: int
  snapshots: tuple[int, ...]
  grid: tuple[float, ...]
  arms: tuple[str, ...]
  problems: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains.

  spec     recipe; '' for one that is made of the models of SFT
  task     what it learns, of NEW
  items    overrides
  group    answers to a problem, where it learns from its own
  updates  on each batch, of as many times the rows
  """

  label: str
  family: str
  spec: str
  task: str = 'near'
  items: tuple[tuple[str, str], ...] = ()
  group: int = 1
  updates: int = 1


_SFT, _RL = 'configs/sft.py:recipe=', 'configs/rl.py:recipe='
WAYS = {
  'sft': Way('SFT', 'sft', _SFT + 'sft'),
  'sft_kl': Way('SFT + KL', 'sft', _SFT + 'sft_kl'),
  'dft': Way('DFT', 'sft', _SFT + 'dft'),
  'asft': Way('Anchored SFT', 'sft', _SFT + 'asft'),
  # Four updates on each cached policy.
  'psft': Way('Proximal SFT', 'sft', _SFT + 'psft', updates=4),
  'talr': Way('TALR', 'sft', _SFT + 'talr'),
  'l2': Way('SFT, L2 to the start', 'hybrid', _SFT + 'l2_to_start'),
  'flow': Way('FLOW', 'hybrid', _SFT + 'easy_rows'),
  'lora': Way(
    'SFT of LoRA', 'hybrid', _SFT + 'sft',
    items=(('adapter.name', 'lora'), ('adapter.rank', '8'),
           ('adapter.alpha', '64')),
  ),
  'wise': Way('WiSE-FT of SFT', 'hybrid', ''),
  'own': Way(
    'SFT on own right answers', 'other', _SFT + 'rejection_sampling',
    items=(('collect.sampler', 'policy'),), group=8,
  ),
  'grpo': Way('GRPO', 'rl', _RL + 'grpo', group=8),
  'grpo_kl': Way('GRPO + KL', 'rl', _RL + 'grpo_kl', group=8),
  'sft_far': Way('SFT, far task', 'sft', _SFT + 'sft', task='far'),
  'grpo_far': Way('GRPO, far task', 'rl', _RL + 'grpo', task='far', group=8),
}  # fmt: skip

SCALES = {
  'full': Scale(
    seeds=8, preset='pico', base_steps=800, base_rows=128, steps=48, rows=64,
    snapshots=(24,), grid=(1e-4, 3e-4, 1e-3, 3e-3), arms=tuple(WAYS),
    problems=dict(known=256, facts=64, near=256, far=256),
  ),
  'reduced': Scale(
    seeds=2, preset='pico', base_steps=60, base_rows=32, steps=4, rows=32,
    snapshots=(), grid=(3e-4, 1e-3), arms=('sft', 'wise', 'own', 'grpo'),
    problems=dict(known=32, facts=32, near=32, far=32),
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='forgetting',
  title='SFT against RL: forgetting',
  question='',
  paper_claims=(),
  setup=(),
  equal='optimizer steps and rows per step',
  tuning='',
  measures={},
  claims=(),
)
