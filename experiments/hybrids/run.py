r"""Demonstrations and verified samples in one step, beyond the base's reach.

python -m experiments.hybrids.run             # full: three quarters of an hour
python -m experiments.hybrids.run --reduced   # a minute or two
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.hybrids.design import (
  CLOSE,
  EVERY,
  KNOWN,
  NEW,
  RATE,
  READING,
  SCALES,
  STUDY,
  WAYS,
  WEIGHTS,
  Part,
  Scale,
  Way,
)
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.num_steps = steps
  config.eval.num_problems = 0
  return config


def mixture(weights: Mapping[str, float]) -> ml_collections.ConfigDict:
  """Config entry of tasks of EVERY with their weights."""
  parts = {
    name: {**tasks.defaults(**EVERY[name]), 'weight': weight}
    for name, weight in weights.items()
  }
  return ml_collections.ConfigDict({'name': 'mixture', 'parts': parts})


def base_config(scale: Scale) -> Any:
  """SFT on all tasks by their weights, to a rate of nothing."""
  config = sft.get_config()
  config.task = mixture({**WEIGHTS, NEW: scale.seen})
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'linear'
  config.steps_per_call = 100
  return _shared(config, scale, scale.base_steps)


def stage_config(part: Part, scale: Scale) -> Any:
  """A stage of an arm on the new task."""
  config = config_lib.load(part.spec)
  config.task = ml_collections.ConfigDict(tasks.defaults(**EVERY[NEW]))
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config_lib.override(config, part.items)
  steps = max(1, round(part.share * scale.steps))
  config.steps_per_call = steps
  return _shared(config, scale, steps)


class Judge:
  """Measures stages: the new task, and those that the base knows."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    common: dict[str, Any] = dict(
      model=build.build(base.config).model,
      num_problems=scale.problems,
      samples=1,
      batch=scale.problems,
      heldout_fraction=base.config.heldout_fraction,
      by_problem=True,
    )
    self.probe = measures.Probe(
      task=tasks.make(**EVERY[NEW]), part='test',
      measures=('accuracy_greedy', 'entropy'), **common,
    )  # fmt: skip
    self._kept = measures.Probe(
      task=build.make_task(mixture(dict.fromkeys(KNOWN, 1.0))), part='test',
      measures=('accuracy_greedy',), **common,
    )  # fmt: skip

  def new(self, stage: lab.Trained, part: str) -> tuple[np.ndarray, np.ndarray]:
    """([S, N] 1.0 where the greedy answer is right, [S] entropy)."""
    probe = dataclasses.replace(self.probe, part=part)
    found = self._lab.measure(stage, probe, split=part)
    return (
      np.array(found['accuracy_greedy/problems']),
      np.asarray(found['entropy']),
    )

  def kept(self, stage: lab.Trained) -> np.ndarray:
    """[S, N] of the tasks that the base knows."""
    found = self._lab.measure(stage, self._kept)
    return np.array(found['accuracy_greedy/problems'])


def base_of(runs: lab.Lab, scale: Scale, seeds: Sequence[int]) -> lab.Trained:
  """Bases of `seeds`, which the seeds of `runs` take turns to start from. All
  bases are trained in one program."""
  own = runs.beside((*scale.base_seeds, *scale.tuning_bases))
  made = own.train('base', base_config(scale))
  places = [own.seeds.index(seed) for seed in seeds]
  rows = [places[i % len(places)] for i in range(len(runs.seeds))]
  return lab.shared(runs, made, rows)


def train_arm(
  runs: lab.Lab,
  base: lab.Trained,
  arm: str,
  rate: float | Sequence[float],
  scale: Scale,
) -> list[lab.Trained]:
  """The stages of an arm at one rate, or at one of each seed."""
  stages = [base]
  for index, part in enumerate(WAYS[arm].parts):
    config = stage_config(part, scale)
    # SFT before RL is the same for all that begin with it.
    name = f'{arm}-{index}' if index or len(WAYS[arm].parts) == 1 else 'first'
    hparams = {RATE: rate, **dict(WAYS[arm].hparams)}
    stages.append(runs.train(name, config, stages[-1], hparams))
  return stages[1:]


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tried before the run.

  rates    {arm: what it tried and takes}
  scores   {arm: {rate: accuracy of each tuning seed}}
  entropy  {arm: {rate: of each tuning seed}}
  """

  rates: Mapping[str, lab.Tuned]
  scores: Mapping[str, Mapping[float, np.ndarray]]
  entropy: Mapping[str, Mapping[float, np.ndarray]]


def tune(runs: lab.Lab, scale: Scale) -> tuple[Tuning, Judge, lab.Trained]:
  """The rates of all arms, with seeds and bases of their own, several rates
  side by side in the program of the runs; and what they started from."""
  count = len(scale.tuning_seeds)
  own = runs.beside(scale.tuning_seeds * (scale.seeds // count))
  base = base_of(own, scale, scale.tuning_bases)
  judge = Judge(own, base, scale)
  entropy: dict[str, dict[float, np.ndarray]] = {x: {} for x in scale.arms}

  def cells_of(arm: str) -> lab.Cells:
    def train(values):
      return values[RATE], train_arm(own, base, arm, values[RATE], scale)[-1]

    def score(trained):
      rates, stage = trained
      right, nats = judge.new(stage, 'validation')
      for place, rate in enumerate(rates[::count]):
        entropy[arm][rate] = nats[place * count : (place + 1) * count]
      return right.mean(1)

    return lab.Cells(train, score, scale.seeds // count, count)

  cells = {arm: cells_of(arm) for arm in scale.arms}
  rates = lab.tune_cells(cells, RATE, scale.grid, scale.extend, CLOSE)
  scores = {
    arm: {rate: cells[arm].score(x) for rate, x in found.tried.items()}
    for arm, found in rates.items()
  }
  return Tuning(rates, scores, entropy), judge, base


def measured(
  judge: Judge, base: lab.Trained, stages: list[lab.Trained]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(values [S], outcomes [S, N]) of where `stages` end."""
  right, entropy = judge.new(stages[-1], 'test')
  start, _ = judge.new(base, 'test')
  kept, before = judge.kept(stages[-1]), judge.kept(base)
  values = {
    'new': 100.0 * right.mean(1),
    'gain': 100.0 * (right.mean(1) - start.mean(1)),
    'kept': 100.0 * kept.mean(1),
    'lost': 100.0 * (before.mean(1) - kept.mean(1)),
    'entropy': entropy,
  }
  return values, {'new': right, 'kept': kept}


def overrides_of(way: Way) -> dict[str, object]:
  """Of all stages; where there are several, with the number of each."""
  if len(way.parts) == 1:
    return dict(way.parts[0].items) | dict(way.hparams)
  return {
    f'{key} (stage {number})': value
    for number, part in enumerate(way.parts, 1)
    for key, value in part.items
  }


def make_arm(
  judge: Judge, base: lab.Trained, arm: str, tuned: lab.Tuned,
  stages: list[lab.Trained],
) -> lab.Arm:  # fmt: skip
  way = WAYS[arm]
  values, outcomes = measured(judge, base, stages)
  account = lab.total_account(stages)
  values['shown'] = np.array([x['demonstrations'] for x in account])
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=', then '.join(part.spec for part in way.parts),
    overrides=overrides_of(way),
    values=values,
    account=account,
    tuned={RATE: tuned.entry},
    outcomes=outcomes,
  )


def base_arm(judge: Judge, base: lab.Trained) -> lab.Arm:
  values, outcomes = measured(judge, base, [base])
  return lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, values=values | {'shown': np.zeros(len(values['new']))},
    account=base.account, outcomes=outcomes,
  )  # fmt: skip


FIGURES = [
  {'kind': 'bars', 'name': 'accuracy', 'title': 'The new task',
   'measures': ['new'], 'caption': 'Greedy, on held-out problems.'},
  {'kind': 'frontier', 'name': 'kept', 'title': 'Learnt and kept', 'x': 'new',
   'y': 'kept', 'caption': 'The new task against those that the base knows: '
   'mean and 95% interval over seeds.'},
  {'kind': 'frontier', 'name': 'demonstrations', 'x': 'shown', 'y': 'new',
   'title': 'Demonstrations and what they bring',
   'caption': 'Demonstrations that were read, and accuracy.'},
]  # fmt: skip


def compare(runs: lab.Lab, scale: Scale, study: lab.Study):
  """(`study` with its problems, arms): every arm, trained and measured."""
  tuned = tune(runs, scale)[0].rates
  base = base_of(runs, scale, scale.base_seeds)
  judge = Judge(runs, base, scale)
  arms = {'base': base_arm(judge, base)}
  for arm in scale.arms:
    stages = train_arm(runs, base, arm, tuned[arm].chosen, scale)
    arms[arm] = make_arm(judge, base, arm, tuned[arm], stages)
  problems = {'new task': lab.of_probe(runs, judge.probe)}
  return dataclasses.replace(study, problems=problems), arms


def run(runs: lab.Lab, scale: Scale):
  """What `lab.main` asks for."""
  study, arms = compare(runs, scale, STUDY)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, FIGURES, reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
