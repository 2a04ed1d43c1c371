r"""RLHF, best of n and SFT: generalisation and diversity.

  python -m experiments.rlhf_diversity.run             # full: 50 minutes
  python -m experiments.rlhf_diversity.run --reduced   # minutes

A reward model is trained on pairs that the verifier labels; PPO trains on its
score, best of 16 chooses by it, and SFT goes on with demonstrations. README.md
has the question and the reading.
"""

import dataclasses
import sys
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.rlhf_diversity.look import SETS, WHOLE, Judge, Look
from posttrain_jax import lab, tasks
from posttrain_jax.evals.statistics import Claim
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode."""

  seeds: int
  pretrain_steps: int
  start_steps: int
  reward_steps: int
  steps: int
  factors: tuple[float, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, pretrain_steps=3000, start_steps=120, reward_steps=400, steps=120,
    factors=(0.3, 1.0), problems=64,
  ),
  'reduced': Scale(
    seeds=2, pretrain_steps=320, start_steps=40, reward_steps=40, steps=40,
    factors=(1.0,), problems=32,
  ),
}  # fmt: skip

RATE = 'optimizer.lr'
# What an arm's rates are multiples of, and those of stages without a choice.
RATES = {'sft': 1e-3, 'ppo': 3e-4}
PRETRAIN_RATE, START_RATE, REWARD_RATE = 2e-3, 1e-3, 3e-4
SLIPS = 0.5  # share of the demonstrations before the arms that are wrong
HELDOUT = 0.25
COOL = 0.5  # a temperature beside 1
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
          ('kl.coef', '0.05')),
}  # fmt: skip
# What an arm has to have learned in distribution for it to be compared.
MOVED = dict(moved='gained', at_least=5.0)
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
    "Digit sums: '427>19:' asks for four digits from 2 to 7 that add up to 19; "
    'dozens of answers are right, and demonstrations show each of '
    'them equally often.',
    'Pretraining: depth-2 (two layers of width 64), demonstrations of problems '
    'of every kind (3 to 5 digits, from 1 to 9). Start: {start} more steps of '
    'that on sloppy demonstrations, half of which have one digit wrong; all '
    'arms go on from it.',
    'All that follows sees in-distribution problems alone: 3 or 4 digits from '
    '1 to 6. Shifted test sets: larger values (3 or 4 digits from 6 to 9) and '
    'longer answers (5 digits from 1 to 6). A quarter of all problems is never '
    'trained on.',
    'SFT: demonstrations without mistakes. Reward model: Bradley-Terry on the '
    'best and the worst of 4 answers of the start as the verifier labels them. '
    'PPO: 32 problems x 4 answers, GAE with a critic, reward the score at the '
    'end of the answer less 0.05 x KL to the start on every token; the '
    "verifier trains nothing. Best of 16: the start's answers, each the "
    'best-scored of 16.',
    '64 held-out problems of each set, 8 outputs each at temperature 1. '
    'Diversity is EAD over 1- to 5-grams with the 10 tokens that answers are '
    'made of: among the 8 outputs for one problem, and among outputs for 8 '
    'problems, one for each.',
    'SFT at temperature 0.5 is there to compare with: a sharper policy '
    'without any reward.',
  ),
  equal=(
    'optimizer steps after the start, with 128 rows each: {both} of SFT; '
    '{reward} of the reward model and {ppo} of PPO. Best of 16 takes the '
    "reward model's steps and 16 times the sampling"
  ),
  tuning=(
    'two learning rates each, 3e-4 and 1e-3 for SFT, 9e-5 and 3e-4 for PPO, '
    'chosen by the share of right samples on validation problems in '
    'distribution; the reward model has one that the first version found'
  ),
  measures={
    'id': lab.Measure('Right, in distribution', '%', 'higher', 1),
    'gained': lab.Measure('In distribution, gained over the start', '%',
                          'higher', 1),
    'values': lab.Measure('Right, larger values', '%', 'higher', 1),
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
  },
  claims=(
    Claim('values', '124', 'on larger values, RLHF is right more often than '
          'SFT', 'values', 'ppo', 'sft', 'greater', 3.0, **MOVED),
    Claim('longer', '124', 'on longer answers, RLHF is right more often than '
          'SFT', 'longer', 'ppo', 'sft', 'greater', 3.0, **MOVED),
    Claim('gap', '124', 'RLHF loses less than SFT between in-distribution and '
          'shifted problems', 'gap', 'ppo', 'sft', 'less', 2.0, **MOVED),
    Claim('bon_id', '124', 'best of 16 is right more often than SFT in '
          'distribution', 'id', 'bon', 'sft', 'greater', 3.0, **MOVED),
    Claim('bon_shifted', '124', 'best of 16 is right more often than SFT on '
          'shifted problems', 'shifted', 'bon', 'sft', 'greater', 3.0, **MOVED),
    Claim('within', '124', 'RLHF has much less diversity per input than SFT',
          'within_lost', 'ppo', 'sft', 'greater', 10.0, **MOVED),
    Claim('across', '124', 'RLHF has less diversity across inputs than SFT',
          'across_lost', 'ppo', 'sft', 'greater', 1.0, **MOVED),
    Claim('degree', '124', 'RLHF loses more diversity per input than across '
          'inputs', 'narrowing', 'ppo', 'base', 'greater', 5.0),
  ),
  not_reproduced=(
    'Language models, summarisation and instruction following, judgements by '
    'GPT-4.',
    "The paper's diversity of meaning (SBERT, NLI): there is no model of "
    'meaning here; EAD counts n-grams.',
    'Best of 16 from the SFT arm: it is from the start, which the pairs were '
    'sampled from.',
    'A sweep of the KL coefficient.',
  ),
)  # fmt: skip


def stage_config(name: str, steps: int, task: dict[str, Any]) -> Any:
  """A stage's config: the recipe, its overrides, the problems."""
  config = config_lib.load(SPECS[name]) if name in SPECS else sft.get_config()
  config_lib.override(config, ITEMS.get(name, ITEMS['sft']))
  config.task = ml_collections.ConfigDict(tasks.defaults(**task))
  config.num_steps = steps
  config.model.preset = 'depth-2'
  config.heldout_fraction = HELDOUT
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = 40
  config.eval.num_problems = 0
  return config


def begin(runs: lab.Lab, scale: Scale) -> lab.Trained:
  """The policy that all arms start from: skilled, and taught to be sloppy."""
  config = stage_config('pretrain', scale.pretrain_steps, WHOLE)
  config.prompts_per_step = 64
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = 100
  pretrained = runs.train('pretrain', config, None, {RATE: PRETRAIN_RATE})
  config = stage_config('sft', scale.start_steps, {**WHOLE, 'slips': SLIPS})
  return runs.train('start', config, pretrained, {RATE: START_RATE})


def curves(stage: lab.Trained) -> dict[str, Any]:
  """Ten means along PPO: the score that it trains on, and the truth."""
  steps = stage.config.num_steps
  width = max(1, steps // 10)
  middle = [i + width // 2 for i in range(0, steps - width + 1, width)]

  def means(name: str, factor: float) -> list[list[float]]:
    values = stage.curves[name]
    cut = values[:, : len(middle) * width].reshape(-1, len(middle), width)
    return (factor * cut.mean(axis=2)).tolist()

  of = lambda name, factor=1.0: {
    'x': middle, 'xlabel': 'optimizer steps', 'y': means(name, factor)
  }  # fmt: skip
  return {'score': of('reward'), 'id': of('rewards/verified/mean', 100.0)}


def figures() -> list[dict[str, Any]]:
  return [
    {
      'kind': 'bars', 'name': 'accuracy', 'title': 'In and out of distribution',
      'measures': ['id', 'values', 'longer'],
      'caption': 'Share of right samples on held-out problems, mean and 95% '
                 'interval over seeds. Only the first set was shown after '
                 'the start.',
    },
    {
      'kind': 'bars', 'name': 'diversity', 'title': 'Diversity that is lost',
      'measures': ['within_lost', 'across_lost'],
      'caption': 'EAD over 1- to 5-grams, in % of what the start has. Left: '
                 'among 8 outputs for one problem. Right: among outputs '
                 'for 8 problems, one for each. In distribution.',
    },
    {
      'kind': 'frontier', 'name': 'tradeoff',
      'title': 'Accuracy on shifted problems, and diversity per input',
      'x': 'shifted', 'y': 'ead',
      'caption': 'Mean of the two shifted sets against EAD of 8 outputs for '
                 'one problem.',
    },
    {
      'kind': 'curves', 'name': 'ppo_score', 'measure': 'score',
      'title': 'PPO: the score it trains on',
      'caption': "The reward model's score of training answers, in its own "
                 'unit, means of ten stretches.',
    },
    {
      'kind': 'curves', 'name': 'ppo_truth', 'measure': 'id',
      'title': 'PPO: what the verifier says of the same answers',
      'caption': 'Share of right answers on training problems; the verifier '
                 'trains nothing.',
    },
  ]  # fmt: skip


def rates(arm: str, scale: Scale) -> list[float]:
  return [factor * RATES[arm] for factor in scale.factors]


def train(runs: lab.Lab, judge: Judge, base: lab.Trained, scale: Scale):
  """(the reward model, {rate: stage} of each kind, the chosen rates)."""
  config = stage_config('reward', scale.reward_steps, SETS['id'])
  config.optimizer.lr = REWARD_RATE
  scorer = runs.train('reward', config, base)

  stages = {'ppo': {}, 'sft': {}}
  config = stage_config('ppo', scale.steps, SETS['id'])
  roles = {'reward': scorer}
  for rate in rates('ppo', scale):
    stages['ppo'][rate] = runs.train(
      'ppo', config, base, {RATE: rate}, roles=roles
    )
  steps = scale.steps + scale.reward_steps
  config = stage_config('sft', steps, SETS['id'])
  for rate in rates('sft', scale):
    stages['sft'][rate] = runs.train('sft', config, base, {RATE: rate})
  right = lambda stage: judge.seen(stage, scorer, 'validation')['id@1/accuracy']
  chosen = {name: lab.best(made, right) for name, made in stages.items()}
  return scorer, stages, chosen


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = begin(runs, scale)
  config = stage_config('ppo', scale.steps, SETS['id'])
  look = Look(
    model=build.build(base.config).model,
    scorer=build.build(config).models['reward'],
    problems=scale.problems, samples=8, heldout_fraction=HELDOUT,
    temperatures=(1.0, COOL),
  )  # fmt: skip
  judge = Judge(runs, look, base)
  scorer, stages, chosen = train(runs, judge, base, scale)
  last = {name: stages[name][chosen[name]] for name in stages}
  tuned = {
    name: {RATE: {'grid': list(stages[name]), 'chosen': chosen[name]}}
    for name in stages
  }

  def arm(label, family, key, stage, account, more=None, **keys):
    spec = SPECS[key] if key else 'configs/sft.py:recipe=sft'
    return lab.Arm(
      label=label, family=family, config=spec,
      overrides=dict(ITEMS.get(key, ())), account=account,
      values=judge.values(stage, scorer, **keys), tuned=tuned.get(key, {}),
      **(more or {}),
    )  # fmt: skip

  reward_account = list(scorer.account)
  ppo_account = lab.total_account([scorer, last['ppo']])
  arms = {
    'base': arm('Start', 'base', '', base, list(base.account)),
    'sft': arm('SFT', 'sft', 'sft', last['sft'], list(last['sft'].account)),
    'cool': arm(
      'SFT, temperature 0.5', 'sft', 'sft', last['sft'],
      list(last['sft'].account), heat=COOL,
    ),
    'bon': arm(
      'Best of 16', 'other', 'reward', base, reward_account, best_of=16,
      temperatures=(1.0,)
    ),
    'ppo': arm(
      'Reward model + PPO', 'rl', 'ppo', last['ppo'], ppo_account,
      {'curves': curves(last['ppo'])},
    ),
  }  # fmt: skip
  pairs = {
    name: [100 * x for x in judge.seen(base, scorer)[f'{name}@1/pairs']]
    for name in SETS
  }
  ranks = ', '.join(
    f'{np.mean(own):.0f}% ({name}; by seed {" ".join(f"{x:.0f}" for x in own)})'
    for name, own in pairs.items()
  )
  reading = [
    'The reward model ranks a right answer of the start above a wrong one of '
    f'the same held-out problem in {ranks} of pairs.'
  ]
  study = dataclasses.replace(
    STUDY,
    setup=tuple(
      text.replace('{start}', str(scale.start_steps)) for text in STUDY.setup
    ),
    equal=STUDY.equal.format(
      both=scale.steps + scale.reward_steps, reward=scale.reward_steps,
      ppo=scale.steps,
    ),
  )  # fmt: skip
  return study, arms, figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
