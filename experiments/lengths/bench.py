"""Stages of training and what is measured of them, on one `Lab`."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.lengths.probe import Lengths
from experiments.lengths.settings import (
  BUDGET,
  COUNT,
  DRAW,
  FREE,
  GROUP,
  HEAT,
  HELDOUT,
  KNOWN_FREE,
  KNOWN_SHORT,
  MANY,
  NEW,
  PROMPTS,
  RATE,
  ROWS,
  SHARE,
  SMALL,
  STEPS,
  WAYS,
  Scale,
  Way,
)
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import conditioned

__all__ = ['Bench', 'base_config', 'rate_of', 'stage_config']

Rate = float | Sequence[float]
# Of the stages of a base: the task, the rate, the share of short chains, and of
# those without a question.
_BASE = (
  ('knows', SMALL, 3e-3, KNOWN_SHORT, KNOWN_FREE),
  ('base', NEW, 1e-3, 1.0, 0.0),
)


def _shared(
  config: Any, scale: Scale, steps: int, task: Mapping[str, Any], asks: str
) -> Any:
  config.task = ml_collections.ConfigDict(tasks.defaults(**task))
  mode = {**conditioned.knobs('mode'), 'share': 0.0, 'asks': asks}
  config.condition = ml_collections.ConfigDict({'name': 'mode', **mode})
  config.heldout_fraction = HELDOUT
  config.model.preset = scale.preset
  config.num_steps = steps
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = min(steps, 25)
  config.eval.num_problems = 0
  config.problems.count = 1  # how many there are is an input of the program
  return config


def base_config(scale: Scale, steps: int, task: Mapping[str, Any]) -> Any:
  """Demonstrations in the forms that the inputs tell."""
  config = sft.get_config('recipe=qfft')
  config.prompts_per_step = scale.base_rows
  return _shared(config, scale, steps, task, 'neutral')


def stage_config(way: Way, scale: Scale, steps: int) -> Any:
  """A stage on the new task."""
  config = config_lib.load(way.spec)
  config.prompts_per_step = PROMPTS if way.rl else ROWS
  if way.rl:
    config.group_size = GROUP
    config.rewards = way.rewards
    config.decoder.temperature = HEAT
  return _shared(config, scale, steps, NEW, way.asks)


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
    """Models that know both forms of chains and write short ones."""
    start = None
    for (name, task, rate, short, free), steps in zip(
      _BASE, self.scale.base_steps
    ):
      start = self._bases.train(
        name, base_config(self.scale, steps, task), start,
        {RATE: rate, SHARE: short, FREE: free, COUNT: MANY,
         DRAW: self._draws(self._bases, 0)},
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
    start = self.arm(own.after, rates) if own.after else self.base()
    steps = scale.steps if way.rl else scale.sft_steps()
    # Fewer passes are a longer run as it was then.
    early = [scale.sft_steps(i) for i in (0, 1)] if own.way == 'long' else []
    count, kind = (MANY, 1) if way.rl else (float(scale.demos), 0)
    made = self.runs.train(
      own.way,
      stage_config(way, scale, steps),
      start,
      {
        RATE: rate,
        COUNT: count,
        DRAW: self._draws(self.runs, kind),
        **dict(way.hparams),
      },
      snapshots=early,
    )
    now = steps if way.rl else scale.sft_steps(own.passes)
    return made if now == steps else made.snapshots[now]

  def stages(self, name: str, rates: Mapping[str, float]) -> list[lab.Trained]:
    """All stages of an arm, the first one first."""
    after = STEPS[name].after
    before = self.stages(after, rates) if after else []
    return [*before, self.arm(name, rates)]

  def probe(self, part: str, asks: str = 'neutral') -> Lengths:
    """A greedy answer to each held-out problem; a form may be asked for."""
    config = base_config(self.scale, 1, NEW)
    mode = dict(config.condition) | {'asks': asks}
    task = conditioned.wrap(tasks.make(**NEW), **mode)
    return Lengths(
      build.build(config).model, task, self.scale.problems, HELDOUT, part
    )

  def answers(
    self, stage: lab.Trained, part: str = 'test', asks: str = 'neutral'
  ) -> dict[str, np.ndarray]:
    """[S, N] each, as `Lengths` says; and 'tight', 1.0 where an answer is right
    within the budget of tokens."""
    found = self.runs.measure(stage, self.probe(part, asks), split=part)
    made = {name: np.array(x) for name, x in found.items()}
    return made | {'tight': made['right'] * (made['length'] <= BUDGET)}


def rate_of(name: str, rates: Mapping[str, float]) -> float:
  """The rate of an arm's last stage: its own, or a share of another's."""
  own = STEPS[name]
  return own.share * rates[own.rate_of] if own.rate_of else rates[name]
