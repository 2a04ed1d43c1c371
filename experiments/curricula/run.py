r"""Does the order of problems matter to RL?

python -m experiments.curricula.run             # full
python -m experiments.curricula.run --reduced   # into runs/

README.md has the question and the reading, design.py the levels, arms, sizes
and claims, probe.py the measure by level.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.curricula import shown
from experiments.curricula.design import (
  BANDITS,
  BEST,
  CLOSE,
  EVEN,
  GROUP,
  LEVELS,
  PROGRAMS,
  PROMPTS,
  RATE,
  READING,
  SCALES,
  SEEN,
  SLIPS,
  STUDY,
  WAYS,
  Scale,
  levels,
  measure_of,
)
from experiments.curricula.probe import Levels
from posttrain_jax import curricula, lab
from posttrain_jax.core.resolve import part
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import tasks as run_tasks


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.num_steps = steps
  config.eval.num_problems = 0
  config.steps_per_call = min(steps, 50)
  return config


def base_config(scale: Scale) -> Any:
  """SFT on what a writer says who errs by one, mostly short sums, to a rate of
  nothing."""
  config = sft.get_config()
  config.task = levels(SEEN, SLIPS)
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = scale.base_rate
  config.optimizer.schedule = 'cosine'
  return _shared(config, scale, scale.base_steps)


def arm_config(program: str, scale: Scale) -> Any:
  """Steps of as many problems; SFT reads a right demonstration of each."""
  own = PROGRAMS[program]
  config = config_lib.load(own.spec)
  config.task = levels(own.weights)
  config.prompts_per_step = PROMPTS
  if config.paradigm == 'rl':
    config.group_size = GROUP
    config.reduce.name = 'token_mean'
  if own.curriculum:
    config.curriculum = ml_collections.ConfigDict(
      part(curricula, own.curriculum)
    )
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 5
  return _shared(config, scale, scale.steps)


def start_of(runs: lab.Lab, scale: Scale) -> lab.Trained:
  """A base of each seed's own: those of the run train in one program, and those
  of tuning in another, so that a pilot does not wait for the run's."""
  own = runs.beside(tuple(dict.fromkeys(runs.seeds)))
  made = own.train('base', base_config(scale))
  return lab.shared(runs, made, lab.own_rows(runs, own))


def train_arm(
  runs: lab.Lab, arm: str, rate: float | list[float], scale: Scale
) -> lab.Trained:
  """rate  one for all seeds, or one a seed"""
  way = WAYS[arm]
  return runs.train(
    way.program,
    arm_config(way.program, scale),
    start_of(runs, scale),
    {RATE: rate, **dict(way.hparams)},
  )


class Judge:
  """Measures stages on held-out problems of every level."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    self.probe = Levels(
      model=build.build(base.config).model,
      task=run_tasks.make_task(levels(EVEN)),
      each=scale.each,
      heldout_fraction=base.config.heldout_fraction,
      temperature=1.0,
      part='test',
    )

  def right(self, stage: lab.Trained, part: str) -> np.ndarray:
    """[S, levels, each] 1.0 where an answer is right."""
    probe = dataclasses.replace(self.probe, part=part)
    found = self._lab.measure(stage, probe, split=part)
    return np.asarray(found['accuracy/problems'])


def values_of(right: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
  """Values [S] of a stage, of its answers and those of its base.

  gain  on the level that gained most on average
  """
  share = 100.0 * right.mean(2)  # [S, levels]
  gained = share - 100.0 * start.mean(2)
  found = {measure_of(x): share[:, i] for i, x in enumerate(LEVELS)}
  most = int(np.argmax(gained.mean(0)))
  return {
    'accuracy': share.mean(1), 'gain': gained[:, most], **found
  }  # fmt: skip


def outcomes_of(right: np.ndarray) -> dict[str, np.ndarray]:
  """[S, N] that values are means of."""
  found = {measure_of(x): right[:, i] for i, x in enumerate(LEVELS)}
  return {'accuracy': right.reshape(len(right), -1), **found}


def score(right: np.ndarray) -> np.ndarray:
  """[S] what rates are chosen by: the mean of the levels that are drawn."""
  drawn = [i for i, weight in enumerate(EVEN) if weight]
  return right[:, drawn].mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tuned, and {arm: {rate: values of its tuning seeds}}.

  scores  {arm: mean score at its chosen rate}
  """

  rates: Mapping[str, lab.Tuned]
  values: Mapping[str, Mapping[float, Mapping[str, np.ndarray]]]
  start: Mapping[str, np.ndarray]
  scores: Mapping[str, float]

  @property
  def best(self) -> str:
    """Of BANDITS, as far as they are there."""
    return max((x for x in BANDITS if x in self.scores), key=self.scores.get)


def tune(runs: lab.Lab, scale: Scale) -> Tuning:
  """The rates of all arms, with seeds of their own, several rates side by side
  in the program of the runs."""
  count = len(scale.tuning_seeds)
  places = scale.seeds // count
  own = runs.beside(scale.tuning_seeds * places)
  base = start_of(own, scale)
  judge = Judge(own, base, scale)
  start = judge.right(base, 'validation')
  values: dict[str, dict[float, Any]] = {arm: {} for arm in scale.arms}

  def cells_of(arm: str) -> lab.Cells:
    def train(rates):
      stage = train_arm(own, arm, rates[RATE], scale)
      right = judge.right(stage, 'validation')
      for place, rate in enumerate(rates[RATE][::count]):
        rows = slice(place * count, (place + 1) * count)
        values[arm][rate] = values_of(right[rows], start[rows])
      return stage

    measure = lambda stage: score(judge.right(stage, 'validation'))
    return lab.Cells(train, measure, places, count)

  cells = {arm: cells_of(arm) for arm in scale.arms}
  rates = lab.tune_cells(cells, RATE, scale.grid, 0, CLOSE)
  scores = {
    arm: float(np.mean(cells[arm].score(x.tried[x.chosen])))
    for arm, x in rates.items()
  }
  few = start[:count]
  return Tuning(rates, values, values_of(few, few), scores)


def make_arm(
  judge: Judge, arm: str, stage: lab.Trained, tuned: lab.Tuned,
  start: np.ndarray,
) -> lab.Arm:  # fmt: skip
  way = WAYS[arm]
  right = judge.right(stage, 'test')
  program = PROGRAMS[way.program]
  named = {'curriculum.name': program.curriculum} if program.curriculum else {}
  return lab.Arm(
    label=way.label, family=way.family, config=program.spec,
    overrides={'task.weights': list(program.weights), **named}
    | dict(way.hparams),
    values=values_of(right, start), account=stage.account,
    tuned={RATE: tuned.entry}, outcomes=outcomes_of(right),
  )  # fmt: skip


def base_arm(base: lab.Trained, start: np.ndarray) -> lab.Arm:
  """Where all arms start."""
  return lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides={'task.weights': list(SEEN), 'slips': SLIPS},
    values=values_of(start, start), account=base.account,
    outcomes=outcomes_of(start),
  )  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuned = tune(runs, scale)
  base = start_of(runs, scale)
  judge = Judge(runs, base, scale)
  start = judge.right(base, 'test')
  arms, chances = {'base': base_arm(base, start)}, {}
  for arm in scale.arms:
    stage = train_arm(runs, arm, tuned.rates[arm].chosen, scale)
    arms[arm] = make_arm(judge, arm, stage, tuned.rates[arm], start)
    if PROGRAMS[WAYS[arm].program].curriculum:
      chances[arm] = shown.chances_of(stage)
  own = arms[tuned.best]
  arms[BEST] = dataclasses.replace(own, label=f'Best bandit: {own.label}')
  problems = {'sums': lab.of_probe(runs, judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(arms, chances), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
