"""Stages of training and what is measured of them, on one `Lab`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.budget.probe import Judged
from experiments.budget.settings import WANTED, Scale, Setting
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

DIGITS = 2
# What a base has seen: first several formats, then mostly plain sums, so that
# it can do more than it shows; and how much in the format that is wanted.
KNOWS, KNOWN = dict(direct=0.2, reverse=0.3), 0.5
SHOWS, SHOWN = dict(direct=0.85, reverse=0.07), 0.08
ROWS = 32  # demonstrations or pairs of a step
GROUP = 4  # answers that a pair is chosen from
TEMPERATURE = 0.5  # of the measured answers
RATE, BETA, COUNT = 'optimizer.lr', 'loss.beta', 'problems.count'
DRAW = 'problems.seed'  # which problems a set holds: others for every seed
MANY = 2.0**24  # problems of the base, and of the strong writer
SFT, DPO = 'configs/sft.py:recipe=sft', 'configs/preference.py:recipe=dpo'


def task_entry(wanted: str = '') -> dict[str, Any]:
  """The task of all stages; weights and slips are inputs of a program."""
  return tasks.defaults(
    'formats', num_digits=DIGITS, least_digits=DIGITS, wanted=wanted
  )


def writes(
  weights: Mapping[str, float], slips: float = 0.0
) -> dict[str, float]:
  """The hparams of a writer of demonstrations."""
  names = ('direct', 'reverse', 'columns', 'program')
  found = {f'task.{name}': weights.get(name, 0.0) for name in names}
  return {**found, 'task.slips': slips}


def _shared(config: Any, preset: str) -> Any:
  config.model.preset = preset
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = 25
  config.eval.num_problems = 0
  config.problems.count = 1  # how many there are is an input of the program
  return config


def sft_config(preset: str, steps: int) -> Any:
  config = sft.get_config()
  config.task = ml_collections.ConfigDict(task_entry())
  config.num_steps = steps
  config.prompts_per_step = ROWS
  return _shared(config, preset)


def dpo_config(wanted: str, preset: str, steps: int) -> Any:
  """DPO on pairs of a model's answers: the best and the worst of GROUP."""
  config = config_lib.load(DPO)
  config.task = ml_collections.ConfigDict(task_entry(wanted))
  config.num_steps = steps
  config.prompts_per_step = ROWS
  config.group_size = GROUP
  config.others = ml_collections.ConfigDict({'writer': ''})
  config_lib.override(
    config,
    [('collect.sampler', 'writer'), ('collect.fixed', 'true')],
  )
  return _shared(config, preset)


class Bench:
  """Bases, stages and measures of them.

  runs   the lab: the study's seeds, or those of its tuning
  scale  the sizes of a mode

  Every seed has a base of each task and size of its own, which its arms share
  as those of the paper share a pretrained model; so intervals over seeds say
  something about pretraining too. Those of the study and of its tuning train
  in one program.
  """

  def __init__(self, runs: lab.Lab, scale: Scale):
    self.runs, self.scale = runs, scale
    first = scale.first_seed
    own = range(first, first + scale.seeds)
    self._bases = lab.of_all(runs, scale.tune_seeds, own)

  def _lent(self, trained: lab.Trained) -> lab.Trained:
    rows = lab.own_rows(self.runs, self._bases)
    return lab.shared(self.runs, trained, rows)

  def _own_base(self, own: Setting) -> lab.Trained:
    wanted, (knows, shows) = WANTED[own.task], self.scale.base_steps
    # The task is told by the weights alone.
    start = self._bases.train(
      f'knows-{own.preset}',
      sft_config(own.preset, knows),
      hparams={
        RATE: 3e-3,
        **_set(self._bases, MANY, 0),
        **writes(KNOWS | {wanted: KNOWN}),
      },
    )
    return self._bases.train(
      f'base-{own.preset}',
      sft_config(own.preset, shows),
      start,
      {
        RATE: 1e-3,
        **_set(self._bases, MANY, 0),
        **writes(SHOWS | {wanted: SHOWN}),
      },
    )

  def base(self, own: Setting) -> lab.Trained:
    """A model that knows what is wanted and mostly gives the plain sum."""
    return self._lent(self._own_base(own))

  def strong(self, own: Setting) -> lab.Trained:
    """A model that writes the wanted format and forgets what is carried now and
    then: whose answers are in pairs that are given (its work is free)."""
    writer = dataclasses.replace(own, level='fair').writer
    trained = self._bases.train(
      f'strong-{own.task}-{own.preset}',
      sft_config(own.preset, self.scale.strong_steps),
      self._own_base(own),
      {RATE: 1e-3, **_set(self._bases, MANY, 0), **writes(*writer)},
    )
    return self._lent(trained)

  def sft(self, own: Setting, count: int, rate: float) -> lab.Trained:
    """SFT on `count` demonstrations of the setting's writer, from the base."""
    steps = steps_of(count, self.scale.epochs['sft'])
    return self.runs.train(
      f'sft-{own.preset}-{count}',
      sft_config(own.preset, steps),
      self.base(own),
      {RATE: rate, **_set(self.runs, count, 0), **writes(*own.writer)},
    )

  def dpo(
    self,
    own: Setting,
    start: lab.Trained,
    count: int,
    values: Mapping[str, float],
  ) -> lab.Trained:
    """DPO on `count` pairs of answers of the start, or of the strong model.

    values  {BETA, RATE}
    """
    steps = steps_of(count, self.scale.epochs['dpo'])
    return self.runs.train(
      f'dpo-{own.task}-{own.preset}-{count}',
      dpo_config(WANTED[own.task], own.preset, steps),
      start,
      {**values, **_set(self.runs, count, 1)},
      roles={'writer': self.strong(own) if own.given else start},
    )

  def probe(self, own: Setting, part: str) -> Judged:
    config = sft_config(own.preset, 1)
    return Judged(
      model=build.build(config).model,
      task=tasks.make(**task_entry(WANTED[own.task])),
      num_problems=self.scale.problems,
      heldout_fraction=config.heldout_fraction,
      temperature=TEMPERATURE,
      part=part,
    )

  def measure(
    self, own: Setting, stage: lab.Trained, part: str = 'test'
  ) -> dict[str, np.ndarray]:
    """{'accuracy', 'form'} in %, [S], and 'problems' [S, N] of 0 and 1."""
    found = self.runs.measure(stage, self.probe(own, part), split=part)
    return {
      'accuracy': 100.0 * np.asarray(found['accuracy']),
      'form': 100.0 * np.asarray(found['form']),
      'problems': np.asarray(found['accuracy/problems']),
    }


def _set(runs: lab.Lab, count: float, kind: int) -> dict[str, Any]:
  """The first `count` demonstrations (kind 0) or pairs (1) of each seed."""
  draws = [float(2 * seed + kind) for seed in runs.seeds]
  return {COUNT: float(count), DRAW: draws}


def steps_of(count: int, epochs: float) -> int:
  """Optimizer steps in which `count` examples are read `epochs` times."""
  return max(1, round(count * epochs / ROWS))
