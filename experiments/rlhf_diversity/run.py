r"""RLHF, best of n and SFT: generalisation and diversity.

  python -m experiments.rlhf_diversity.run             # full: an hour
  python -m experiments.rlhf_diversity.run --reduced   # two minutes

A reward model is trained on pairs that the verifier labels; PPO trains on its
score, best of 16 chooses by it, and SFT goes on with demonstrations. design.py
has stages, sizes and claims, README.md the question and the reading.
"""

import dataclasses
import sys
from typing import Any

import ml_collections

from experiments.rlhf_diversity.design import (
  BASE_SLIPS,
  BEST_OF,
  CLOSE,
  COOL,
  HELDOUT,
  ITEMS,
  PRETRAIN_RATE,
  RATE,
  READING,
  REWARD_RATE,
  SCALES,
  SLIPS,
  SLOPPY_RATE,
  SLOW,
  SPECS,
  STUDY,
  Scale,
)
from experiments.rlhf_diversity.look import SETS, WHOLE, Judge, Look
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

SAMPLES = 8  # outputs for each problem


def stage_config(name: str, steps: int, task: dict[str, Any]) -> Any:
  """A stage's config: the recipe of `name`, its overrides, the problems."""
  config = config_lib.load(SPECS[name])
  config_lib.override(config, ITEMS[name])
  config.task = ml_collections.ConfigDict(tasks.defaults(**task))
  config.num_steps = steps
  config.model.preset = 'depth-2'
  config.heldout_fraction = HELDOUT
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = 20
  config.eval.num_problems = 0
  return config


def make_base(
  runs: lab.Lab, seeds: tuple[int, ...], scale: Scale
) -> lab.Trained:
  """What all arms start from: skilled, and taught to be sloppy. There is one
  for each of `seeds`, and those of `runs` take turns."""
  own = runs.beside(seeds)
  config = stage_config('sft', scale.pretrain_steps, WHOLE)
  config.prompts_per_step = 64
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = 100
  pretrained = own.train('pretrain', config, None, {RATE: PRETRAIN_RATE})
  task = {**WHOLE, 'slips': BASE_SLIPS}
  config = stage_config('sft', scale.sloppy_steps, task)
  made = own.train('base', config, pretrained, {RATE: SLOPPY_RATE})
  rows = lab.turns(runs, own)
  return lab.shared(runs, made, rows)


def train_sft(
  runs: lab.Lab,
  base: lab.Trained,
  rate: float,
  scale: Scale,
  slips: float = SLIPS,
) -> lab.Trained:
  """All of SFT; its snapshot is what RLHF and best of n begin from."""
  steps = scale.first_steps + scale.steps
  config = stage_config('sft', steps, {**SETS['id'], 'slips': slips})
  return runs.train(
    'sft', config, base, {RATE: rate}, snapshots=[scale.first_steps]
  )


def train_reward(
  runs: lab.Lab, start: lab.Trained, scale: Scale
) -> lab.Trained:
  config = stage_config('reward', scale.reward_steps, SETS['id'])
  return runs.train('reward', config, start, {RATE: REWARD_RATE})


def train_ppo(
  runs: lab.Lab,
  start: lab.Trained,
  scorer: lab.Trained,
  rate: float,
  scale: Scale,
) -> lab.Trained:
  config = stage_config('ppo', scale.steps, SETS['id'])
  return runs.train(
    'ppo', config, start, {RATE: rate}, roles={'reward': scorer}
  )


def look_of(base: lab.Trained, scale: Scale) -> Look:
  """The probe of all stages."""
  config = stage_config('ppo', scale.steps, SETS['id'])
  return Look(
    model=build.build(base.config).model,
    scorer=build.build(config).models['reward'],
    problems=scale.problems,
    samples=SAMPLES,
    heldout_fraction=HELDOUT,
  )


def chooser(runs: lab.Lab, base: lab.Trained, scale: Scale):
  """stage -> [S] share of right samples on validation problems in
  distribution."""
  probe = measures.Probe(
    model=build.build(base.config).model,
    task=tasks.make(**SETS['id']),
    num_problems=scale.problems,
    samples=SAMPLES,
    batch=scale.problems,
    heldout_fraction=HELDOUT,
    measures=('accuracy',),
    part='validation',
  )
  return lambda stage: runs.measure(stage, probe, split='validation')[
    'accuracy'
  ]


def tune(own: lab.Lab, scale: Scale) -> tuple[lab.Tuned, lab.Tuned]:
  """The rates of SFT and of PPO, chosen with seeds of their own. PPO begins
  where SFT with its chosen rate is; where the grid grows for one of them, the
  other is chosen anew on the longer one."""
  base = make_base(own, scale.tuning_bases, scale)
  right = chooser(own, base, scale)
  by_right = lambda _, stage: right(stage)
  rates = list(scale.rates)
  while True:
    make = lambda rate: train_sft(own, base, rate, scale)
    sft = lab.tune({'sft': make}, rates, by_right, scale.extend, CLOSE)['sft']
    start = sft.tried[sft.chosen].snapshots[scale.first_steps]
    scorer = train_reward(own, start, scale)
    grid = sorted(sft.tried)
    make = lambda rate, x=start, y=scorer: train_ppo(own, x, y, rate, scale)
    ppo = lab.tune({'ppo': make}, grid, by_right, scale.extend, CLOSE)['ppo']
    rates = sorted(ppo.tried)
    if rates == grid:
      return sft, ppo


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
                 'the base.',
    },
    {
      'kind': 'bars', 'name': 'diversity', 'title': 'Diversity that is lost',
      'measures': ['within_lost', 'across_lost'],
      'caption': 'EAD over 1- to 5-grams, in % of what the policy has that '
                 'RLHF begins from. Left: among 8 outputs for one problem. '
                 'Right: among outputs for 8 problems, one for each. In '
                 'distribution.',
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


def make_arms(
  runs: lab.Lab,
  bases: tuple[int, ...],
  chosen: tuple[lab.Tuned, lab.Tuned],
  scale: Scale,
) -> tuple[dict[str, lab.Arm], Judge]:
  """Trains every arm with the rates that were chosen, and measures it."""
  of_sft, of_ppo = chosen
  base = make_base(runs, bases, scale)
  sft = train_sft(runs, base, of_sft.chosen, scale)
  start = sft.snapshots[scale.first_steps]
  scorer = train_reward(runs, start, scale)
  ppo = train_ppo(runs, start, scorer, of_ppo.chosen, scale)
  slow = train_ppo(runs, start, scorer, SLOW * of_ppo.chosen, scale)
  clean = train_sft(runs, base, of_sft.chosen, scale, 0.0)
  judge = Judge(runs, look_of(base, scale), base, start, scorer)

  def arm(label, family, key, stage, account, tuned=None, more=None, **keys):
    values, outcomes = judge.values(stage, **keys)
    return lab.Arm(
      label=label, family=family, config=SPECS[key],
      overrides=dict(ITEMS[key]), values=values, account=account,
      tuned=tuned or {}, outcomes=outcomes, **(more or {}),
    )  # fmt: skip

  rates = {RATE: of_sft.entry}
  first = f'{scale.first_steps} steps'
  begun = [start, scorer]
  arms = {
    'base': arm('Base', 'base', 'sft', base, list(base.account)),
    'start': arm(
      f'SFT, {first}', 'sft', 'sft', start, list(start.account), rates
    ),
    'sft': arm('SFT', 'sft', 'sft', sft, list(sft.account), rates),
    'cool': arm(
      'SFT, temperature 0.5', 'sft', 'sft', sft, list(sft.account), rates,
      temperatures=(COOL,),
    ),
    'clean': arm(
      'SFT, no mistakes', 'sft', 'sft', clean, list(clean.account), rates
    ),
    'bon': arm(
      f'Best of {BEST_OF}', 'other', 'reward', start, lab.total_account(begun),
      rates, best_of=BEST_OF,
    ),
    'ppo': arm(
      'Reward model + PPO', 'rl', 'ppo', ppo, lab.total_account([*begun, ppo]),
      {RATE: of_ppo.entry}, {'curves': curves(ppo)},
    ),
    'slow': arm(
      'PPO, a tenth of the rate', 'rl', 'ppo', slow,
      lab.total_account([*begun, slow]), more={'curves': curves(slow)},
    ),
  }  # fmt: skip
  return arms, judge


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs.beside(scale.tuning_seeds), scale)
  arms, judge = make_arms(runs, scale.base_seeds, chosen, scale)
  study = dataclasses.replace(STUDY, problems=judge.counts())
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures(), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
