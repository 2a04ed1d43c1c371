"""Tasks, arms, sizes and claims of the study of forgetting.

All of it was written down, and committed, before the run; the pilot that sizes,
margins and the gain of comparison come from is in README.md.
"""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

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
  # Almost never right; of it the base saw a little, with all operators (MIXED).
  'far': dict(name='countdown', num_numbers=3, max_number=9, operators='+-'),
}
EVERY = {**BASE, **NEW}
# What the base learns.
MIXED = {**EVERY, 'far': dict(name='countdown', num_numbers=3, max_number=9)}
BY_HEART = ('facts',)
# Of each task in the mixture that the base learns.
WEIGHTS = {
  'addition': 1.7,
  'sorting': 0.4,
  'list_functions': 0.8,
  'facts': 0.9,
  'near': 0.7,
  'far': 0.03,
}
RATE = 'optimizer.lr'
# WiSE-FT: how far from the base to the tuned model.
SHARES = (0.25, 0.5, 0.75)
# Arms are compared where they gained this share of what SFT and GRPO both reach
# on validation problems: the smaller one of their largest mean gains.
OF_REACH = 0.75
# Points; with less gained there is nothing to compare, and claims that are off
# by more are not of an equal gain.
LEAST_GAIN = OFF = 3.0
# Rates that count as small and as large ones of plain SFT.
LOW, HIGH = 3e-4, 1e-3
# Rank correlation from which on KL counts as saying what is forgotten: half of
# the variance.
EXPLAINED = 0.7


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  snapshots  steps at which every stage is looked at before its end
  grid       of learning rates, one for all arms
  sequence   arms that learn the new task, then the far one
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
  sequence: tuple[str, ...]
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
  # Five updates on each cached policy.
  'psft': Way('Proximal SFT', 'sft', _SFT + 'psft', updates=5),
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

# Were time short, the sequence would be cut first, then 'sft_kl': an arm is run
# with all seeds or not at all.
RUN = (
  'sft', 'grpo', 'own', 'wise', 'talr', 'dft', 'asft', 'psft', 'grpo_kl', 'l2',
  'lora', 'flow', 'sft_kl', 'sft_far', 'grpo_far',
)  # fmt: skip
IN_TURN = ('sft', 'grpo')

SCALES = {
  'full': Scale(
    seeds=8, preset='pico', base_steps=600, base_rows=128, steps=30, rows=256,
    snapshots=(), grid=(1e-4, 3e-4, 1e-3), arms=RUN, sequence=IN_TURN,
    problems=dict(known=256, facts=64, near=256, far=256),
  ),
  'reduced': Scale(
    seeds=2, preset='depth-1', base_steps=60, base_rows=32, steps=5, rows=32,
    snapshots=(), grid=(3e-4, 1e-3), arms=('sft', 'wise', 'grpo'),
    sequence=IN_TURN,
    problems=dict(known=32, facts=32, near=32, far=32),
  ),
}  # fmt: skip

_KNOWS = (
  Check('the base knows the base tasks', 'retention', ('base',), least=70.0),
  Check(
    'it is right a third of the time on the new one', 'new', ('base',),
    least=20.0, most=50.0,
  ),
)  # fmt: skip
_GAINED = (
  Check('there is a gain to compare at', 'at', ('base',), least=LEAST_GAIN),
  Check('the arm gains as much', 'beyond', least=0.0),
  Check('compared at an equal gain', 'off', least=-OFF, most=OFF),
)
_IN_SEQUENCE = (
  *_KNOWS,
  Check('there is a gain to compare at', 'at', ('base_sequence',),
        least=LEAST_GAIN),
  *_GAINED[1:],
)  # fmt: skip


def _at_equal_gain(
  name: str,
  paper: str,
  statement: str,
  arm: str,
  against: str,
  direction: str = 'greater',
  margin: float = 3.0,
  spread: float = 3.0,  # as in the pilot
) -> Claim:
  """A claim on what is kept of the base tasks where as much was gained."""
  return Claim(
    name, paper, statement, 'matched', arm, against, direction, margin,
    checks=(*_KNOWS, *_GAINED), spread=spread,
  )  # fmt: skip


# All that could be asked; a claim stands where its arms are run.
CLAIMS = (
  _at_equal_gain('rl_keeps', '037', 'at an equal gain GRPO keeps more of '
                 'the base tasks than SFT', 'grpo', 'sft'),
  _at_equal_gain('own_data', '037', 'SFT on own right answers keeps more '
                 'than SFT on demonstrations', 'own', 'sft'),
  _at_equal_gain('kl_is_not_why', '037', 'GRPO without KL keeps as much as '
                 'with it', 'grpo', 'grpo_kl', 'equal'),
  Claim('no_signal', '037', 'where the base is almost never right SFT gains '
        'more than GRPO (a limit of it, not of the paper; added)', 'most',
        'sft_far', 'grpo_far', 'greater', 5.0,
        checks=(Check('the base is almost never right', 'new',
                      ('base_far',), most=5.0),
                Check('SFT learns it', 'most', ('sft_far',), least=5.0)),
        spread=4.5),
  Claim('razor', '037', "KL to the base on the new task says what is "
        "forgotten, over all arms and rates (RL's razor)", 'explained',
        'by_kl', 'bar', 'greater', 0.0),
  Claim('razor_distance', '037', 'and says it better than the distance of '
        "the weights (RL's razor)", 'explained', 'by_kl', 'by_distance',
        'greater', 0.02),
  _at_equal_gain('small_rate', '160', 'small rates of SFT keep more than '
                 'large ones', 'sft_small', 'sft_large'),
  *(
    _at_equal_gain(f'talr_{arm}', '160', f'TALR keeps more than {label}',
                   'talr', arm, margin=1.0)
    for arm, label in (
      ('sft', 'SFT'), ('l2', 'SFT with L2 to the start'),
      ('lora', 'SFT of LoRA'), ('wise', 'WiSE-FT'), ('flow', 'FLOW'),
    )
  ),
  _at_equal_gain('anchor', '022', 'Anchored SFT keeps more than DFT', 'asft',
                 'dft'),
  _at_equal_gain('proximal', '130', 'Proximal SFT keeps more than SFT',
                 'psft', 'sft'),
  # Added with seeds 6 and 7, before the run that they were added for.
  _at_equal_gain('kl_on_sft', '037', 'SFT with a KL penalty keeps as much as '
                 'without (a control, not of the paper; added)', 'sft_kl',
                 'sft', 'equal'),
  Claim('sequence', '037', 'after two tasks in sequence, at an equal gain on '
        'the second, GRPO keeps more of the first and of the base tasks than '
        'SFT (added)', 'matched', 'grpo_sequence', 'sft_sequence', 'greater',
        3.0, checks=_IN_SEQUENCE, spread=5.0),
)  # fmt: skip
_there = {*RUN, *(f'{arm}_sequence' for arm in IN_TURN), 'sft_small',
          'sft_large', 'by_kl', 'by_distance', 'bar'}  # fmt: skip

STUDY = lab.Study(
  name='forgetting',
  title='SFT against RL: forgetting',
  question=(
    'When a model learns a new task, does RL forget less of what it knew than '
    'SFT that gains as much? And is it RL, its own data, a small learning rate '
    'or an anchor to the start that protects?'
  ),
  paper_claims=(
    'RFT mitigates forgetting (037): after seven tasks in sequence SFT loses '
    '10.4 points of its best accuracies, GRPO 2.3; the KL penalty is not what '
    'protects.',
    "RL's razor (2509.04259): what is forgotten follows the KL to the base on "
    'the new task, whatever the method; RL forgets less because it stays near.',
    "SFT doesn't always hurt (160): with a small learning rate SFT keeps "
    'general skills at nearly the same gain; TALR trades best, above L2, LoRA, '
    'WiSE-FT and FLOW.',
    'Anchored SFT (022): DFT drifts; an anchor to the base keeps it.',
    'Proximal SFT (130): a clipped objective keeps other skills.',
  ),
  setup=(
    'Base: pico (0.2M parameters), SFT on a mixture of two-digit addition, '
    'sorting, list functions, 256 facts, and some of the new task. One in '
    'eight problems is never trained on, and these are asked; of the facts, '
    'which are known by heart, a half that was trained.',
    'New task: Countdown with two numbers to 48, which the base gets right '
    'about four times in ten: RL has something to go on. Far task: Countdown '
    'with three numbers to 9, sums and differences, which it almost never '
    'gets right.',
    'Every arm trains on it at every rate of one grid, which decays to '
    'nothing. RL and SFT on own answers draw 8 answers to each of an eighth '
    'as many problems.',
    'An arm is its frontier: base tasks kept against points gained, over all '
    'rates, the upper hull of the means on validation problems. Arms are '
    f'compared, on test problems, where they gained {OF_REACH:.0%} of what SFT '
    'and GRPO both reach.',
    'Base tasks: greedy accuracy on 320 problems a seed (64 of them facts).',
    'Sequence: every model of SFT and of GRPO goes on from the new task to the '
    'far one, as many updates at its rate. Compared where as much is gained on '
    'the far one: what is kept of the new task and of the base tasks.',
    'WiSE-FT is SFT at every rate, a quarter, a half and three quarters of the '
    'way from the base.',
  ),
  equal='optimizer updates and rows of each',
  tuning=(
    'one grid of learning rates for all arms. What is compared are frontiers '
    'over all of it, so that no claim rests on a chosen rate and the grid does '
    'not grow; the rate shown is the best by the mean of new and base accuracy '
    'on validation problems'
  ),
  measures={
    'matched': lab.Measure('Base tasks at an equal gain', '%', 'higher', 1),
    'off': lab.Measure('Gained there, off by', 'points', '', 1),
    'most': lab.Measure('Most gained at any rate', 'points', 'higher', 1),
    'beyond': lab.Measure('Which is beyond the equal gain', 'points', '', 1),
    'at': lab.Measure('The equal gain', 'points', '', 1),
    'new': lab.Measure('New task, chosen rate', '%', 'higher', 1),
    'gain': lab.Measure('Gained', 'points', 'higher', 1),
    'retention': lab.Measure('Base tasks', '%', 'higher', 1),
    'both': lab.Measure('Mean of new and base tasks', '%', 'higher', 1),
    'lost_of_best': lab.Measure(
      'First of two tasks, lost of its best', 'points', 'lower', 1
    ),
    'explained': lab.Measure('Rank correlation', '', 'higher', 2),
  },  # fmt: skip
  claims=tuple(x for x in CLAIMS if {x.arm, x.against} <= _there),
)
