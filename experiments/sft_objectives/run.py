r"""Which objective on demonstrations is worth its cost, where some are wrong.

python -m experiments.sft_objectives.run             # full: half an hour
python -m experiments.sft_objectives.run --reduced   # a minute
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.sft_objectives import figures
from experiments.sft_objectives.design import (
  CLOSE,
  DATA,
  EVERY,
  KNOWN,
  NEW,
  NOISE,
  OBJECTIVES,
  RATE,
  READING,
  ROWS,
  SAMPLES,
  SCALES,
  SLIPS,
  STUDY,
  WEIGHTS,
  Objective,
  Scale,
  arm_of,
)
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

Values = dict[str, np.ndarray]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.num_steps = steps
  config.steps_per_call = min(steps, 100)
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
  config.task = mixture(WEIGHTS)
  config.prompts_per_step = 2 * ROWS
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'linear'
  return _shared(config, scale, scale.base_steps)


def arm_config(recipe: str, scale: Scale, steps: int) -> Any:
  """Tuning on demonstrations of the new task, to a rate of nothing."""
  config = config_lib.load(f'configs/sft.py:recipe={recipe}')
  config.task = ml_collections.ConfigDict(tasks.defaults(**EVERY[NEW]))
  config.prompts_per_step = ROWS
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = min(5, steps - 1)
  return _shared(config, scale, steps)


class Judge:
  """Measures stages: the new task, and those that the base knows."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    common: dict[str, Any] = dict(
      model=build.build(base.config).model,
      num_problems=scale.problems,
      batch=scale.problems,
      heldout_fraction=base.config.heldout_fraction,
      by_problem=True,
    )
    greedy = ('accuracy_greedy',)
    new = tasks.make(**EVERY[NEW])
    self.probe = measures.Probe(
      task=new, part='test', samples=SAMPLES, measures=('accuracy', *greedy),
      **common,
    )  # fmt: skip
    self._choice = measures.Probe(
      task=new, part='validation', samples=1, measures=greedy, **common
    )
    self._kept = measures.Probe(
      task=build.make_task(mixture(dict.fromkeys(KNOWN, 1.0))), part='test',
      samples=1, measures=greedy, **common,
    )  # fmt: skip

  def choice(self, stage: lab.Trained) -> np.ndarray:
    """[S, N] 1.0 where the greedy answer is right, on validation problems."""
    found = self._lab.measure(stage, self._choice, split='validation')
    return np.array(found['accuracy_greedy/problems'])

  def kept(self, stage: lab.Trained) -> np.ndarray:
    """[S, N] of the tasks that the base knows."""
    found = self._lab.measure(stage, self._kept)
    return np.array(found['accuracy_greedy/problems'])

  def outcomes(self, stage: lab.Trained) -> Values:
    """[S, N] by seed and test problem: of the new task greedily and at
    temperature 1, of the base's tasks greedily."""
    new = self._lab.measure(stage, self.probe)
    return {
      'new': np.array(new['accuracy_greedy/problems']),
      'sampled': np.array(new['accuracy/problems']),
      'kept': self.kept(stage),
    }


@dataclasses.dataclass(frozen=True)
class Bench:
  """What arms of one lab share: where they start, and who judges them."""

  runs: lab.Lab
  scale: Scale
  base: lab.Trained
  clean: lab.Trained
  judge: Judge

  def train(self, objective: str, data: str, rate: float) -> lab.Trained:
    """An arm at one rate."""
    way, wrong = OBJECTIVES[objective], DATA[data]
    config = arm_config(way.recipe, self.scale, self.scale.steps)
    models = {'base': self.base, 'clean': self.clean}
    return self.runs.train(
      arm_of(objective, data),
      config,
      models[way.start],
      {RATE: rate, NOISE: wrong.noise, SLIPS: wrong.slips, **dict(way.hparams)},
      {role: models[name] for role, name in way.roles},
    )


def bench_of(runs: lab.Lab, scale: Scale) -> Bench:
  """Bases of seeds of their own, which the seeds take turns to start from, and
  what other clean demonstrations make of them."""
  own = runs.beside(scale.base_seeds)
  made = own.train('base', base_config(scale))
  base = lab.shared(runs, made, lab.turns(runs, own))
  config = arm_config('sft', scale, scale.clean_steps)
  hparams = {RATE: scale.clean_rate, NOISE: 0.0, SLIPS: 0.0}
  # Its demonstrations are others than those that arms read.
  clean = runs.train('clean', config, base, hparams, draw=1)
  return Bench(runs, scale, base, clean, Judge(runs, base, scale))


def tune(own: Bench) -> dict[str, lab.Tuned]:
  """The rates of all arms, with seeds of their own."""

  def maker(objective: str, data: str):
    return lambda rate: own.train(objective, data, rate)

  return lab.tune(
    {arm_of(*pair): maker(*pair) for pair in own.scale.arms},
    own.scale.grid,
    lambda arm, stage: own.judge.choice(stage).mean(1),
    own.scale.extend,
    CLOSE,
  )


def measured(bench: Bench, stage: lab.Trained) -> tuple[Values, Values]:
  """(values [S], outcomes [S, N]) of a stage, in the units of the study."""
  found, before = (bench.judge.outcomes(x) for x in (stage, bench.base))
  share = {name: 100.0 * x.mean(1) for name, x in found.items()}
  start = {name: 100.0 * x.mean(1) for name, x in before.items()}
  values = share | {
    'gain': share['new'] - start['new'],
    'lost': start['kept'] - share['kept'],
  }
  return values, found


def uses_clean(way: Objective) -> bool:
  """Whether an arm needs the model of clean demonstrations."""
  return 'clean' in (way.start, *dict(way.roles).values())


def make_arm(
  bench: Bench, objective: str, data: str, tuned: lab.Tuned
) -> lab.Arm:
  """An arm with the rate that was chosen for it."""
  way, wrong = OBJECTIVES[objective], DATA[data]
  stage = bench.train(objective, data, tuned.chosen)
  values, outcomes = measured(bench, stage)
  spent = [bench.clean, stage] if uses_clean(way) else [stage]
  overrides = {NOISE: wrong.noise, SLIPS: wrong.slips, **dict(way.hparams)}
  return lab.Arm(
    label=f'{way.label}: {wrong.label}',
    family='sft',
    config=f'configs/sft.py:recipe={way.recipe}',
    overrides=overrides,
    values=values,
    account=lab.total_account(spent),
    tuned={RATE: tuned.entry},
    outcomes=outcomes,
  )


def start_arms(bench: Bench) -> dict[str, lab.Arm]:
  """The base, and what clean demonstrations alone made of it for others."""
  found = {}
  for name, label, stage in (
    ('base', 'Base', bench.base),
    ('clean_only', 'Clean ones alone', bench.clean),
  ):
    values, outcomes = measured(bench, stage)
    found[name] = lab.Arm(
      label=label, family='base' if name == 'base' else 'sft',
      config='configs/sft.py:recipe=sft', overrides={}, values=values,
      account=lab.total_account([stage]), outcomes=outcomes,
    )  # fmt: skip
  return found


def compared(arms: Mapping[str, lab.Arm]) -> dict[str, lab.Arm]:
  """The same with what needs two arms: 'cost', in the FLOPs of NLL on clean
  demonstrations, and 'harm', what wrong ones take from the objective."""
  found = {}
  whole = float(np.mean([x['flops'] for x in arms['nll'].account]))
  harmed = {
    arm_of(objective, data): objective
    for objective in OBJECTIVES
    for data in DATA
    if data != 'clean' and objective in arms
  }
  for name, arm in arms.items():
    more = {'cost': np.array([x['flops'] / whole for x in arm.account])}
    if name in harmed:
      clean = np.asarray(arms[harmed[name]].values['new'])
      more['harm'] = clean - np.asarray(arm.values['new'])
    found[name] = dataclasses.replace(arm, values={**arm.values, **more})
  return found


def at_rate_of(bench: Bench, arm: lab.Arm, rate: float) -> lab.Arm:
  """NLL on clean demonstrations at a rate that was chosen for another arm."""
  stage = bench.train('nll', 'clean', rate)
  values, outcomes = measured(bench, stage)
  return dataclasses.replace(
    arm, label='NLL: clean, at the rate of OTR', values=values,
    outcomes=outcomes, account=lab.total_account([stage]), tuned={},
    overrides={**arm.overrides, RATE: rate},
  )  # fmt: skip


def make_arms(
  bench: Bench, tuned: Mapping[str, lab.Tuned]
) -> dict[str, lab.Arm]:
  """All arms of a lab, each at the rate that was chosen for it."""
  arms = start_arms(bench)
  for pair in bench.scale.arms:
    arms[arm_of(*pair)] = make_arm(bench, *pair, tuned[arm_of(*pair)])
  if 'otr' in arms:
    arms['nll_otr'] = at_rate_of(bench, arms['nll'], tuned['otr'].chosen)
  return compared(arms)


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuned = tune(bench_of(runs.beside(scale.tuning_seeds), scale))
  bench = bench_of(runs, scale)
  arms = make_arms(bench, tuned)
  problems = {'new task': lab.of_probe(runs, bench.judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures.make(arms, scale), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
