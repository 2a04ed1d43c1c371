r"""Does entropy that is held at a target pay?

python -m experiments.temperature.run             # full: seventeen minutes
python -m experiments.temperature.run --reduced   # a minute or two
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.temperature import shown
from experiments.temperature.design import (
  BEST,
  CLOSE,
  GROUP,
  HELD_AT,
  JUDGED_AT,
  NEAREST,
  PROGRAMS,
  PROMPTS,
  RATE,
  READING,
  SCALES,
  STUDY,
  TASK,
  WAYS,
  Scale,
)
from posttrain_jax import controllers, lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

SAMPLES = 8


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.task = ml_collections.ConfigDict(tasks.defaults(**TASK))
  config.model.preset = scale.preset
  config.num_steps = steps
  config.eval.num_problems = 0
  config.steps_per_call = scale.per_call
  return config


def base_config(scale: Scale) -> Any:
  """SFT on demonstrations, to a rate of nothing."""
  config = sft.get_config()
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'cosine'
  return _shared(config, scale, scale.base_steps)


def arm_config(program: str, scale: Scale) -> Any:
  """One step of RL a batch of own answers."""
  spec, items = PROGRAMS[program]
  config = config_lib.load(spec)
  config.prompts_per_step = PROMPTS
  config.group_size = GROUP
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 10
  config_lib.override(config, items)
  return _shared(config, scale, scale.steps)


def bases_of(runs: lab.Lab, scale: Scale) -> dict[str, lab.Trained]:
  """Two starts of seeds of their own, which the seeds take turns to start from:
  the end of SFT, and SFT that was stopped early."""
  own = runs.beside(scale.base_seeds)
  made = own.train('base', base_config(scale), snapshots=(scale.weak_steps,))
  # A seed that stands there several times has one start.
  seeds = list(dict.fromkeys(runs.seeds))
  rows = [seeds.index(seed) % len(own.seeds) for seed in runs.seeds]
  strong = lab.shared(runs, made, rows)
  return {'strong': strong, 'weak': strong.snapshots[scale.weak_steps]}


def kl_average(low: float, high: float, turn: float, steps: int) -> float:
  """Mean coefficient of the steps of a run under `controllers.dynamic_kl`."""
  made = controllers.dynamic_kl(low=low, high=high, turn=turn)
  state, values = made.init(), []
  for step in range(1, steps + 1):
    values.append(float(made.value(state)))
    state, _ = made.update(state, {}, step, steps)
  return float(np.mean(values))


def hparams_of(arm: str, scale: Scale) -> dict[str, float]:
  """The numbers of an arm. That of a moving KL weight is its average, which its
  schedule from 0 is stretched to."""
  found = dict(WAYS[arm].hparams)
  average = found.pop('average', None)
  if average is not None:
    turn = found['kl_controller.turn']
    constant = found.pop('constant')
    whole = kl_average(0.0, 1.0, turn, scale.steps)
    found['kl_controller.low'] = average if constant else 0.0
    found['kl_controller.high'] = average if constant else average / whole
  return found


def train_arm(
  runs: lab.Lab, bases: Mapping[str, lab.Trained], arm: str,
  rate: float | list[float], scale: Scale,
) -> lab.Trained:  # fmt: skip
  """rate  one for all seeds, or one a seed"""
  way = WAYS[arm]
  return runs.train(
    f'{way.program}-{way.start}',
    arm_config(way.program, scale),
    bases[way.start],
    {RATE: rate, **hparams_of(arm, scale)},
  )


class Judge:
  """Measures stages on held-out problems."""

  def __init__(
    self, runs: lab.Lab, bases: Mapping[str, lab.Trained], scale: Scale
  ):
    self._lab, self._start = runs, bases['strong']
    common: dict[str, Any] = dict(
      model=build.build(self._start.config).model,
      task=tasks.make(**TASK),
      num_problems=scale.problems,
      samples=SAMPLES,
      batch=scale.problems,
      heldout_fraction=self._start.config.heldout_fraction,
    )
    self.probe = measures.Probe(
      part='test', temperature=JUDGED_AT, measures=('accuracy',),
      by_problem=True, **common,
    )  # fmt: skip
    self._more = measures.Probe(
      part='test', measures=('pass@k', 'entropy', 'kl_reverse'), **common
    )

  def right(self, stage: lab.Trained, part: str) -> np.ndarray:
    """[S, N] share of the answers to a problem that are right."""
    probe = dataclasses.replace(self.probe, part=part)
    found = self._lab.measure(stage, probe, split=part)
    return np.array(found['accuracy/problems'])

  def more(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    """{measure: [S]} at temperature 1; the KL is to the strong start."""
    found = self._lab.measure(stage, self._more, self._start)
    return {
      'pass8': 100.0 * np.array(found[f'pass@{SAMPLES}']),
      'entropy': np.array(found['entropy']),
      'kl': np.array(found['kl_reverse']),
    }


def miss(entropy: np.ndarray, target: float) -> np.ndarray:
  """[S] how far the entropy [S, steps] of the second half of a run is from a
  target: the mean over steps of the distance, in % of the target."""
  late = entropy[:, entropy.shape[1] // 2 :]
  return 100.0 * np.mean(np.abs(late - target), axis=1) / target


def values_of(
  judge: Judge, stage: lab.Trained, start: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """(values [S], [S, N] share of right answers).

  start  [S, N] of where the arm starts
  """
  right = judge.right(stage, 'test')
  values = {
    'accuracy': 100.0 * right.mean(1),
    'gain': 100.0 * (right.mean(1) - start.mean(1)),
  }
  return values | judge.more(stage), right


def trained_values(stage: lab.Trained) -> dict[str, np.ndarray]:
  """Values [S] of an arm's training: of the distribution that it samples."""
  entropy = stage.curves['entropy']
  late = entropy[:, entropy.shape[1] // 2 :]
  return {'held': late.mean(1), 'miss': miss(entropy, HELD_AT)}


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tuned, with a judge of its seeds, and {arm: {rate: curves of the
  entropy [seeds, steps]}}."""

  rates: Mapping[str, lab.Tuned]
  scores: Mapping[str, Mapping[float, np.ndarray]]
  entropy: Mapping[str, Mapping[float, np.ndarray]]


def tune(runs: lab.Lab, scale: Scale) -> Tuning:
  """The rates of all arms, with seeds of their own, several rates side by side
  in the program of the runs."""
  count = len(scale.tuning_seeds)
  own = runs.beside(scale.tuning_seeds * (scale.seeds // count))
  bases = bases_of(own, scale)
  judge = Judge(own, bases, scale)
  entropy: dict[str, dict[float, np.ndarray]] = {x: {} for x in scale.arms}

  def cells_of(arm: str) -> lab.Cells:
    def train(values):
      stage = train_arm(own, bases, arm, values[RATE], scale)
      for place, rate in enumerate(values[RATE][::count]):
        rows = slice(place * count, (place + 1) * count)
        entropy[arm][rate] = stage.curves['entropy'][rows]
      return stage

    score = lambda stage: judge.right(stage, 'validation').mean(1)
    return lab.Cells(train, score, scale.seeds // count, count)

  cells = {arm: cells_of(arm) for arm in scale.arms}
  rates = lab.tune_cells(cells, RATE, scale.grid, scale.extend, CLOSE)
  scores = {
    arm: {rate: cells[arm].score(x) for rate, x in found.tried.items()}
    for arm, found in rates.items()
  }
  return Tuning(rates, scores, entropy)


def picked(tuning: Tuning) -> dict[str, str]:
  """{arm of BEST or NEAREST: the arm that it is}, of those that were tuned."""

  def score(arm: str) -> float:
    return float(np.mean(tuning.scores[arm][tuning.rates[arm].chosen]))

  def distance(arm: str) -> float:
    entropy = tuning.entropy[arm][tuning.rates[arm].chosen]
    return float(np.mean(miss(entropy, HELD_AT)))

  found = {}
  for table, key in ((BEST, score), (NEAREST, lambda arm: -distance(arm))):
    for name, (_, arms) in table.items():
      there = [arm for arm in arms if arm in tuning.rates]
      if there:
        found[name] = max(there, key=key)
  return found


def base_arms(
  judge: Judge, bases: Mapping[str, lab.Trained]
) -> tuple[dict[str, lab.Arm], dict[str, np.ndarray]]:
  """(the arms of both starts, {start: [S, N] shares of right answers})."""
  right = {name: judge.right(base, 'test') for name, base in bases.items()}
  arms = {}
  for name, label in (('strong', 'Start'), ('weak', 'Weak start')):
    values, _ = values_of(judge, bases[name], right[name])
    outcomes = {'accuracy': right[name]}
    if name == 'strong':
      outcomes['gap'] = right['strong'] - right['weak']
      values['gap'] = 100.0 * outcomes['gap'].mean(1)
    arms[name] = lab.Arm(
      label=label, family='base', config='configs/sft.py:recipe=sft',
      overrides={}, values=values, account=bases[name].account,
      outcomes=outcomes,
    )  # fmt: skip
  return arms, right


def make_arm(
  judge: Judge, arm: str, stage: lab.Trained, tuned: lab.Tuned,
  start: np.ndarray, scale: Scale,
) -> lab.Arm:  # fmt: skip
  way = WAYS[arm]
  spec, items = PROGRAMS[way.program]
  values, right = values_of(judge, stage, start)
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=spec,
    overrides=dict(items) | hparams_of(arm, scale),
    values=values | trained_values(stage),
    account=lab.total_account([stage]),
    tuned={RATE: tuned.entry},
    outcomes={'accuracy': right},
  )


def with_gap(arm: lab.Arm, weak: lab.Arm) -> lab.Arm:
  """The arm with what it is ahead of the same from the weak start."""
  ahead = np.asarray(arm.outcomes['accuracy']) - weak.outcomes['accuracy']
  return dataclasses.replace(
    arm,
    values={**arm.values, 'gap': 100.0 * ahead.mean(1)},
    outcomes={**arm.outcomes, 'gap': ahead},
  )


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuning = tune(runs, scale)
  tuned = tuning.rates
  bases = bases_of(runs, scale)
  judge = Judge(runs, bases, scale)
  arms, right = base_arms(judge, bases)
  entropy = {}
  for arm in scale.arms:
    stage = train_arm(runs, bases, arm, tuned[arm].chosen, scale)
    start, entropy[arm] = right[WAYS[arm].start], stage.curves['entropy']
    arms[arm] = make_arm(judge, arm, stage, tuned[arm], start, scale)
  arms['t_1'] = with_gap(arms['t_1'], arms['weak_t_1'])
  drawn = shown.figures(arms, entropy)
  for name, arm in picked(tuning).items():
    label, _ = (BEST | NEAREST)[name]
    label = f'{label}: {WAYS[arm].label}'
    arms[name] = dataclasses.replace(arms[arm], label=label)
  problems = {'picks': lab.of_probe(runs, judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, drawn, reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
