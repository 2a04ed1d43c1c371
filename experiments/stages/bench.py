"""Stages of training and what is measured of them, on one `Lab`."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.stages.probe import Likelihoods
from experiments.stages.settings import (
  COUNT,
  DEMOS,
  DRAW,
  FAULTY,
  FEW,
  GROUP,
  KNOWS,
  LISTS,
  MANY,
  NEW,
  OLD,
  OTHERS,
  RATE,
  SHOWS,
  SLIPS,
  STEPS,
  TEMPERATURE,
  WAYS,
  Scale,
  Way,
)
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = ['Bench', 'base_config', 'stage_config']

Rate = float | Sequence[float]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  config.model.preset = scale.preset
  config.num_steps = steps
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = min(steps, 25)
  config.eval.num_problems = 0
  config.problems.count = 1  # how many there are is an input of the program
  return config


def base_config(scale: Scale, steps: int) -> Any:
  """Demonstrations of sums in formats that the weights tell, and of lists."""
  config = sft.get_config()
  sums = {k: NEW[k] for k in ('name', 'num_digits', 'least_digits', 'program')}
  parts = {
    'sums': {**tasks.defaults(**sums), 'weight': 1.0},
    'lists': {**tasks.defaults(**OLD), 'weight': LISTS},
  }
  config.task = ml_collections.ConfigDict({'name': 'mixture', 'parts': parts})
  config.prompts_per_step = scale.base_rows
  return _shared(config, scale, steps)


def _weights(weights: Mapping[str, float]) -> dict[str, float]:
  return {f'task.parts.sums.{name}': x for name, x in weights.items()}


def stage_config(way: Way, scale: Scale, steps: int) -> Any:
  """A stage on the new task."""
  config = config_lib.load(way.spec)
  config.task = ml_collections.ConfigDict(tasks.defaults(**NEW))
  config.prompts_per_step = way.prompts
  config.group_size = way.group
  if way.writer:
    config.others = ml_collections.ConfigDict({'writer': ''})
  config_lib.override(config, way.items)
  return _shared(config, scale, steps)


class Bench:
  """Bases, stages and measures of them.

  runs   the lab: the study's seeds, or those of its tuning, a row of the
         programs for each cell of a grid and seed
  scale  the sizes of a mode

  Every seed has a base of its own, which its arms share; those of the study
  and of its tuning train in one program.
  """

  def __init__(self, runs: lab.Lab, scale: Scale):
    self.runs, self.scale = runs, scale
    first = scale.first_seed
    own = range(first, first + scale.seeds)
    self._bases = lab.of_all(runs, scale.tune_seeds, own)

  def base(self) -> lab.Trained:
    """Models that know columns and mostly give the plain sum."""
    start = None
    everything = {COUNT: MANY, DRAW: self._draws(self._bases, 0)}
    for name, steps, rate, weights in zip(
      ('knows', 'base'), self.scale.base_steps, (3e-3, 1e-3), (KNOWS, SHOWS)
    ):
      start = self._bases.train(
        name, base_config(self.scale, steps), start,
        {RATE: rate, **everything, **_weights(weights)},
      )  # fmt: skip
    assert start is not None
    rows = lab.own_rows(self.runs, self._bases)
    return lab.shared(self.runs, start, rows)

  @staticmethod
  def _draws(runs: lab.Lab, kind: int) -> list[float]:
    """Which problems a set holds: others for every seed and kind."""
    return [float(2 * seed + kind) for seed in runs.seeds]

  def arm(self, name: str, rates: Mapping[str, float]) -> lab.Trained:
    """The last stage of an arm, each of its stages at the rate of `rates`."""
    return self.stage(name, rate_of(name, rates), rates)

  def stage(
    self, name: str, rate: Rate, rates: Mapping[str, float]
  ) -> lab.Trained:
    """An arm whose last stage has this rate (one, or one a row)."""
    own, scale = STEPS[name], self.scale
    way = WAYS[own.way]
    steps = max(1, round(own.steps * scale.steps))
    start = self.arm(own.after, rates) if own.after else self.base()
    writer = {'writer': self.arm(own.writer, rates)} if way.writer else None
    count, kind, slips = {
      DEMOS: (scale.demos, 0, FAULTY),
      FEW: (scale.few, 0, 0.0),
      OTHERS: (scale.pairs, 1, 0.0),
    }[own.problems]
    return self.runs.train(
      name,
      stage_config(way, scale, steps),
      start,
      {
        RATE: rate,
        COUNT: float(count),
        DRAW: self._draws(self.runs, kind),
        SLIPS: slips,
        **dict(way.hparams),
      },
      writer,
    )

  def stages(self, name: str, rates: Mapping[str, float]) -> list[lab.Trained]:
    """All stages of an arm, and of whoever wrote answers for it, each once."""
    names, ask = [], [name]
    while ask:
      now = ask.pop()
      if now and now not in names:
        names.append(now)
        ask += [STEPS[now].after, STEPS[now].writer]
    return [self.arm(x, rates) for x in reversed(names)]

  def _probe(self, task: Mapping[str, Any], **keys: Any) -> measures.Probe:
    config = base_config(self.scale, 1)
    return measures.Probe(
      model=build.build(config).model,
      task=tasks.make(**task),
      num_problems=self.scale.problems,
      samples=1,
      batch=self.scale.problems,
      heldout_fraction=config.heldout_fraction,
      **keys,
    )

  def probe(self, part: str) -> measures.Probe:
    """One answer to each held-out problem of the new task."""
    return self._probe(
      NEW, temperature=TEMPERATURE, measures=('accuracy',), part=part,
      by_problem=True,
    )  # fmt: skip

  def right(self, stage: lab.Trained, part: str = 'test') -> np.ndarray:
    """[S, N] 1.0 where the answer to a problem is right."""
    found = self.runs.measure(stage, self.probe(part), split=part)
    return np.array(found['accuracy/problems'])

  def kept(
    self, stage: lab.Trained, part: str = 'test'
  ) -> tuple[np.ndarray, np.ndarray]:
    """([S, N] 1.0 where the greedy answer to an old problem is right, [S] KL of
    the base to the stage on the base's answers to them, nats a token)."""
    probe = self._probe(
      OLD, measures=('accuracy_greedy', 'kl_forward'), part=part,
      by_problem=True,
    )  # fmt: skip
    found = self.runs.measure(stage, probe, self.base(), part)
    return (
      np.array(found['accuracy_greedy/problems']),
      np.array(found['kl_forward']),
    )

  def moved(
    self, stage: lab.Trained, start: lab.Trained, part: str = 'test'
  ) -> dict[str, np.ndarray]:
    """{'chosen', 'rejected'}: [S] nats that a stage moved answers of its start
    by; 'pairs', the share of problems that have such a pair."""
    config = base_config(self.scale, 1)
    probe = Likelihoods(
      build.build(config).model, tasks.make(**NEW), self.scale.problems,
      config.heldout_fraction, GROUP, part,
    )  # fmt: skip
    found = self.runs.measure(stage, probe, start, part)
    return {name: np.array(x) for name, x in found.items()}


def rate_of(name: str, rates: Mapping[str, float]) -> float:
  """The rate of an arm's last stage: its own, or a share of another arm's."""
  own = STEPS[name]
  return own.share * rates[own.rate_of] if own.rate_of else rates[name]
