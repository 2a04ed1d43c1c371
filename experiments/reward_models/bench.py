"""Trains the stages of the study, and measures them."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.reward_models.probe import Parts
from experiments.reward_models.settings import (
  HELDOUT,
  NUMBERS,
  PARTS,
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

Rates = float | Sequence[float]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.heldout_fraction = HELDOUT
  config.num_steps = steps
  config.steps_per_call = min(steps, 30)
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


def program_config(program: str, scale: Scale) -> Any:
  """Steps of a program of PROGRAMS; of PPO, those of a round."""
  spec, items = PROGRAMS[program]
  config = config_lib.load(spec)
  config.task = ml_collections.ConfigDict(tasks.defaults(**TARGET))
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config_lib.override(config, items)
  steps = {'sft': scale.sft_steps, 'ppo': scale.steps // 2}
  return _shared(config, scale, steps.get(program, scale.steps))


class Bench:
  """Stages of one lab's seeds.

  rates  {arm: its rate}: of the arms that others go on from
  """

  def __init__(self, runs: lab.Lab, scale: Scale, rates: Mapping[str, float]):
    self.runs, self.scale, self.rates = runs, scale, rates

  def base(self) -> lab.Trained:
    """A base of each seed's own."""
    own = self.scale.all(self.runs)
    made = own.train('base', base_config(self.scale))
    return lab.shared(self.runs, made, lab.own_rows(self.runs, own))

  def start(self, arm: str) -> lab.Trained:
    """Where an arm begins; those of tuning and run train in one program."""
    after = WAYS[arm].after
    if not after:
      return self.base()
    own = self.scale.all(self.runs)
    made = Bench(own, self.scale, self.rates).train(after, self.rates[after])
    return lab.shared(self.runs, made[-1], lab.own_rows(self.runs, own))

  def train(self, arm: str, rates: Rates) -> list[lab.Trained]:
    """An arm after each of its rounds, of which only PPO has more than one.

    rates  one for all seeds, or one a seed
    """
    way = WAYS[arm]
    config = program_config(way.program, self.scale)
    start = self.start(arm)
    if way.program != 'ppo':
      return [self.runs.train(way.program, config, start, {RATE: rates})]
    carried = self.rounds(arm, rates, start, config)
    return [x.models['policy'] for x in carried]

  def rounds(
    self, arm: str, rates: Rates, start: lab.Trained, config: Any
  ) -> list[lab.Carry]:
    """Rounds of PPO, with the audit between them where it is audited."""
    way, count = WAYS[arm], len(self.runs.seeds)
    numbers = {name: (x,) * count for name, x in zip(PARTS, way.weights)}
    stages: list[Any] = [
      lab.Train('policy', config, roles={'ref': 'start'},
                hparams={RATE: rates, **dict(zip(NUMBERS, PARTS))}),
    ]  # fmt: skip
    if way.audited:
      features = PARTS[1:]
      look = measures.Audit(
        model=self._model, task=tasks.make(**TARGET), features=features,
        before=RUBRIC[1:], num_problems=128, samples=1,
        heldout_fraction=HELDOUT,
      )  # fmt: skip
      gives = {name: f'weight/{name}' for name in features}
      stages.append(lab.Look('policy', look, gives))
    carry = lab.Carry({'policy': start, 'start': start}, numbers)
    return lab.rounds(self.runs, stages, way.rounds, carry)

  def weights(self, arm: str, rate: float) -> list[dict[str, Any]]:
    """{part: [S]} after each round."""
    config = program_config('ppo', self.scale)
    carried = self.rounds(arm, rate, self.start(arm), config)
    return [
      {name: np.asarray(x.numbers[name]) for name in PARTS} for x in carried
    ]

  @property
  def _model(self) -> Any:
    return build.build(base_config(self.scale)).model

  def probe(self, part: str) -> Parts:
    """Of policies, on strings."""
    return Parts(
      model=self._model, task=tasks.make(**TARGET), parts=PARTS[1:],
      num_problems=self.scale.problems, heldout_fraction=HELDOUT, part=part,
    )  # fmt: skip

  def right(self, stage: lab.Trained, part: str) -> dict[str, np.ndarray]:
    """What `Parts` says, by seed."""
    found = self.runs.measure(stage, self.probe(part), split=part)
    return {name: np.asarray(x) for name, x in found.items()}

  def skills(self, stage: lab.Trained, part: str) -> np.ndarray:
    """[S] share of right answers to what else the base can do."""
    shares = []
    for task in SKILLS.values():
      probe = measures.Probe(
        model=self._model, task=tasks.make(**task),
        num_problems=self.scale.problems, samples=1,
        batch=self.scale.problems, heldout_fraction=HELDOUT,
        measures=('accuracy',), part=part, by_problem=True,
      )  # fmt: skip
      found = self.runs.measure(stage, probe, split=part)
      shares.append(np.asarray(found['accuracy/problems']))
    return np.concatenate(shares, axis=1)

  def values(
    self, stage: lab.Trained, part: str
  ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """({measure: [S]} in %, {measure: [S, N]} shares by problem)."""
    base = self.base()
    found, first = self.right(stage, part), self.right(base, part)
    able, skills = self.skills(base, part), self.skills(stage, part)
    total = sum(RUBRIC)
    paid = lambda seen: sum(
      100.0 * x * seen[name] / total
      for name, x in zip(PARTS, RUBRIC)
      if name in seen
    )
    mean = lambda x: 100.0 * x.mean(1)
    values = {
      'gold': 100.0 * found['right'],
      'gained': 100.0 * (found['right'] - first['right']),
      'score': 100.0 * found['score'],
      'vowels': 100.0 * found['vowels'],
      'rubric': paid(found),
      'paid': paid(found) - paid(first),
      'skills': mean(skills),
      'lost': mean(able) - mean(skills),
      'length': found['length'],
    }
    return values, {'gold': found['right/problems'], 'skills': skills}
