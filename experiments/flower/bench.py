"""Bases, stages and exact measures of them, on one `Lab`."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.flower.settings import (
  EVEN,
  HEAT,
  RATE,
  TASK,
  TOP,
  WAYS,
  Scale,
  Way,
)
from experiments.flows import probes
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = ['Bench', 'base_config', 'stage_config']


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  config.task = ml_collections.ConfigDict(tasks.defaults(**TASK))
  config.model.preset = scale.preset
  config.num_steps = steps
  config.steps_per_call = min(steps, 50)
  config.eval.num_problems = 0
  return config


def base_config(scale: Scale) -> Any:
  """SFT on names, each as often, to a rate of nothing."""
  config = sft.get_config()
  config.prompts_per_step = scale.base_rows
  config.optimizer.schedule = 'cosine'
  config = _shared(config, scale, scale.base_steps)
  config.task.update(EVEN)
  return config


def stage_config(way: Way, scale: Scale) -> Any:
  """What an arm does after the base."""
  config = config_lib.load(way.spec)
  config.prompts_per_step = scale.rows
  config.group_size = way.group
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 10
  config = _shared(config, scale, scale.steps)
  config.task.update(dict(way.task))
  config_lib.override(config, way.items)
  return config


class Bench:
  """Bases, stages and measures.

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
    """Models that know the names, each as likely, and stop."""
    made = self._bases.train('base', base_config(self.scale),
                             hparams={RATE: 3e-3})  # fmt: skip
    return lab.shared(self.runs, made, lab.own_rows(self.runs, self._bases))

  def stage(self, name: str, rate: float | Sequence[float]) -> lab.Trained:
    """An arm at this rate (one, or one a row)."""
    config = stage_config(WAYS[name], self.scale)
    return self.runs.train(name, config, self.base(), {RATE: rate})

  def measured(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    """{measure: [S]} of all names; at all temperatures of HEAT."""
    model = build.build(base_config(self.scale)).model
    task = tasks.make(**TASK)
    # How many names are different in some tries is not asked here.
    probe = probes.Names(model, task, TOP, tries=1, heat=HEAT)
    found = self.runs.measure(stage, probe)
    return {name: np.array(x) for name, x in found.items()}
