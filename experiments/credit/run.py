r"""Does credit for the steps of a chain pay?

python -m experiments.credit.run             # full
python -m experiments.credit.run --reduced   # two minutes of one core

README.md has the question and the reading, design.py the arms, sizes and
claims, probe.py the measure under budgets.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.credit import shown
from experiments.credit.design import (
  ANSWER,
  BUDGETS,
  CLOSE,
  FREE,
  GROUP,
  PROGRAMS,
  PROMPTS,
  RATE,
  READING,
  SCALES,
  STUDY,
  TASK,
  WAYS,
  WRITER,
  Scale,
)
from experiments.credit.probe import Budgets
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def _shared(config: Any, scale: Scale, steps: int, **writer: float) -> Any:
  """What all stages have in common.

  writer  of demonstrations; those of arms are right, and whole
  """
  config.task = ml_collections.ConfigDict(tasks.defaults(**TASK, **writer))
  config.model.preset = scale.preset
  config.num_steps = steps
  config.eval.num_problems = 0
  config.steps_per_call = min(steps, 50)
  return config


def base_config(scale: Scale) -> Any:
  """SFT on what a writer says who errs by one and may stop to think early, to a
  rate of nothing."""
  config = sft.get_config()
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = scale.base_rate
  config.optimizer.schedule = 'cosine'
  return _shared(config, scale, scale.base_steps, **WRITER)


def arm_config(program: str, scale: Scale) -> Any:
  """Steps of as many own answers, or of one demonstration a problem."""
  spec, items = PROGRAMS[program]
  config = config_lib.load(spec)
  config.prompts_per_step = PROMPTS
  if config.paradigm == 'rl':
    config.group_size = GROUP
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 5
  config_lib.override(config, items)
  return _shared(config, scale, scale.steps)


def critic_config(program: str, scale: Scale) -> Any:
  """The arm's own steps, in which its value head alone moves."""
  config = arm_config(program, scale)
  config.num_steps = scale.critic_steps
  config.steps_per_call = min(scale.critic_steps, 50)
  config.optimizer.lr = scale.critic_rate
  config.optimizer.freeze = ('(?!value_head).*',)
  config.value_loss.clip_value = FREE
  return config


def start_of(runs: lab.Lab, scale: Scale, critic: str = '') -> lab.Trained:
  """A base of each seed's own; those of run and tuning train in one program.

  critic  the arm whose critic it has besides
  """
  own = runs.beside(scale.base_seeds)
  made = own.train('base', base_config(scale))
  if critic:
    way = WAYS[critic]
    config = critic_config(way.program, scale)
    made = own.train('critic', config, made, dict(way.hparams))
  return lab.shared(runs, made, lab.own_rows(runs, own))


def train_arm(
  runs: lab.Lab, arm: str, rate: float | list[float], scale: Scale
) -> lab.Trained:
  """rate  one for all seeds, or one a seed"""
  way = WAYS[arm]
  return runs.train(
    way.program,
    arm_config(way.program, scale),
    start_of(runs, scale, way.critic),
    {RATE: rate, **dict(way.hparams)},
  )


def stages_of(
  runs: lab.Lab, stage: lab.Trained, arm: str, scale: Scale
) -> list[lab.Trained]:
  """What an arm costs: itself, and its critic."""
  critic = WAYS[arm].critic
  return [start_of(runs, scale, critic), stage] if critic else [stage]


class Judge:
  """Measures stages on held-out problems."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    self.probe = Budgets(
      model=build.build(base.config).model,
      task=tasks.make(**TASK),
      num_problems=scale.problems,
      heldout_fraction=base.config.heldout_fraction,
      temperature=1.0,
      part='test',
      budgets=BUDGETS,
      answer=ANSWER,
    )

  def found(self, stage: lab.Trained, part: str) -> dict[str, np.ndarray]:
    """What `Budgets` says, by seed."""
    probe = dataclasses.replace(self.probe, part=part)
    found = self._lab.measure(stage, probe, split=part)
    return {name: np.asarray(x) for name, x in found.items()}


def values_of(
  found: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Values [S] of a stage, of what it and its base were found to be."""
  right = found['accuracy']
  return {
    'accuracy': 100.0 * right,
    'gain': 100.0 * (right - start['accuracy']),
    'regret': 100.0 * found['regret'],
    'length': found['length'],
    'price': found['length'] / np.maximum(right, 1e-3),
  }


def learning(stage: lab.Trained) -> np.ndarray:
  """[S, steps] accuracy of the own answers of each step, in %: problems that
  are met for the first time."""
  curves = stage.curves
  key = next(
    x for x in ('rewards/verifier/mean', 'reward') if x in curves
  )  # fmt: skip
  return 100.0 * curves[key]


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tuned, and {arm: {rate: values of its tuning seeds}}."""

  rates: Mapping[str, lab.Tuned]
  values: Mapping[str, Mapping[float, Mapping[str, np.ndarray]]]
  start: Mapping[str, np.ndarray]


def tune(runs: lab.Lab, scale: Scale) -> Tuning:
  """The rates of all arms, with seeds of their own, several rates side by side
  in the program of the runs."""
  count = len(scale.tuning_seeds)
  places = scale.seeds // count
  own = runs.beside(scale.tuning_seeds * places)
  base = start_of(own, scale)
  judge = Judge(own, base, scale)
  start = judge.found(base, 'validation')
  values: dict[str, dict[float, Any]] = {arm: {} for arm in scale.arms}

  def cells_of(arm: str) -> lab.Cells:
    waiting: list[lab.Trained] = []

    def train(rates):
      stage = train_arm(own, arm, rates[RATE], scale)
      found = values_of(judge.found(stage, 'validation'), start)
      if WAYS[arm].family != 'sft':
        found['curve'] = learning(stage).mean(1)
      for place, rate in enumerate(rates[RATE][::count]):
        rows = slice(place * count, (place + 1) * count)
        values[arm][rate] = {name: x[rows] for name, x in found.items()}
      waiting.append(stage)
      return stage

    score = lambda stage: judge.found(stage, 'validation')['accuracy']
    return lab.Cells(train, score, places, count)

  cells = {arm: cells_of(arm) for arm in scale.arms}
  rates = lab.tune_cells(cells, RATE, scale.grid, scale.extend, CLOSE)
  few = {name: x[:count] for name, x in start.items()}
  return Tuning(rates, values, values_of(few, few))


def make_arm(
  judge: Judge, arm: str, stages: Sequence[lab.Trained], tuned: lab.Tuned,
  start: Mapping[str, np.ndarray],
) -> tuple[lab.Arm, np.ndarray]:  # fmt: skip
  """(the arm, [S, budgets] accuracy in % under each)."""
  way, stage = WAYS[arm], stages[-1]
  spec, items = PROGRAMS[way.program]
  found = judge.found(stage, 'test')
  values = values_of(found, start)
  if way.family != 'sft':
    values['curve'] = learning(stage).mean(1)
  made = lab.Arm(
    label=way.label,
    family=way.family,
    config=spec,
    overrides=dict(items) | dict(way.hparams),
    values=values,
    account=lab.total_account(stages),
    tuned={RATE: tuned.entry},
    outcomes={
      'accuracy': found['accuracy/problems'],
      'regret': found['regret/problems'],
    },
  )
  return made, 100.0 * found['accuracy/budgets']


def base_arm(
  base: lab.Trained, start: Mapping[str, np.ndarray]
) -> tuple[lab.Arm, np.ndarray]:
  """As `make_arm`, of where all arms start."""
  made = lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides=dict(WRITER), values=values_of(start, start),
    account=base.account,
    outcomes={
      'accuracy': start['accuracy/problems'],
      'regret': start['regret/problems'],
    },
  )  # fmt: skip
  return made, 100.0 * start['accuracy/budgets']


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuned = tune(runs, scale).rates
  base = start_of(runs, scale)
  judge = Judge(runs, base, scale)
  start = judge.found(base, 'test')
  arms, cuts, curves = {}, {}, {}
  arms['base'], cuts['base'] = base_arm(base, start)
  for arm in scale.arms:
    stage = train_arm(runs, arm, tuned[arm].chosen, scale)
    stages = stages_of(runs, stage, arm, scale)
    arms[arm], cuts[arm] = make_arm(judge, arm, stages, tuned[arm], start)
    if 'curve' in arms[arm].values:
      curves[arm] = learning(stage)
  drawn = shown.figures(arms, cuts, curves)
  problems = {'sums': lab.of_probe(runs, judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, drawn, reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
