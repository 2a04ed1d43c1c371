"""Trains the stages of the study, and measures them."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.reward_models.probe import Scored, above, bar
from experiments.reward_models.settings import (
  HELDOUT,
  PROGRAMS,
  RATE,
  RUBRIC,
  SKILLS,
  TARGET,
  WAYS,
  WEIGHTS,
  Scale,
)
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = ['Bench', 'base_config', 'program_config']

NUMBERS = tuple(f'rewards.audited.weights.{i}' for i in range(len(RUBRIC)))
Rates = float | Sequence[float]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.heldout_fraction = HELDOUT
  config.num_steps = steps
  config.steps_per_call = min(steps, 32)
  config.eval.num_problems = 0
  return config


def base_config(scale: Scale) -> Any:
  """SFT on right answers to all tasks, which ends before they are learnt."""
  config = sft.get_config()
  named = {'target': TARGET, **SKILLS}
  parts = {}
  for (name, task), weight in zip(named.items(), WEIGHTS):
    knobs = {k: x for k, x in task.items() if k != 'name'}
    parts[name] = {**knobs, 'task': task['name'], 'weight': weight}
  config.task = sft.mixture(parts)
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = scale.base_rate
  return _shared(config, scale, scale.base_steps)


def program_config(program: str, scale: Scale, steps: int) -> Any:
  """Steps of a program of PROGRAMS."""
  spec, items, others = PROGRAMS[program]
  config = config_lib.load(spec)
  config.task = ml_collections.ConfigDict(tasks.defaults(**TARGET))
  config.others = ml_collections.ConfigDict(dict.fromkeys(others, ''))
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config_lib.override(config, items)
  if 'preference.py' in spec:
    config.problems.count = scale.pairs
    config.optimizer.schedule = 'cosine'
    if set(others) == {'first', 'second'}:
      config.strength = others
  return _shared(config, scale, steps)


def steps_of(program: str, scale: Scale) -> int:
  if program == 'sft':
    return scale.sft_steps
  if program == 'rubric':
    return scale.steps // scale.rounds
  is_model = 'preference.py' in PROGRAMS[program][0]
  return scale.model_steps if is_model else scale.steps


class Bench:
  """Stages of one lab's seeds.

  rates  {arm: its rate, or one a seed}: of the arms that others rest on
  """

  def __init__(self, runs: lab.Lab, scale: Scale, rates: Mapping[str, Rates]):
    self.runs, self.scale, self.rates = runs, scale, rates

  def base(self) -> lab.Trained:
    """A base of each seed's own."""
    own = self.scale.all(self.runs)
    made = own.train('base', base_config(self.scale))
    return lab.shared(self.runs, made, lab.own_rows(self.runs, own))

  def judge(self, number: int) -> lab.Trained:
    """A model that reads the noisy pairs once, in an order of its own."""
    scale, own = self.scale, self.scale.all(self.runs)
    config = program_config('plain', scale, scale.judge_steps)
    start = Bench(own, scale, {}).base()
    numbers = {
      RATE: scale.judge_rate, **dict(WAYS['plain'].hparams),
      'problems.seed': own.seeds,
    }  # fmt: skip
    made = own.train(f'judge-{number}', config, start, numbers, draw=number)
    return lab.shared(self.runs, made, lab.own_rows(self.runs, own))

  def known(self, arm: str) -> lab.Trained:
    """An arm that others rest on, at the rate that was chosen for it; those of
    tuning and run train in one program."""
    scale, own = self.scale, self.scale.all(self.runs)
    made = Bench(own, scale, self.rates).train(arm, self.rates[arm])
    return lab.shared(self.runs, made, lab.own_rows(self.runs, own))

  def others(self, program: str) -> dict[str, lab.Trained]:
    """The further models of a program."""
    makers = {
      'first': lambda: self.judge(1),
      'second': lambda: self.judge(2),
      'later': lambda: self.known('ppo'),
      'reward': lambda: self.known('plain'),
    }
    return {role: makers[role]() for role in PROGRAMS[program][2]}

  def train(self, arm: str, rates: Rates) -> lab.Trained:
    """An arm; rates: one for all seeds, or one a seed."""
    way, scale = WAYS[arm], self.scale
    config = program_config(way.program, scale, steps_of(way.program, scale))
    numbers = {RATE: rates, **dict(way.hparams)}
    if 'problems' in config and config.problems.count:
      numbers['problems.seed'] = self.runs.seeds
    start = self.known(way.after) if way.after else self.base()
    return self.runs.train(
      way.program, config, start, numbers, self.others(way.program)
    )

  def rubric(self, arm: str, rates: Rates) -> list[lab.Carry]:
    """Rounds of PPO by a rubric; what is carried after each."""
    scale = self.scale
    config = program_config('rubric', scale, steps_of('rubric', scale))
    start = tuple(RUBRIC.values()) if arm != 'gold' else (0.0, 1.0)
    count = len(self.runs.seeds)
    numbers = {name: (x,) * count for name, x in zip(RUBRIC, start)}
    stages: list[Any] = [
      lab.Train('policy', config,
                hparams={RATE: rates, **dict(zip(NUMBERS, RUBRIC))}),
    ]  # fmt: skip
    if arm == 'audited':
      look = measures.Audit(
        model=build.build(base_config(scale)).model,
        task=tasks.make(**TARGET), features=tuple(RUBRIC), before=start,
        num_problems=scale.problems, samples=1, heldout_fraction=HELDOUT,
      )  # fmt: skip
      gives = {name: f'weight/{name}' for name in RUBRIC}
      stages.append(lab.Look('policy', look, gives))
    carry = lab.Carry({'policy': self.base()}, numbers)
    return lab.rounds(self.runs, stages, scale.rounds, carry)

  def probe(self, part: str) -> Scored:
    """Of policies, by reward models."""
    scale = self.scale
    scorer = build.build(program_config('plain', scale, 1)).model
    return Scored(
      model=build.build(base_config(scale)).model, scorer=scorer,
      task=tasks.make(**TARGET), num_problems=scale.problems, samples=4,
      heldout_fraction=HELDOUT, part=part,
    )  # fmt: skip

  def scored(
    self, policy: lab.Trained, scorer: lab.Trained, part: str
  ) -> dict[str, np.ndarray]:
    """What `Scored` says, by seed."""
    found = self.runs.measure(policy, self.probe(part), scorer, split=part)
    return {name: np.asarray(x) for name, x in found.items()}

  def skills(self, policy: lab.Trained, part: str) -> np.ndarray:
    """[S] share of right answers to what else the base can do."""
    shares = []
    for task in SKILLS.values():
      probe = measures.Probe(
        model=build.build(base_config(self.scale)).model,
        task=tasks.make(**task), num_problems=self.scale.problems, samples=1,
        batch=self.scale.problems, heldout_fraction=HELDOUT,
        measures=('accuracy',), part=part,
      )  # fmt: skip
      found = self.runs.measure(policy, probe, split=part)
      shares.append(np.asarray(found['accuracy']))
    return np.mean(shares, axis=0)

  def policy(self, stage: lab.Trained, part: str) -> dict[str, np.ndarray]:
    """Values [S] of a policy, in %; 'problems' [S, N] are shares."""
    scorer, base = self.known('plain'), self.base()
    start = self.scored(base, scorer, part)
    found = self.scored(stage, scorer, part)
    proxy = np.array([
      100.0 * above(own, bar(first, right))
      for own, first, right in zip(
        found['quantiles'], start['quantiles'], start['right']
      )
    ])  # fmt: skip
    gold = 100.0 * found['right']
    total = sum(RUBRIC.values())
    paid = lambda seen: (
      100.0 * sum(x * seen[name] / total for name, x in RUBRIC.items())
    )
    skills, able = self.skills(stage, part), self.skills(base, part)
    return {
      'gold': gold,
      'gained': gold - 100.0 * start['right'],
      'proxy': proxy,
      'earned': proxy - 100.0 * start['right'],
      'hacked': proxy - gold,
      'rubric': paid(found),
      'paid': paid(found) - paid(start),
      'vowels': 100.0 * found['vowels'],
      'skills': 100.0 * skills,
      'lost': 100.0 * (able - skills),
      'problems': found['right/problems'],
    }

  def model(self, stage: lab.Trained, part: str) -> dict[str, np.ndarray]:
    """Values [S] of a reward model, in %."""
    own = self.scored(self.base(), stage, part)
    values = {'ranked': 100.0 * own['ranked']}
    if 'ppo' in self.rates:
      later = self.scored(self.known('ppo'), stage, part)
      values['later'] = 100.0 * later['ranked']
    return values

  def score(self, arm: str, stage: lab.Trained, by: str) -> np.ndarray:
    """[S] what a rate is chosen by, on validation problems; a share."""
    if by == 'ranked':
      return self.model(stage, 'validation')['ranked'] / 100.0
    return self.policy(stage, 'validation')[by] / 100.0


def wrong(stage: lab.Trained) -> dict[str, np.ndarray]:
  """[S] in %: pairs that were wrong, of those that were turned and of all."""
  means = lambda name: 100.0 * stage.curves[name].mean(1)
  return {
    'turned': means('flip/wrong'), 'any': means('flip/wrong_before')
  }  # fmt: skip
