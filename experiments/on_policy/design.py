"""The arms, their sizes, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  snapshots  of the steps; EARLY is one of them
  """

  seeds: int
  base_steps: int
  tilt_steps: int
  steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
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
  'demonstrations': Way(
    'SFT on demonstrations', 'sft', 'configs/sft.py:recipe=sft',
    (('prompts_per_step', '128'),),
  ),
  'ml_offline': Way(
    'ML on the right, offline', 'sft',
    'configs/sft.py:recipe=rejection_sampling', _ML,
  ),
  'ml_online': Way(
    'ML on the right, online', 'sft',
    'configs/sft.py:recipe=rejection_sampling',
    (*_ML, ('collect.sampler', 'policy')),
  ),
  'nft': Way('NFT', 'sft', 'configs/sft.py:recipe=nft', _NFT),
  'dpo_offline': Way(
    'DPO offline', 'preference', 'configs/preference.py:recipe=dpo', _OWN,
  ),
  'dpo_online': Way(
    'DPO online', 'preference', 'configs/preference.py:recipe=online_dpo',
    _OWN,
  ),
  # NFT without its wrong answers, and with the weight that makes it GRPO.
  'positive': Way(
    'Policy gradient, positive only', 'rl', 'configs/sft.py:recipe=nft',
    (*_NFT, ('loss.negative_weight', '0.0'), ('loss.prompt_weight', 'sqrt')),
  ),
  'gradient': Way(
    'Policy gradient (GRPO)', 'rl', 'configs/rl.py:recipe=grpo', _OWN,
  ),
}  # fmt: skip

RATE = 'optimizer.lr'
# Which tuned value a claim rests on.
_SUMS_FAR, _SUMS_NEAR = (f'{RATE}, far',), (f'{RATE}, near',)
# Steps after which claims about speed are judged.
EARLY = 30
# Arms that also start from the base that is near.
NEAR = ('ml_offline', 'ml_online', 'dpo_offline', 'dpo_online')

SCALES = {
  'full': Scale(
    seeds=5, base_steps=600, tilt_steps=100, steps=180,
    snapshots=(15, 30, 60),
    rates=(1e-4, 3e-4, 1e-3), arms=tuple(WAYS),
  ),
  'reduced': Scale(
    seeds=2, base_steps=200, tilt_steps=40, steps=40,
    snapshots=(15, 30), rates=(1e-3,),
    arms=('ml_offline', 'ml_online', 'dpo_offline', 'dpo_online', 'positive',
          'gradient'),
  ),
}  # fmt: skip

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
    'An answer is the sum (d32: the base knows about half of them) or the '
    'program (p27 5+), which the verifier runs and the base nearly always '
    'copies right. Near: the base has seen both equally often. Far: 100 more '
    'steps of SFT in which 3% of demonstrations are programs. 180 steps; every '
    'step of every arm judges 16 problems x 8 samples (SFT: 128 demonstrations '
    'of both formats equally often); offline samples are drawn anew from the '
    'base, so that no arm repeats data.',
    'DPO takes the best and the worst of 8; ML on the right is rejection '
    'sampling. Policy gradient, positive only: NFT without '
    'wrong answers and with the weight sqrt((1 - r) / r), which is GRPO with '
    'its negative advantages left out.',
    'Held-out problems: 128, 8 samples of each. "Start" is the base and the '
    'reference. What arms took is that of the part that is far.',
  ),
  equal=(
    'optimizer steps, and samples judged in each step (128); the rows that a '
    'gradient is taken on differ by method'
  ),
  tuning=(
    'the same three learning rates for every arm, by the accuracy on '
    'validation problems'
  ),
  measures={
    'accuracy': lab.Measure('Far: accuracy, sampled', '%', 'higher', 1),
    'gain': lab.Measure('Far: gain', 'points', 'higher', 1),
    'early': lab.Measure(
      f'Far: accuracy after {EARLY} steps', '%', 'higher', 1
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
  },
  claims=(
    Claim('on_policy_dpo', '081', 'sums, far: online DPO beats offline DPO',
          'accuracy', 'dpo_online', 'dpo_offline', 'greater', 5.0,
          tuned=_SUMS_FAR),
    Claim('on_policy_ml', '081', 'sums, far: right answers of the policy beat '
          'those of the base', 'accuracy', 'ml_online', 'ml_offline',
          'greater', 5.0, tuned=_SUMS_FAR),
    Claim('on_policy_near', '081', 'sums, near: right answers of the policy '
          'and of the base are alike', 'near', 'ml_online', 'ml_offline',
          'equal', 5.0, 'near_gain', 5.0, tuned=_SUMS_NEAR),
    Claim('negative_offline', '081', 'sums, far: from samples of the base, DPO '
          'beats maximum likelihood', 'accuracy', 'dpo_offline', 'ml_offline',
          'greater', 5.0, tuned=_SUMS_FAR),
    Claim('both', '081', 'sums, far: online DPO beats maximum likelihood on '
          f'own right answers after {EARLY} steps', 'early', 'dpo_online',
          'ml_online', 'greater', 5.0, tuned=_SUMS_FAR),
    Claim('negative_early', '081', 'sums, far: GRPO is ahead of its positive '
          f'part after {EARLY} steps', 'early', 'gradient', 'positive',
          'greater', 5.0, tuned=_SUMS_FAR),
    Claim('dpo_lowers', '081', 'sums, far: offline DPO lowers the likelihood '
          "of the base's right answers", 'right', 'dpo_offline', 'start',
          'less', 0.0, tuned=_SUMS_FAR),
    Claim('nft_grpo', '078', 'sums, far: NFT is as good as GRPO', 'accuracy',
          'nft', 'gradient', 'equal', 5.0, 'gain', 10.0, tuned=_SUMS_FAR),
    Claim('nft_rft', '078', 'NFT beats learning from own right answers alone',
          'accuracy', 'nft', 'ml_online', 'greater', 2.0, tuned=_SUMS_FAR),
    Claim('nft_entropy', '078', 'and keeps more entropy', 'entropy', 'nft',
          'ml_online', 'greater', 0.0, tuned=_SUMS_FAR),
  ),
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
  'One claim is testable on this run: each of the others rests on an arm that '
  'took the first or the last of its three rates. What follows is what the '
  'means say.',
  'Own samples decide: from a base that answers in the easy '
  'format 3% of the time, likelihood on right answers goes from 52% to 96% '
  "with the policy's samples and to 54% with the base's. Also near the base "
  '(half of the answers): 66% to 99% and to 77%, where the paper expects '
  'little (contradicted).',
  'A negative gradient is no stand-in for own samples: far from the base '
  'offline DPO ends below where it began (48%). '
  'Near it, it helps: 24 points, and likelihood on the same samples 11.',
  'Online DPO and GRPO are no faster than their positive-only counterparts. '
  'After 180 steps the ends are 96% (positive part, likelihood), 95% (NFT), '
  '93% (GRPO) and 84% (online DPO, of which two seeds in five never left the '
  'hard format). NFT has about the accuracy of learning from right answers '
  'alone, and more entropy.',
)
