r"""How many wrong turns should the demonstrations before RL take?

  python -m experiments.backtracking.run             # full: 1:05 h
  python -m experiments.backtracking.run --reduced   # minutes

A base learns the rules of a puzzle on smaller problems; it is warmed up on
traces with a set number of backtracks, and then trained by GRPO. README.md has
the question and the reading, design.py the settings and the claims.
"""

import sys
from typing import Any

import ml_collections
import numpy as np

from experiments.backtracking.design import (
  COUNTS,
  KINDS,
  MANY,
  PARTIAL,
  READING,
  SAMPLES,
  SCALES,
  SETTINGS,
  STUDY,
  Scale,
)
from experiments.backtracking.probe import Searches
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

SFT, GRPO = 'configs/sft.py:recipe=sft', 'configs/rl.py:recipe=grpo'
IN_PERCENT = ('greedy', 'accuracy', 'passk', 'formed')


def task_entry(
  setting: str, room: int, size: int = 0, **knobs
) -> ml_collections.ConfigDict:
  """A puzzle whose answers have room for so many detours; size 0: its own."""
  own = SETTINGS[setting]
  return ml_collections.ConfigDict(
    tasks.defaults(
      'backtracking', puzzle=own.puzzle, size=size or own.size, depth=1,
      max_backtracks=room, partial=PARTIAL, **knobs,
    )
  )  # fmt: skip


def _shared(config: Any) -> Any:
  config.model.preset = 'depth-2'
  config.steps_per_call = 20
  config.eval.num_problems = 0
  return config


def _sft(task: Any, steps: int, scale: Scale) -> Any:
  config = config_lib.load(SFT)
  config.task = task
  config.num_steps = steps
  config.prompts_per_step = scale.rows
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = 10
  return _shared(config)


def base_config(setting: str, scale: Scale) -> Any:
  """Smaller problems of the puzzle: answers, and straight traces."""
  parts = {
    f'size_{size}': {
      **task_entry(setting, 0, size, backtracks=0.0, direct=0.5), 'weight': 1.0
    }
    for size in SETTINGS[setting].smaller
  }  # fmt: skip
  task = ml_collections.ConfigDict({'name': 'mixture', 'parts': parts})
  return _sft(task, scale.base_steps, scale)


def warm_up_config(setting: str, kind: str, scale: Scale) -> Any:
  """Demonstrations of a kind; rows are as long as their longest trace."""
  room = KINDS[kind].backtracks
  task = task_entry(setting, room, backtracks=float(room))
  return _sft(task, scale.sft_steps, scale)


def rl_config(setting: str, room: int, scale: Scale) -> Any:
  """GRPO, the same for all arms: they differ in where they start."""
  config = config_lib.load(GRPO)
  config.task = task_entry(setting, room)
  config.num_steps = scale.steps
  config.prompts_per_step = scale.prompts
  config.group_size = 8
  config.optimizer.lr = 1e-4
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 5
  return _shared(config)


class Bench:
  """The base, warm-ups, RL on top of them and measures in one setting."""

  def __init__(self, runs: lab.Lab, setting: str, scale: Scale):
    self._lab, self._setting, self.scale = runs, setting, scale
    self._probe = None

  def base(self) -> lab.Trained:
    name = f'{SETTINGS[self._setting].puzzle}-base'
    return self._lab.train(name, base_config(self._setting, self.scale))

  def warm_up(self, kind: str) -> lab.Trained:
    own = KINDS[kind]
    # Inputs of the program, so that arms with equal rows compile once.
    knobs = {
      f'task.{name}': getattr(own, name)
      for name in ('direct', 'incorrect', 'shuffled')
    }
    config = warm_up_config(self._setting, kind, self.scale)
    name = f'{self._setting}-{kind}-sft'
    return self._lab.train(name, config, self.base(), knobs)

  def grpo(self, kind: str, start: lab.Trained) -> lab.Trained:
    config = rl_config(self._setting, KINDS[kind].room, self.scale)
    return self._lab.train(f'{self._setting}-{kind}-grpo', config, start)

  def measure(self, stage: lab.Trained) -> dict:
    """What `Searches` says, of each seed; shares in %."""
    if self._probe is None:
      config = rl_config(self._setting, MANY, self.scale)
      made = build.build(config)
      self._probe = Searches(
        model=made.model,
        task=made.task,
        num_problems=self.scale.problems,
        samples=SAMPLES,
        heldout_fraction=config.heldout_fraction,
      )
    found = self._lab.measure(stage, self._probe)
    factor = lambda name: 100.0 if name in IN_PERCENT else 1.0
    return {k: factor(k) * np.asarray(x, float) for k, x in found.items()}


def make_arm(bench: Bench, setting: str, kind: str) -> lab.Arm:
  """A warm-up, and GRPO after it."""
  start = bench.warm_up(kind)
  before = bench.measure(start)
  stage = bench.grpo(kind, start)
  after = bench.measure(stage)
  values = {**after, **{f'{name}_0': x for name, x in before.items()}}
  values['gain'] = after['accuracy'] - before['accuracy']
  trained = [own['tokens_trained'] / 1e3 for own in start.account]
  reward = stage.curves['reward']
  own = KINDS[kind]
  return lab.Arm(
    label=f'{SETTINGS[setting].label}: {own.label}',
    family='rl',
    config=f'{SFT}; {GRPO}',
    overrides={
      'task.puzzle': SETTINGS[setting].puzzle,
      'task.size': SETTINGS[setting].size,
      'task.backtracks': own.backtracks,
      'task.direct': own.direct,
      'task.incorrect': own.incorrect,
      'task.shuffled': own.shuffled,
    },
    values={**values, 'sft_tokens': trained},
    account=lab.total_account([start, stage]),
    curves={'reward': {
      'x': list(range(1, reward.shape[1] + 1)), 'xlabel': 'steps',
      'y': reward.tolist(),
    }},
  )  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  arms = {}
  for setting in scale.settings:
    bench = Bench(runs, setting, scale)
    for kind in SETTINGS[setting].kinds:
      if kind in scale.kinds:
        arms[f'{setting}_{kind}'] = make_arm(bench, setting, kind)
    plain = arms[f'{setting}_b0'].values['accuracy']
    for key, arm in arms.items():
      if key.startswith(f'{setting}_'):
        arm.values['over_b0'] = arm.values['accuracy'] - plain
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures(arms), reading


def _cells(
  arms: dict[str, lab.Arm], measure: str
) -> tuple[list[str], list[list[float | None]]]:
  """(kinds, [settings, kinds] means) of a measure."""
  kinds = [x for x in KINDS if any(key.endswith(f'_{x}') for key in arms)]
  settings = {key.rsplit('_', 1)[0] for key in arms}
  rows = []
  for setting in (x for x in SETTINGS if x in settings):
    found = [arms.get(f'{setting}_{kind}') for kind in kinds]
    rows.append(
      [arm and round(float(np.mean(arm.values[measure])), 1) for arm in found]
    )
  return kinds, rows


def figures(arms: dict[str, lab.Arm]) -> list[dict[str, Any]]:
  """Accuracy by the number of backtracks, before and after; the controls."""
  settings = [
    x for x in SETTINGS if any(key.startswith(f'{x}_') for key in arms)
  ]
  found = []
  for measure, title, caption in (
    ('accuracy', 'after GRPO', 'After the warm-up and GRPO.'),
    ('accuracy_0', 'after the warm-up', 'Before RL.'),
  ):
    series = {}
    for setting in settings:
      points = {
        KINDS[kind].backtracks: arms[f'{setting}_{kind}']
        for kind in COUNTS
        if f'{setting}_{kind}' in arms
      }
      series[SETTINGS[setting].label] = {
        'x': list(points),
        'y': [arm.values[measure].tolist() for arm in points.values()],
      }
    found.append(
      {
        'kind': 'lines', 'name': measure, 'title': f'Accuracy {title}',
        'xlabel': 'backtracks in a demonstration',
        'ylabel': 'right answers (%)', 'logx': False, 'series': series,
        'caption': f'{caption} Held-out problems at temperature 1, mean and '
                   '95% interval over seeds.',
      }
    )  # fmt: skip
  kinds, rows = _cells(arms, 'accuracy')
  found.append(
    {
      'kind': 'heatmap', 'name': 'grid', 'title': 'Every warm-up, after GRPO',
      'rows': [SETTINGS[x].label for x in settings],
      'columns': [KINDS[kind].label for kind in kinds], 'values': rows,
      'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'demonstrations',
      'ylabel': 'puzzle',
      'caption': 'Right answers at temperature 1, mean over seeds; empty '
                 'where a warm-up was not run.',
    }
  )  # fmt: skip
  found.append(
    {
      'kind': 'bars', 'name': 'search', 'title': 'Wrong turns that are taken',
      'measures': ['backtracks_0', 'backtracks'],
      'caption': 'Backtracks in an answer at temperature 1: after the warm-up '
                 '(left) and after GRPO (right).',
    }
  )  # fmt: skip
  return found


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
