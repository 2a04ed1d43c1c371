r"""Does training on second tries help, at the first try and at later turns?

python -m experiments.second_tries.run             # full
python -m experiments.second_tries.run --reduced   # four minutes

README.md has the question and the reading, design.py the arms, sizes and
claims, probe.py the measure of turns.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.second_tries import shown
from experiments.second_tries.design import (
  APART,
  APART_LABELS,
  CLOSE,
  GROUP,
  PROGRAMS,
  RATE,
  READING,
  SCALES,
  SHOWN,
  STUDY,
  TASK,
  TURNS,
  WAYS,
  Scale,
)
from experiments.second_tries.probe import Turns
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import conditioned

Found = Mapping[str, np.ndarray]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common. SFT and RISE show answers; RL asks its
  problems bare."""
  config.task = ml_collections.ConfigDict(tasks.defaults(**TASK))
  if config.paradigm == 'sft':
    config.condition = ml_collections.ConfigDict(
      dict(name='seen_answer', **SHOWN)
    )
  config.model.preset = scale.preset
  config.num_steps = steps
  config.eval.num_problems = 0
  config.steps_per_call = min(steps, 50)
  return config


def base_config(scale: Scale) -> Any:
  """SFT on problems, half of them beside an answer, to a rate of nothing."""
  config = sft.get_config()
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = scale.base_rate
  config.optimizer.schedule = 'cosine'
  return _shared(config, scale, scale.base_steps)


def arm_config(program: str, scale: Scale) -> Any:
  """A stage of an arm, or a round of RISE."""
  spec, problems, items = PROGRAMS[program]
  config = config_lib.load(spec)
  config.prompts_per_step = problems
  if config.paradigm == 'rl':
    config.group_size = GROUP
  config.optimizer.schedule = 'linear'
  config.optimizer.warmup_updates = 5
  config_lib.override(config, items)
  return _shared(config, scale, scale.steps)


def base_of(runs: lab.Lab, scale: Scale) -> lab.Trained:
  """A base of each seed's own."""
  own = lab.of_all(runs, scale.base_seeds)
  made = own.train('base', base_config(scale))
  return lab.shared(runs, made, lab.own_rows(runs, own))


def stages_of(
  runs: lab.Lab, arm: str, rates: Mapping[str, Any], scale: Scale
) -> list[lab.Trained]:
  """The stages of an arm, the last one its own.

  rates  {arm: one for all seeds, or one a seed}
  """
  way = WAYS[arm]
  before = stages_of(runs, way.after, rates, scale) if way.after else []
  start = before[-1] if before else base_of(runs, scale)
  number = len(before) + 1  # each round has problems and answers of its own
  rate = rates[way.like or arm]
  made = runs.train(
    f'{way.program}-{number}', arm_config(way.program, scale), start,
    {RATE: rate}, draw=number,
  )  # fmt: skip
  return [*before, made]


class Judge:
  """Measures stages on held-out problems."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    self.probe = Turns(
      model=build.build(base.config).model,
      task=conditioned.wrap(tasks.make(**TASK), 'seen_answer', **SHOWN),
      num_problems=scale.problems,
      heldout_fraction=base.config.heldout_fraction,
      temperature=1.0,
      part='test',
      turns=TURNS,
    )

  def found(self, stage: lab.Trained, part: str) -> dict[str, np.ndarray]:
    """What `Turns` says, by seed."""
    probe = dataclasses.replace(self.probe, part=part)
    found = self._lab.measure(stage, probe, split=part)
    return {name: np.asarray(x) for name, x in found.items()}


def values_of(found: Found, start: Found) -> dict[str, np.ndarray]:
  """Values [S] of a stage, of what it and its base were found to be."""
  gain = 100.0 * (found['first'] - start['first'])
  return {
    **{
      name: 100.0 * found[name]
      for name in ('first', 'fifth', 'over', 'mended', 'repeated')
    },
    'gain': gain,
    'lost': np.maximum(-gain, 0.0),
    'gain_fifth': 100.0 * (found['fifth'] - start['fifth']),
  }


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What was tuned, and {arm: {rate: what its tuning seeds came to}}."""

  rates: Mapping[str, lab.Tuned]
  found: Mapping[str, Mapping[float, Found]]
  start: Found

  def entry(self, arm: str) -> dict[str, Any]:
    """For `Arm.tuned`: the rates of all stages that the arm has."""
    own, names = WAYS[arm], [WAYS[arm].like or arm]
    if own.after and own.after not in names:
      names.insert(0, own.after)
    if len(names) == 1:
      return {RATE: self.rates[names[0]].entry}
    return {f'{RATE} of {x}': self.rates[x].entry for x in names}


def tune(runs: lab.Lab, scale: Scale, arms: Sequence[str] = ()) -> Tuning:
  """The rates of arms that have one of their own, with seeds of their own,
  several rates side by side in the program of the runs.

  arms  () = all of the scale
  """
  count = len(scale.tuning_seeds)
  places = scale.seeds // count
  own = runs.beside(scale.tuning_seeds * places)
  base = base_of(own, scale)
  judge = Judge(own, base, scale)
  few = lambda found: {name: x[:count] for name, x in found.items()}
  tried = [arm for arm in arms or scale.arms if WAYS[arm].tuned]
  found: dict[str, dict[float, Found]] = {arm: {} for arm in tried}

  def cells_of(arm: str) -> lab.Cells:
    def train(values):
      rates = values[RATE]
      stage = stages_of(own, arm, {arm: rates}, scale)[-1]
      seen = judge.found(stage, 'validation')
      for place, rate in enumerate(rates[::count]):
        rows = slice(place * count, (place + 1) * count)
        found[arm][rate] = {name: x[rows] for name, x in seen.items()}
      return stage

    score = lambda stage: judge.found(stage, 'validation')[WAYS[arm].tuned]
    return lab.Cells(train, score, places, count)

  cells = {arm: cells_of(arm) for arm in tried}
  rates = lab.tune_cells(cells, RATE, scale.grid, scale.extend, CLOSE)
  return Tuning(rates, found, few(judge.found(base, 'validation')))


def make_arm(
  arm: str, stages: Sequence[lab.Trained], found: Found, start: Found,
  tuned: Mapping[str, Any],
) -> lab.Arm:  # fmt: skip
  """What an arm came to; 'base' is where all of them start."""
  way = WAYS.get(arm)
  spec, _, items = PROGRAMS[way.program if way else 'sft']
  return lab.Arm(
    label=way.label if way else 'Base',
    family=way.family if way else 'base',
    config=spec,
    overrides=dict(items),
    values=values_of(found, start),
    account=lab.total_account(stages),
    tuned=tuned,
    outcomes={
      name: found[f'{name}/problems'] for name in ('first', 'fifth', 'over')
    },
  )


def apart_arms(
  arms: Mapping[str, lab.Arm], found: Mapping[str, Found]
) -> dict[str, lab.Arm]:
  """Models a second time: what five answers apart are worth, in place of five
  turns."""
  made = {}
  for name, (arm, kind) in APART.items():
    if arm in arms:
      made[name] = dataclasses.replace(
        arms[arm],
        label=f'{arms[arm].label}: {APART_LABELS[kind]}',
        values={'fifth': 100.0 * found[arm][kind]},
        outcomes={'fifth': found[arm][f'{kind}/problems']},
      )
  return made


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuning = tune(runs, scale)
  rates = {arm: x.chosen for arm, x in tuning.rates.items()}
  base = base_of(runs, scale)
  judge = Judge(runs, base, scale)
  found = {'base': judge.found(base, 'test')}
  arms = {'base': make_arm('base', [base], found['base'], found['base'], {})}
  for arm in scale.arms:
    stages = stages_of(runs, arm, rates, scale)
    found[arm] = judge.found(stages[-1], 'test')
    arms[arm] = make_arm(
      arm, stages, found[arm], found['base'], tuning.entry(arm)
    )
  arms |= apart_arms(arms, found)
  problems = {'sums': lab.of_probe(runs, judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(arms, found), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
