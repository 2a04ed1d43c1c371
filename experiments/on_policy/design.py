"""The arms, their sizes, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's
  snapshots     of the steps; EARLY is one of them
  rates         the grid of all arms, which grows at most `extend` times at each
                end
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  base_steps: int
  tilt_steps: int
  steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
  extend: int
  arms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Way:
  """An arm: its recipe, and what it changes there."""

  label: str
  family: str
  spec: str
  items: tuple[tuple[str, str], ...]


_OWN = (('prompts_per_step', '16'), ('group_size', '8'))
# NFT's recipe splits a larger batch; here each batch is one update.
_NFT = (*_OWN, ('minibatch_rows', '128'))
_ML = (*_OWN, ('collect.dedup', 'False'))
WAYS = {
  'ml_offline': Way(
    'ML on the right, offline', 'sft',
    'configs/sft.py:recipe=rejection_sampling', _ML,
  ),
  'ml_online': Way(
    'ML on the right, online', 'sft',
    'configs/sft.py:recipe=rejection_sampling',
    (*_ML, ('collect.sampler', 'policy')),
  ),
  'dpo_offline': Way(
    'DPO offline', 'preference', 'configs/preference.py:recipe=dpo', _OWN,
  ),
  'dpo_online': Way(
    'DPO online', 'preference', 'configs/preference.py:recipe=online_dpo',
    _OWN,
  ),
  'gradient': Way(
    'Policy gradient (GRPO)', 'rl', 'configs/rl.py:recipe=grpo', _OWN,
  ),
  # NFT without its wrong answers, and with the weight that makes it GRPO.
  'positive': Way(
    'Policy gradient, positive only', 'rl', 'configs/sft.py:recipe=nft',
    (*_NFT, ('loss.negative_weight', '0.0'), ('loss.prompt_weight', 'sqrt')),
  ),
  'nft': Way('NFT', 'sft', 'configs/sft.py:recipe=nft', _NFT),
}  # fmt: skip

RATE = 'optimizer.lr'
# What is tuned, each with a rate of its own: the ends from both bases, and what
# is reached by a third of the samples.
FAR, NEAR, SOON = f'{RATE}, far', f'{RATE}, near', f'{RATE}, early'
# Steps after which claims about speed are judged.
EARLY = 15
# Arms that also start from the base that is near.
BOTH = ('ml_offline', 'ml_online')

# Two cores are shared by many jobs: arms are run in the order of WAYS, as many
# as there is time for, which is decided before any of their figures is seen.
FIRST = 7

SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=tuple(range(100, 108)), base_steps=350, tilt_steps=60,
    steps=50, snapshots=(8, 15, 30), rates=(1e-4, 3e-4, 1e-3, 3e-3), extend=2,
    arms=tuple(WAYS)[:FIRST],
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100, 101), base_steps=200, tilt_steps=40, steps=30,
    snapshots=(8, 15), rates=(3e-4, 1e-3), extend=0,
    arms=('ml_offline', 'ml_online', 'dpo_offline', 'dpo_online', 'positive',
          'gradient'),
  ),
}  # fmt: skip

# The base is right often enough to learn from, and seldom enough to gain.
_ROOM = (Check('the base has room', 'accuracy', ('start',), 5.0, 85.0),)
_SOON = (
  *_ROOM,
  Check('some arm learned by then', 'early_most', ('start',), least=5.0),
)

CLAIMS = (
  Claim('on_policy_dpo', '081', 'far: online DPO beats offline DPO',
        'accuracy', 'dpo_online', 'dpo_offline', 'greater', 5.0,
        checks=_ROOM, tuned=(FAR,),
        spread=7.0),
  Claim('on_policy_ml', '081', 'far: right answers of the policy beat those '
        'of the base', 'accuracy', 'ml_online', 'ml_offline', 'greater', 5.0,
        checks=_ROOM, tuned=(FAR,),
        spread=7.6),
  Claim('on_policy_near', '081', 'near: right answers of the policy and of '
        'the base are alike', 'near', 'ml_online', 'ml_offline', 'equal', 5.0,
        'near_gain', 5.0, tuned=(NEAR,),
        spread=1.8),
  Claim('closer', '081', 'with right answers, samples of the policy are '
        'worth more far than near', 'far_near', 'ml_online', 'ml_offline',
        'greater', 5.0, checks=_ROOM, tuned=(FAR, NEAR)),
  Claim('negative_offline', '081', 'far: from samples of the base, DPO '
        'beats maximum likelihood', 'accuracy', 'dpo_offline', 'ml_offline',
        'greater', 5.0, checks=_ROOM, tuned=(FAR,),
        spread=9.5),
  Claim('both', '081', 'far: online DPO beats maximum likelihood on own '
        f'right answers after {EARLY} steps', 'early', 'dpo_online',
        'ml_online', 'greater', 5.0, checks=_SOON, tuned=(SOON,),
        spread=11.7),
  Claim('negative_early', '081', 'far: GRPO is ahead of its positive part '
        f'after {EARLY} steps', 'early', 'gradient', 'positive', 'greater',
        5.0, checks=_SOON, tuned=(SOON,),
        spread=10.9),
  Claim('dpo_lowers', '081', 'far: offline DPO lowers the likelihood of the '
        "base's right answers", 'right', 'dpo_offline', 'start', 'less', 0.0,
        tuned=(FAR,)),
  Claim('nft_grpo', '078', 'far: NFT is as good as GRPO', 'accuracy', 'nft',
        'gradient', 'equal', 5.0, 'gain', 10.0, tuned=(FAR,),
        spread=12.0),
  Claim('nft_rft', '078', 'far: NFT beats learning from own right answers '
        'alone', 'accuracy', 'nft', 'ml_online', 'greater', 2.0,
        checks=(*_ROOM, Check('no ceiling', 'accuracy', ('ml_online',),
                              most=97.0)), tuned=(FAR,),
        spread=10.5),
  Claim('nft_entropy', '078', 'and keeps more entropy', 'entropy', 'nft',
        'ml_online', 'greater', 0.0, 'gain', 10.0, tuned=(FAR,)),
)  # fmt: skip

# What is run, and the bases.
_RUN = {'start', *SCALES['full'].arms}

STUDY = lab.Study(
  name='on_policy',
  title='On-policy samples and negative gradients',
  question=(
    'Do samples of the current policy, and gradients that push probability '
    'away from bad answers, make post-training better or faster, and when?'
  ),
  paper_claims=(
    'Suboptimal, on-policy data (081): sampling from the policy beats a fixed '
    "set of the reference's answers where the best answers are unlikely under "
    'the reference, and matters little where they are likely; a negative '
    'gradient moves mass faster than maximum likelihood on good answers; the '
    "two add up (online DPO is best); offline DPO may lower its winners' "
    'likelihood.',
    'NFT (078): supervised learning on own right and wrong answers is as good '
    'as GRPO, better than on the right ones alone, and keeps more entropy.',
  ),
  setup=(
    'Sums of numbers of up to two digits, pico (0.2M parameters). '
    'An answer is the sum (d32: the base knows a quarter of them) or the '
    'program (p27 5+), which the verifier runs and the base nearly always '
    'copies right. Near: the base has seen both equally often. Far: 60 more '
    'steps of SFT in which 7% of demonstrations are programs. 50 steps; every '
    'step of every arm judges 16 problems x 8 samples; offline samples are '
    'drawn anew from the base, so that no arm repeats data.',
    f'Speed: accuracy after {EARLY} steps, each arm at the rate that is best '
    'then, which is not the rate of its end.',
    'DPO takes the best and the worst of 8; ML on the right is rejection '
    'sampling. Policy gradient, positive only: NFT without '
    'wrong answers and with the weight sqrt((1 - r) / r), which is GRPO with '
    'its negative advantages left out.',
    'Held-out problems: 128 a seed, 8 samples of each; those that choices are '
    'made on are another half of them. "Start" is the base and the reference. '
    'What arms took is that of the part that is far.',
  ),
  equal=(
    'optimizer steps, and samples judged in each step (128); the rows that a '
    'gradient is taken on differ by method'
  ),
  tuning=(
    'one grid of learning rates for all arms, which grows for all where an '
    "arm's best is its first or last; the best by the accuracy on validation "
    'problems, with eight seeds of its own: after training, and for claims '
    f'about speed after {EARLY} steps'
  ),
  measures={
    'accuracy': lab.Measure('Far: accuracy, sampled', '%', 'higher', 1),
    'gain': lab.Measure('Far: gain', 'points', 'higher', 1),
    'early': lab.Measure(
      f'Far: accuracy after {EARLY} steps, at the best rate then', '%',
      'higher', 1
    ),
    'early_gain': lab.Measure(
      f'Far: gain after {EARLY} steps', 'points', 'higher', 1
    ),
    'early_most': lab.Measure(
      f'Far: most that any arm gained in {EARLY} steps', 'points', '', 1
    ),
    'easy': lab.Measure('Far: answers in the easy format', '%', '', 1),
    'greedy': lab.Measure('Far: accuracy, greedy', '%', 'higher', 1),
    'pass8': lab.Measure('Far: pass@8', '%', 'higher', 1),
    'entropy': lab.Measure('Far: entropy per token', 'nats', '', 3),
    'kl': lab.Measure('Far: KL to start per token', 'nats', '', 3),
    'right': lab.Measure("Far: change of the base's right answers", 'nats', '',
                         2),
    'wrong': lab.Measure("Far: change of the base's wrong answers", 'nats', '',
                         2),
    'near': lab.Measure('Near: accuracy, sampled', '%', 'higher', 1),
    'near_gain': lab.Measure('Near: gain', 'points', 'higher', 1),
    'far_near': lab.Measure('Far minus near: accuracy', 'points', '', 1),
  },
  claims=tuple(x for x in CLAIMS if {x.arm, x.against} <= _RUN),
  not_reproduced=(
    "081's language models, its reward models and the length tasks of its "
    'small transformer.',
    "081's small offline set: here offline samples come from the reference, "
    'but none is used twice, so what offline arms lack is the policy in their '
    'samples and not data. Its bandit is a study of its own.',
    '16 updates on each batch, as 078 takes them: here it is one, so that '
    'ratios to the sampler are 1.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING = (
  'Own samples decide: from a base that answers in the easy format 7% of the '
  'time, likelihood on right answers goes from 25% to 91% with the samples of '
  "the policy and to 35% with the base's, DPO to 85% and to 28%. They are "
  'worth 36 points more far than near, as the paper says; but near, where it '
  'expects little, they are worth 20 points too (95 against 76%, '
  'contradicted).',
  'A negative gradient is no stand-in for own samples here: offline DPO ends '
  'at 28%, no better than likelihood on the same samples (undecided), and '
  "lowers the likelihood of the base's right answers by 6.6 nats "
  '(reproduced). It does move mass: 30% of its answers are in the easy format, '
  'against 17%, but many of them are wrong.',
  'Nor is it faster: after 15 steps, each arm at the rate that is best then, '
  'the positive part of GRPO is at 54% and GRPO at 33% (contradicted). After '
  '50 steps it is the other way round, 80 and 89%: what a negative gradient '
  'brings here is a better end, not speed. That was in no claim.',
  'NFT ends at 87%, between GRPO (89%) and its positive part (80%): as good '
  'as GRPO within 5 points, and better than right answers alone (91%), are '
  'both undecided; that it keeps more entropy than these is reproduced (0.072 '
  'against 0.060 nats).',
)
