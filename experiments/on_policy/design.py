"""The arms, the sizes of both parts, and what is claimed."""

import dataclasses

from experiments.on_policy import bandit
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  steps, snapshots  on language; EARLY is one of the snapshots
  """

  seeds: int
  base_steps: int
  tilt_steps: int
  steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
  arms: tuple[str, ...]
  bandit_steps: int
  refresh: tuple[int, ...]
  reuse: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Way:
  """An arm: its recipe on language, and its method and sampler in the bandit
  ('' where it has no such part)."""

  label: str
  family: str
  spec: str = ''
  items: tuple[tuple[str, str], ...] = ()
  method: str = ''
  refresh: int = 1


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
    'best_of_n', bandit.OFFLINE,
  ),
  'ml_online': Way(
    'ML on the right, online', 'sft',
    'configs/sft.py:recipe=rejection_sampling',
    (*_ML, ('collect.sampler', 'policy')), 'best_of_n',
  ),
  'rwr_offline': Way(
    'RWR offline', 'sft', method='rwr', refresh=bandit.OFFLINE
  ),
  'rwr_online': Way('RWR online', 'sft', method='rwr'),
  'nft': Way('NFT', 'sft', 'configs/sft.py:recipe=nft', _NFT),
  'dpo_offline': Way(
    'DPO offline', 'preference', 'configs/preference.py:recipe=dpo', _OWN,
    'dpo', bandit.OFFLINE,
  ),
  'dpo_online': Way(
    'DPO online', 'preference', 'configs/preference.py:recipe=online_dpo',
    _OWN, 'dpo',
  ),
  'dpo_offline_all': Way(
    'DPO offline, all pairs', 'preference', method='dpo_all',
    refresh=bandit.OFFLINE,
  ),
  'dpo_online_all': Way(
    'DPO online, all pairs', 'preference', method='dpo_all'
  ),
  'ipo_offline': Way(
    'IPO offline', 'preference', method='ipo', refresh=bandit.OFFLINE
  ),
  'ipo_online': Way('IPO online', 'preference', method='ipo'),
  # NFT without its wrong answers, and with the weight that makes it GRPO.
  'positive': Way(
    'Policy gradient, positive only', 'rl', 'configs/sft.py:recipe=nft',
    (*_NFT, ('loss.negative_weight', '0.0'), ('loss.prompt_weight', 'sqrt')),
    'positive',
  ),
  'gradient': Way(
    'Policy gradient (GRPO)', 'rl', 'configs/rl.py:recipe=grpo', _OWN,
    'reinforce',
  ),
}  # fmt: skip

RATE = 'optimizer.lr'
# Which tuned value a claim rests on.
_BANDIT_FAR, _BANDIT_NEAR = ('bandit rate, far',), ('bandit rate, near',)
_SUMS_FAR, _SUMS_NEAR = (f'{RATE}, far',), (f'{RATE}, near',)
# Steps on language after which claims about speed are judged.
EARLY = 30
# Arms that also start from the base that is near.
NEAR = ('ml_offline', 'ml_online', 'dpo_offline', 'dpo_online')

SCALES = {
  'full': Scale(
    seeds=5, base_steps=600, tilt_steps=100, steps=180,
    snapshots=(15, 30, 60),
    rates=(1e-4, 3e-4, 1e-3), arms=tuple(WAYS), bandit_steps=500,
    refresh=(1, 10, 100, bandit.OFFLINE), reuse=(1, 10, 50),
  ),
  'reduced': Scale(
    seeds=2, base_steps=200, tilt_steps=40, steps=40,
    snapshots=(15, 30), rates=(1e-3,),
    arms=('ml_offline', 'ml_online', 'dpo_offline', 'dpo_online', 'positive',
          'gradient'),
    bandit_steps=100, refresh=(1, bandit.OFFLINE), reuse=(1,),
  ),
}  # fmt: skip

_FAR = 'with the optimum far from the reference, '
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
    'Bandit: 100 actions, 10 samples in each of 10 states a step; the reward '
    'is a bump around action 70 (far: 4% of the reference) or 20 (near). 500 '
    'Adam steps, the same number of samples for all; the loss functions are '
    "the library's. Offline: all samples are the reference's, each used once. "
    'DPO and IPO drop pairs whose rewards are within 0.2; "all pairs" does '
    'not.',
    'Language: sums of numbers of up to two digits, pico (0.2M parameters). '
    'An answer is the sum (d32: the base knows about half of them) or the '
    'program (p27 5+), which the verifier runs and the base nearly always '
    'copies right. Near: the base has seen both equally often. Far: 100 more '
    'steps of SFT in which 3% of demonstrations are programs. 180 steps; every '
    'step of every arm judges 16 problems x 8 samples (SFT: 128 demonstrations '
    'of both formats equally often); offline samples are drawn anew from the '
    'base, so that no arm repeats data.',
    'DPO takes the best and the worst of 8; ML on the right is rejection '
    'sampling (in the bandit: the best of 10). Policy gradient, positive only: '
    "in the bandit a state's least score counts 0; on language NFT without "
    'wrong answers and with the weight sqrt((1 - r) / r), which is GRPO with '
    'its negative advantages left out.',
    'Held-out problems: 128, 8 samples of each. "Start" is the base and the '
    'reference. What arms took is that of the language part, far.',
  ),
  equal=(
    'optimizer steps, and samples judged in each step (128 on language, 100 in '
    'the bandit); the rows that a gradient is taken on differ by method'
  ),
  tuning=(
    'the same three learning rates for every arm: on language by the accuracy '
    'on validation problems, in the bandit by the mean reward over training '
    'with other random numbers'
  ),
  measures={
    'bandit_far': lab.Measure('Bandit, far: reward', '', 'higher', 3),
    'bandit_speed': lab.Measure(
      'Bandit, far: mean reward over training', '', 'higher', 3
    ),
    'bandit_near': lab.Measure('Bandit, near: reward', '', 'higher', 3),
    'bandit_winner': lab.Measure(
      "Bandit, far: change of winners' log p", 'nats', '', 2
    ),
    'bandit_kl': lab.Measure('Bandit, far: KL to start', 'nats', '', 2),
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
    Claim('bandit_on_policy_dpo', '081', _FAR + 'online DPO reaches more '
          'reward than offline DPO', 'bandit_far', 'dpo_online', 'dpo_offline',
          'greater', 0.05, tuned=_BANDIT_FAR),
    Claim('bandit_on_policy_ml', '081', _FAR + 'maximum likelihood does better '
          'on own samples', 'bandit_far', 'ml_online', 'ml_offline', 'greater',
          0.05, tuned=_BANDIT_FAR),
    Claim('bandit_near', '081', 'with the optimum near, online and offline DPO '
          'are alike', 'bandit_near', 'dpo_online', 'dpo_offline', 'equal',
          0.05, tuned=_BANDIT_NEAR),
    Claim('bandit_negative_offline', '081', _FAR + 'and offline samples, DPO '
          'beats maximum likelihood', 'bandit_far', 'dpo_offline',
          'ml_offline', 'greater', 0.05, tuned=_BANDIT_FAR),
    Claim('bandit_negative_online', '081', _FAR + 'a policy gradient is faster '
          'with its negative part', 'bandit_speed', 'gradient', 'positive',
          'greater', 0.02, tuned=_BANDIT_FAR),
    Claim('bandit_both', '081', _FAR + 'online DPO is faster than maximum '
          'likelihood on own samples', 'bandit_speed', 'dpo_online',
          'ml_online', 'greater', 0.02, tuned=_BANDIT_FAR),
    Claim('bandit_gap', '081', _FAR + 'online DPO reaches more reward with '
          'all pairs than with those 0.2 apart', 'bandit_far',
          'dpo_online_all', 'dpo_online', 'greater', 0.02, when='after',
          tuned=_BANDIT_FAR),
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
    "081's small offline set (100 states in its bandit): here offline samples "
    'come from the reference, but none is used twice, so what offline arms '
    'lack is the policy in their samples and not data.',
    '16 updates on each batch, as 078 takes them: here it is one, so that '
    'ratios to the sampler are 1.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING = (
  'Own samples decide, on language too: from a base that answers in the easy '
  'format 3% of the time, likelihood on right answers goes from 52% to 96% '
  "with the policy's samples and to 54% with the base's. Also near the base "
  '(half of the answers): 66% to 99% and to 77%, where the paper expects '
  'little.',
  'A negative gradient is no stand-in for own samples on language, as it is in '
  'the bandit: far from the base offline DPO ends below where it began (48%). '
  'Near it, it helps: 24 points, and likelihood on the same samples 11.',
  'Online DPO and GRPO are no faster than their positive-only counterparts. '
  'After 180 steps the ends are 96% (positive part, likelihood), 95% (NFT), '
  '93% (GRPO) and 84% (online DPO, of which two seeds in five never left the '
  'hard format). NFT is no better than learning from right answers alone, and '
  'keeps more entropy.',
  'Bandit, optimum far: samples of the policy decide for maximum likelihood '
  '(reward 0.32 offline, 1.00 online), the clipped and the positive policy '
  'gradient, somewhat for IPO (0.71 to 0.97), and hardly for RWR (0.95 to '
  '0.99). A sampler that is ten steps old is as good as a new one; one that is '
  'a hundred steps old costs REINFORCE most. Offline DPO reaches 0.99.',
  'Online DPO ends below offline DPO in the bandit (0.95 against 0.99) because '
  'pairs with rewards closer than 0.2 are dropped, as in the paper: with all '
  'pairs it reaches 1.00, in every seed 0.99 or more.',
)
