"""Bases, stages and exact measures of them, on one `Lab`."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.flows import probes
from experiments.flows.settings import (
  BASES,
  HEAT,
  RATE,
  TASKS,
  TOP,
  TRIES,
  WAYS,
  Scale,
  Way,
)
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = ['Bench', 'base_config', 'stage_config']

Rate = float | Sequence[float]


def _shared(config: Any, part: str, scale: Scale, steps: int) -> Any:
  config.task = ml_collections.ConfigDict(tasks.defaults(**TASKS[part]))
  config.model.preset = scale.presets[BASES[part]]
  config.num_steps = steps
  config.steps_per_call = min(steps, 50)
  config.eval.num_problems = 0
  return config


def base_config(part: str, scale: Scale) -> Any:
  """SFT on demonstrations, to a rate of nothing."""
  part = BASES[part]
  config = sft.get_config()
  config.prompts_per_step = scale.base_rows
  config.optimizer.schedule = 'cosine'
  return _shared(config, part, scale, scale.base_steps[part])


def stage_config(way: Way, scale: Scale) -> Any:
  """What an arm does after the base."""
  config = config_lib.load(way.spec)
  config.prompts_per_step = way.rows
  config.group_size = way.group
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 10
  config = _shared(config, way.part, scale, scale.steps[way.part])
  config.task.update(dict(way.task))
  config_lib.override(config, way.items)
  return config


class Bench:
  """Bases, stages and measures of a part of the study.

  runs   the lab: the study's seeds, or those of its tuning, a row of the
         programs for each cell of a grid and seed
  scale  the sizes of a mode
  part   of settings.PARTS

  Every seed has a base of its own, which its arms share; those of the study
  and of its tuning train in one program.
  """

  def __init__(self, runs: lab.Lab, scale: Scale, part: str):
    self.runs, self.scale, self.part = runs, scale, part
    first = scale.first_seed
    own = range(first, first + scale.seeds)
    self._bases = lab.of_all(runs, scale.tune_seeds, own)

  def base(self) -> lab.Trained:
    """Models that know the form of answers, and stop."""
    made = self._bases.train(
      f'{BASES[self.part]}-base', base_config(self.part, self.scale),
      hparams={RATE: 3e-3},
    )  # fmt: skip
    rows = lab.own_rows(self.runs, self._bases)
    return lab.shared(self.runs, made, rows)

  def stage(self, name: str, rate: Rate) -> lab.Trained:
    """An arm at this rate (one, or one a row)."""
    way = WAYS[name]
    return self.runs.train(
      name, stage_config(way, self.scale), self.base(),
      {RATE: rate, **dict(way.hparams)},
    )  # fmt: skip

  def probe(self, split: str = 'test', temperature: float = 1.0) -> Any:
    """What a stage is measured by; names at all temperatures of HEAT."""
    config = base_config(self.part, self.scale)
    model, task = build.build(config).model, tasks.make(**TASKS[self.part])
    tries = TRIES[self.part]
    if self.part != 'picks':
      heat = HEAT if self.part == 'names' else (1.0,)
      return probes.Names(model, task, TOP, tries, heat)
    return probes.RightAnswers(
      model, task, self.scale.problems, tries, config.heldout_fraction, split,
      temperature,
    )  # fmt: skip

  def measured(
    self, stage: lab.Trained, split: str = 'test', temperature: float = 1.0
  ) -> dict[str, np.ndarray]:
    """{measure: [S], or [S, N] of problems}."""
    probe = self.probe(split, temperature)
    found = self.runs.measure(stage, probe, split=split)
    return {name: np.array(x) for name, x in found.items()}
