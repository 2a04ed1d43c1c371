"""Stages, sizes and claims of the study: all that is fixed before it runs."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's
  tuning_bases  seeds of the bases that they take turns to start from
  base_seeds    of those that the run's seeds do
  pretrain_steps, sloppy_steps  of a base: right demonstrations, sloppy ones
  first_steps   of SFT, after which RLHF begins
  reward_steps  of the reward model
  steps         of PPO, and of SFT after its first ones
  rates         the grid of SFT and PPO, which grows at most `extend` times at
                each end
  problems      of each set and seed
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  tuning_bases: tuple[int, ...]
  base_seeds: tuple[int, ...]
  pretrain_steps: int
  sloppy_steps: int
  first_steps: int
  reward_steps: int
  steps: int
  rates: tuple[float, ...]
  extend: int
  problems: int


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101, 102), tuning_bases=(200, 201),
    base_seeds=(202, 203, 204, 205), pretrain_steps=1000, sloppy_steps=60,
    first_steps=60, reward_steps=400, steps=100,
    rates=(1e-4, 3e-4, 1e-3), extend=2, problems=128,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100, 101), tuning_bases=(200, 201),
    base_seeds=(202, 203), pretrain_steps=240, sloppy_steps=20,
    first_steps=20, reward_steps=20, steps=20, rates=(3e-4, 1e-3), extend=0,
    problems=32,
  ),
}  # fmt: skip

RATE = 'optimizer.lr'
# Scores that are so close (as shares) are as good: the lowest of their rates is
# taken.
CLOSE = 0.01
# Of stages that all arms share, where nothing is chosen.
PRETRAIN_RATE, SLOPPY_RATE, REWARD_RATE = 2e-3, 1e-3, 1e-3
# Shares of demonstrations that are wrong: the base's, and the writer's of SFT.
BASE_SLIPS, SLIPS = 0.5, 0.25
HELDOUT = 0.2
COOL = 0.5  # a temperature beside 1
SLOW = 0.1  # of PPO's rate, beside it
BEST_OF = 16
SPECS = {
  'sft': 'configs/sft.py:recipe=sft',
  'reward': 'configs/preference.py:recipe=reward_model_centered',
  'ppo': 'configs/rl.py:recipe=rlhf',
}
ITEMS = {
  'sft': (('prompts_per_step', '128'),),
  'reward': (('prompts_per_step', '64'), ('group_size', '4'),
             ('collect.sampler', 'ref')),
  'ppo': (('prompts_per_step', '32'), ('group_size', '4'),
          ('kl.coef', '0.1')),
}  # fmt: skip

_ABLE = Check('the base has the ability on shifted problems', 'shifted',
              ('base',), least=10.0)  # fmt: skip
_SFT = Check('SFT learned', 'gained', ('sft',), least=5.0)
_PPO = Check('PPO learned from its reward', 'added', ('ppo',), least=5.0)
_RANKS = Check('the reward model knows right from wrong', 'ranked', ('bon',),
               least=65.0)  # fmt: skip
_ROOM = Check('no ceiling', 'id', ('sft',), most=95.0)
_OF_PPO = (_SFT, _RANKS, _PPO, _ABLE)
_OF_BEST = (_SFT, _RANKS, _ABLE, _ROOM)
STUDY = lab.Study(
  name='rlhf_diversity',
  title='RLHF, best of n and SFT: generalisation and diversity',
  question=(
    'Does a policy trained on a learned reward generalise better than one that '
    'goes on with demonstrations, in and out of distribution, and what does it '
    'lose of the diversity of its outputs, for one input and across inputs?'
  ),
  paper_claims=(
    'Understanding the effects of RLHF (124): RLHF generalises better than SFT '
    'to new inputs, the more so the larger the shift; best of 16 by the same '
    'reward model is as good or better; RLHF has much less diversity among '
    'outputs for one input, and somewhat less across inputs.',
  ),
  setup=(
    "Picks: '3<qdkaxmpe:' asks for three of the eight letters that are shown, "
    'in the order of the alphabet. 28 to 70 answers are right, and '
    'demonstrations show each of them equally often. A wrong one can be seen '
    'to be wrong: a letter that is not shown, one out of order, one too many.',
    'Base: depth-2 (two layers of width 64), 1000 steps of 64 demonstrations '
    'of problems of every kind (2 to 5 of 8 letters from a to z), then 60 of '
    '128 in half of which one letter is not a shown one. There are four bases, '
    'which the seeds take turns to start from; rates are chosen with two '
    'others.',
    'All that follows sees in-distribution problems alone: 2 to 4 letters, '
    'from a to r. Shifted test sets: later letters (2 to 4, from i to z) and '
    'longer answers (5 letters, from a to r). A fifth of all problems is never '
    'trained on; of those in distribution half is for choices.',
    'SFT: demonstrations of a writer who gets one letter wrong in a quarter of '
    'them. After 60 steps RLHF and best of 16 begin from there, as in the '
    'paper: a reward model (Bradley-Terry on the best and the worst of 4 '
    'answers of that policy as the verifier labels them; 400 steps of 64 '
    'problems), then PPO (100 steps of 32 problems x 4 answers, GAE with a '
    'critic, reward the score at the end of the answer less 0.1 x KL to the '
    'policy that it began from on every token). The verifier trains no '
    "policy. Best of 16: each output is the best-scored of 16 of that policy's "
    'answers.',
    '128 held-out problems of each set and seed, 8 outputs each at temperature '
    '1. Diversity is EAD over 1- to 5-grams with the 27 tokens that answers '
    'are made of: among the 8 outputs for one problem, and among outputs for 8 '
    'problems, one for each.',
    'To compare with, in no claim: SFT at temperature 0.5, a sharper policy '
    'without any reward, SFT on demonstrations without a mistake, and PPO at a '
    'tenth of its rate, which goes less far.',
  ),
  equal=(
    "the policy's optimizer steps after the base, with 128 rows each: 160 of "
    'SFT; 60 of SFT and 100 of PPO. The 400 of the reward model are beside '
    'them, as in the paper. Best of 16 takes no PPO and 16 times the sampling'
  ),
  tuning=(
    'one grid of learning rates for SFT and PPO, which grows for both where a '
    'best one is its first or last: the lowest whose share of right samples '
    'comes within a point of the best on validation problems in '
    'distribution, with three seeds of their own; the reward model has one '
    'rate, and PPO one weight of the KL, from trials before the pilot'
  ),
  measures={
    'id': lab.Measure('Right, in distribution', '%', 'higher', 1),
    'gained': lab.Measure('In distribution, gained over the base', '%',
                          'higher', 1),
    'added': lab.Measure('In distribution, gained since the first part of SFT',
                         '%', 'higher', 1),
    'values': lab.Measure('Right, later letters', '%', 'higher', 1),
    'longer': lab.Measure('Right, longer answers', '%', 'higher', 1),
    'shifted': lab.Measure('Right, both shifts', '%', 'higher', 1),
    'gap': lab.Measure('In distribution less shifted', '%', 'lower', 1),
    'ead': lab.Measure('EAD per input', '', 'higher', 3),
    'ead_across': lab.Measure('EAD across inputs', '', 'higher', 3),
    'within_lost': lab.Measure('EAD per input lost', '%', 'lower', 1),
    'across_lost': lab.Measure('EAD across inputs lost', '%', 'lower', 1),
    'narrowing': lab.Measure('Lost more per input than across', '%', '', 1),
    'distinct': lab.Measure('Different outputs of 8', '%', 'higher', 1),
    'solutions': lab.Measure('Different right ones of 8', '', 'higher', 2),
    'score': lab.Measure("Reward model's score", '', '', 2),
    'ranked': lab.Measure('Pairs that it ranks right, in distribution', '%',
                          '', 1),
    'ranked_shifted': lab.Measure('and shifted', '%', '', 1),
  },
  claims=(
    Claim('values', '124', 'on later letters, RLHF is right more often than '
          'SFT', 'values', 'ppo', 'sft', 'greater', 3.0,
          spread=17.5, checks=_OF_PPO),
    Claim('longer', '124', 'on longer answers, RLHF is right more often than '
          'SFT', 'longer', 'ppo', 'sft', 'greater', 3.0,
          spread=19.2, checks=_OF_PPO),
    Claim('gap', '124', 'RLHF loses less than SFT between in-distribution and '
          'shifted problems', 'gap', 'ppo', 'sft', 'less', 2.0,
          spread=17.9, checks=_OF_PPO),
    Claim('bon_id', '124', 'best of 16 is right more often than SFT in '
          'distribution', 'id', 'bon', 'sft', 'greater', 3.0,
          spread=6.8, checks=_OF_BEST),
    Claim('bon_shifted', '124', 'best of 16 is right more often than SFT on '
          'shifted problems', 'shifted', 'bon', 'sft', 'greater', 3.0,
          spread=16.7, checks=_OF_BEST),
    Claim('within', '124', 'RLHF has much less diversity per input than SFT',
          'within_lost', 'ppo', 'sft', 'greater', 10.0,
          spread=12.5, checks=_OF_PPO),
    Claim('across', '124', 'RLHF has less diversity across inputs than SFT',
          'across_lost', 'ppo', 'sft', 'greater', 1.0,
          spread=2.0, checks=_OF_PPO),
    Claim('degree', '124', 'RLHF loses more diversity per input than across '
          'inputs', 'narrowing', 'ppo', 'start', 'greater', 5.0,
          spread=10.7, checks=(_RANKS, _PPO)),
  ),
  not_reproduced=(
    'Language models, summarisation and instruction following, judgements by '
    'GPT-4.',
    "The paper's diversity of meaning (SBERT, NLI): there is no model of "
    'meaning here; EAD counts n-grams.',
    'A sweep of the KL coefficient.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING: tuple[str, ...] = (
  'PPO on the learned reward goes from 61 to 74% right in distribution, SFT '
  'to 64, best of 16 to 85. On later letters PPO is 15 points ahead of SFT '
  '(reproduced); on longer answers it falls from 37 to 7% and is 19 behind '
  '(contradicted), so that it loses 12 points more than SFT between '
  'in-distribution and shifted problems (contradicted). Best of 16 is 21 and '
  '23 points ahead of SFT in and out of distribution (reproduced).',
  'How far PPO goes decides. Its rate, chosen with three other seeds, is one '
  'at which the reward model is exploited: it ranks 90% of pairs of answers '
  'of SFT right, and 64% of those of PPO (48% on shifted problems). At a '
  'tenth of the rate PPO is right in 78%, and ahead of SFT by 23 points on '
  'later letters and 17 on longer answers, with half of the loss of '
  'diversity.',
  'PPO loses 44% of the diversity per input and 6% across inputs, SFT none '
  '(reproduced, as is that it loses more per input). It is not the price of '
  'being right: SFT sampled at temperature 0.5 loses 14% per input and is '
  'right in 96%, 77% and 58%, above every other arm, and best of 16 loses '
  '29%.',
  'SFT on demonstrations without a mistake is right in 82% in distribution '
  'and in 49% of shifted problems, above PPO (74 and 28%) and level with PPO '
  'at a tenth of the rate (78 and 51%): what preferences bring over SFT here '
  'is what its writer got wrong.',
)
