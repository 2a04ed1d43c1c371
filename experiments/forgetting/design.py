"""Tasks, arms, sizes and claims of the study of forgetting.

The claims and the rule that judges them (`posttrain_jax.evals.statistics`) were
written down before the run.
"""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

BASE = {
  'addition': dict(name='addition', num_digits=2, reverse=True),
  'modular': dict(name='modular', modulus=10),
  'sorting': dict(name='sorting', length=3, max_value=9),
  'list_functions': dict(name='list_functions', depth=1, length=4),
  'facts': dict(
    name='facts',
    num_entities=16,
    num_relations=2,
    num_values=16,
    heldout_fraction=0.0,
  ),
}
NEW = {
  'countdown': dict(name='countdown', num_numbers=2, max_number=9),
  'two_functions': dict(name='list_functions', depth=2, length=4),
  'sudoku': dict(name='sudoku', num_empty=2, answer='holes'),
}
EVERY = {**BASE, **NEW}
# A fact that was left out cannot be known: all of them are trained and asked.
LEARNT_BY_HEART = ('facts',)
# Of a new task in the base mixture, against 1 of each base task: RL has to find
# a right answer now and then.
SEEN = 0.1
# Share of replayed rows is that of the base tasks in this mixture.
REPLAYED = 0.05


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode; `rates` multiply an arm's middle learning rate."""

  seeds: int
  preset: str
  base_steps: int
  steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
  arms: tuple[str, ...]
  problems: int


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains: a recipe, its middle learning rate, overrides."""

  label: str
  family: str
  spec: str
  rate: float
  items: tuple[tuple[str, str], ...] = ()


_RL = (('prompts_per_step', '32'), ('group_size', '8'))
WAYS = {
  'sft': Way('SFT', 'sft', 'configs/sft.py:recipe=sft', 1e-3),
  'sft_small': Way(
    'SFT, a tenth of the rate', 'sft', 'configs/sft.py:recipe=sft', 1e-4
  ),
  'sft_kl': Way('SFT + KL', 'sft', 'configs/sft.py:recipe=sft_kl', 1e-3),
  'dft': Way('DFT', 'sft', 'configs/sft.py:recipe=dft', 1e-3),
  'asft': Way('Anchored SFT', 'sft', 'configs/sft.py:recipe=asft', 1e-3),
  # Four updates on each cached policy, so a quarter of the steps of 4 x rows.
  'psft': Way(
    'Proximal SFT', 'sft', 'configs/sft.py:recipe=psft', 1e-3,
    (('prompts_per_step', '1024'), ('minibatch_rows', '256')),
  ),
  'on_policy_sft': Way(
    'SFT on own right answers', 'sft',
    'configs/sft.py:recipe=rejection_sampling', 1e-3,
    (*_RL, ('collect.sampler', 'policy')),
  ),
  'grpo': Way('GRPO', 'rl', 'configs/rl.py:recipe=grpo', 3e-4, _RL),
  'grpo_kl': Way('GRPO + KL', 'rl', 'configs/rl.py:recipe=grpo_kl', 3e-4, _RL),
  'replay': Way(
    'SFT with replay', 'other', 'configs/sft.py:recipe=sft', 1e-3
  ),
  'multitask': Way(
    'All tasks at once', 'other', 'configs/sft.py:recipe=sft', 1e-3
  ),
}  # fmt: skip

SCALES = {
  'full': Scale(
    seeds=5, preset='pico', base_steps=2000, steps=60,
    snapshots=(10, 30), rates=(0.3, 1.0, 3.0), arms=tuple(WAYS),
    problems=256,
  ),
  'reduced': Scale(
    seeds=2, preset='pico', base_steps=150, steps=20, snapshots=(10,),
    rates=(1.0,), arms=('sft', 'on_policy_sft', 'grpo', 'replay'), problems=64,
  ),
}  # fmt: skip

# The new accuracy, in %, at which retention is compared.
MATCHED = 60.0

STUDY = lab.Study(
  name='forgetting',
  title='SFT against RL: forgetting',
  question=(
    'When a model learns new tasks one after the other, does RL forget less '
    'of the earlier ones than SFT, and is it RL, its own data, a small '
    'learning rate or an anchor that protects them?'
  ),
  paper_claims=(
    'RFT mitigates forgetting (037): after seven tasks in sequence SFT loses '
    '10.4 points of its best accuracies, GRPO 2.3; the KL penalty is not what '
    'protects.',
    "SFT doesn't always hurt (160): with a small learning rate SFT keeps "
    'general skills at nearly the same gain on the new task.',
    'Anchored SFT (2509.23753): DFT drifts; an anchor to the base keeps it.',
    'Proximal SFT (2508.17784): a clipped objective keeps other skills.',
  ),
  setup=(
    'Base: pico (0.2M parameters), SFT on five tasks at weight 1 and on the '
    'three new ones at weight 0.1. One in eight problems is never trained on, '
    'so at most 28 of the 32 facts can be known.',
    'Then two-number Countdown, two list functions in a row and 4x4 Sudoku '
    'with two holes, in this order; each stage begins with a fresh optimizer.',
    'Every step of every arm has 256 rows; demonstrations are drawn without '
    'end. RL and SFT on own answers sample 32 problems x 8.',
    'Greedy accuracy on 256 held-out problems of each task (on all facts); KL '
    'per token to the base, on own samples.',
    'Arms "replay" (a fifth of the rows from the base tasks) and "all tasks at '
    'once" are there to compare with: they see data that the others do not.',
  ),
  equal='optimizer steps and rows per step',  # `run` says how many
  tuning=(
    'three learning rates for each arm (0.3, 1 and 3 times the middle one), '
    'on the first new task; the best by its accuracy on validation problems '
    'is used for the sequence'
  ),
  measures={
    'new_accuracy': lab.Measure('New tasks after learning', '%', 'higher', 1),
    'gain': lab.Measure('Gained on them', '%', 'higher', 1),
    'final_new': lab.Measure('New tasks at the end', '%', 'higher', 1),
    'retention': lab.Measure('Base tasks at the end', '%', 'higher', 1),
    'forgetting': lab.Measure('Forgetting', '%', 'lower', 1),
    'matched': lab.Measure(
      f'Base tasks kept at {MATCHED:.0f}% of the first new one', '%', 'higher',
      1,
    ),
    'first_new': lab.Measure('First new task', '%', 'higher', 1),
    'first_base': lab.Measure('Base tasks after it', '%', 'higher', 1),
    'kl_new': lab.Measure('KL to base, new task', 'nats', 'lower', 3),
    'kl_base': lab.Measure('KL to base, base tasks', 'nats', 'lower', 3),
  },
  claims=(
    Claim('rl_forgets_less', '037', 'GRPO forgets less than SFT after three '
          'tasks in sequence', 'forgetting', 'grpo', 'sft', 'less', 5.0),
    Claim('matched', '037', 'at matched accuracy on the new task, GRPO keeps '
          'more of the base tasks than SFT', 'matched', 'grpo', 'sft',
          'greater', 5.0),
    Claim('kl_is_not_why', '037', 'GRPO without KL forgets as little as with '
          'it', 'forgetting', 'grpo', 'grpo_kl', 'equal', 5.0,
          moved='gain', at_least=5.0),
    Claim('own_data', '037', 'SFT on own right answers forgets less than SFT '
          'on demonstrations', 'forgetting', 'on_policy_sft', 'sft', 'less',
          5.0),
    Claim('small_rate_keeps', '160', 'SFT at a tenth of the rate forgets less',
          'forgetting', 'sft_small', 'sft', 'less', 5.0),
    Claim('small_rate_learns', '160', 'and learns the new tasks as well',
          'new_accuracy', 'sft_small', 'sft', 'equal', 5.0, moved='gain',
          at_least=5.0),
    Claim('anchor', '022', 'Anchored SFT forgets less than DFT', 'forgetting',
          'asft', 'dft', 'less', 5.0),
    Claim('proximal', '130', 'Proximal SFT forgets less than SFT',
          'forgetting', 'psft', 'sft', 'less', 5.0),
  ),
)  # fmt: skip
