r"""SFT against RL: what is forgotten when new tasks are learnt in sequence.

  python -m experiments.forgetting.run             # full: 1:50 h
  python -m experiments.forgetting.run --reduced   # minutes

A base model knows five tasks well and three new ones a little. Every arm learns
the new ones one after the other. README.md has the question and the reading,
design.py the settings and the claims.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from experiments.forgetting.design import (
  BASE,
  EVERY,
  LEARNT_BY_HEART,
  MATCHED,
  NEW,
  REPLAYED,
  SCALES,
  SEEN,
  STUDY,
  WAYS,
  Scale,
)
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.evals.measures import transfer
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def mixture(weights: dict[str, float]) -> ml_collections.ConfigDict:
  """Config entry of tasks of EVERY with their weights."""
  parts = {
    name: {**tasks.defaults(**EVERY[name]), 'weight': weight}
    for name, weight in weights.items()
  }
  return ml_collections.ConfigDict({'name': 'mixture', 'parts': parts})


def base_config(scale: Scale) -> Any:
  config = sft.get_config()
  config.task = mixture(
    {**dict.fromkeys(BASE, 1.0), **dict.fromkeys(NEW, SEEN)}
  )
  config.num_steps = scale.base_steps
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  return _shared(config, scale)


def _shared(config: Any, scale: Scale) -> Any:
  config.model.preset = scale.preset
  config.steps_per_call = 60
  config.eval.num_problems = 0
  return config


def arm_config(arm: str, new: str, scale: Scale) -> Any:
  """The config of an arm's stage on the new task `new`."""
  way = WAYS[arm]
  config = config_lib.load(way.spec)
  if arm == 'multitask':
    config.task = mixture(dict.fromkeys(EVERY, 1.0))
  elif arm == 'replay':
    config.task = mixture({new: 1.0, **dict.fromkeys(BASE, REPLAYED)})
  else:
    config.task = ml_collections.ConfigDict(tasks.defaults(**EVERY[new]))
  config.num_steps = scale.steps
  config.prompts_per_step = 256
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config_lib.override(config, way.items)
  if arm == 'psft':
    config.num_steps = max(1, scale.steps // 4)
  return _shared(config, scale)


def snapshots_of(arm: str, scale: Scale) -> tuple[int, ...]:
  """Steps at which a stage of an arm is looked at before its end."""
  if arm == 'psft':
    return tuple(sorted({x // 4 for x in scale.snapshots if x >= 4}))
  return scale.snapshots


def percent(values: Any) -> np.ndarray:
  return 100.0 * np.asarray(values, float)


class Judge:
  """Measures stages: each task alone, and the base tasks as one mixture."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab, self._base = runs, base
    model = build.build(base.config).model
    self._probe = functools.partial(
      measures.Probe, model=model, num_problems=scale.problems, samples=1,
      batch=scale.problems,
    )  # fmt: skip
    self._tasks = {name: tasks.make(**EVERY[name]) for name in EVERY}
    kept = [name for name in BASE if name not in LEARNT_BY_HEART]
    self._kept = build.make_task(mixture(dict.fromkeys(kept, 1.0)))
    self._fraction = base.config.heldout_fraction

  def alone(self, stage: lab.Trained, name: str) -> np.ndarray:
    """Greedy accuracy on one task, in %, of each seed."""
    probe = self._probe(
      task=self._tasks[name],
      measures=('accuracy_greedy',),
      heldout_fraction=0.0 if name in LEARNT_BY_HEART else self._fraction,
    )
    return percent(self._lab.measure(stage, probe)['accuracy_greedy'])

  def point(
    self, stage: lab.Trained, new: str, split: str = 'test'
  ) -> dict[str, np.ndarray]:
    """Accuracy and KL to the base, on a new task and on the base tasks."""
    asked = {'new': (self._tasks[new], ('accuracy_greedy', 'kl_reverse')),
             'base': (self._kept, ('kl_reverse',))}  # fmt: skip
    seen = {'base': np.mean([self.alone(stage, x) for x in BASE], axis=0)}
    for part, (task, wanted) in asked.items():
      probe = self._probe(
        task=task, measures=wanted, heldout_fraction=self._fraction
      )
      found = self._lab.measure(stage, probe, self._base, split)
      seen[f'kl_{part}'] = np.asarray(found['kl_reverse'])
      if part == 'new':
        seen['new'] = percent(found['accuracy_greedy'])
    return seen

  def row(self, stage: lab.Trained) -> np.ndarray:
    """[tasks, seeds] greedy accuracy of every task, in %."""
    return np.stack([self.alone(stage, name) for name in EVERY])


def matched(points: list[dict[str, np.ndarray]]) -> np.ndarray:
  """Most of the base tasks that is kept among points at MATCHED or above."""
  new = np.stack([point['new'] for point in points])
  kept = np.stack([point['base'] for point in points])
  best = np.where(new >= MATCHED, kept, -np.inf).max(axis=0)
  return np.where(np.isfinite(best), best, np.nan)


def first_task(
  runs: lab.Lab, judge: Judge, base: lab.Trained, arm: str, scale: Scale
) -> dict[str, Any]:
  """An arm on the first new task at every learning rate: its points, the
  chosen rate and the stage that goes on."""
  new = next(iter(NEW))
  config = arm_config(arm, new, scale)
  points, finals = [], {}
  for factor in scale.rates:
    rate = factor * WAYS[arm].rate
    stage = runs.train(
      f'{arm}-{new}', config, base, {'optimizer.lr': rate},
      snapshots=snapshots_of(arm, scale),
    )  # fmt: skip
    finals[rate] = stage
    for there in (*stage.snapshots.values(), stage):
      points.append(judge.point(there, new))
  score = lambda stage: judge.point(stage, new, 'validation')['new']
  rate = lab.best(finals, score)
  return {'rate': rate, 'stage': finals[rate], 'points': points,
          'grid': list(finals)}  # fmt: skip


def sequence(
  runs: lab.Lab, arm: str, begun: dict[str, Any], scale: Scale
) -> list[lab.Trained]:
  """The stages of an arm on all new tasks."""
  stages = [begun['stage']]
  if arm == 'multitask':
    # All tasks from the beginning; it only goes on for as long.
    names = [next(iter(NEW))] * 2
  else:
    names = list(NEW)[1:]
  for index, new in enumerate(names):
    stages.append(
      runs.train(
        f'{arm}-{index + 2}-{new}', arm_config(arm, new, scale), stages[-1],
        {'optimizer.lr': begun['rate']},
        snapshots=snapshots_of(arm, scale),
      )
    )  # fmt: skip
  return stages


def make_arm(
  judge: Judge, base: lab.Trained, arm: str, begun: dict[str, Any],
  stages: list[lab.Trained],
) -> tuple[lab.Arm, np.ndarray]:  # fmt: skip
  """An arm's results, and its table [stages, tasks, seeds]."""
  way = WAYS[arm]
  table = np.stack([judge.row(stage) for stage in (base, *stages)])
  learned = [0] * len(BASE) + list(range(1, len(NEW) + 1))
  forgotten = [
    float(transfer.transfer(jnp.asarray(table[:, :, i]), learned)['forgetting'])
    for i in range(table.shape[2])
  ]
  after = [table[1 + i, len(BASE) + i] for i in range(len(NEW))]
  last = judge.point(stages[-1], list(NEW)[-1])
  first = judge.point(begun['stage'], next(iter(NEW)))
  values = {
    'new_accuracy': np.mean(after, axis=0),
    'gain': np.mean(after, axis=0) - table[0, len(BASE) :].mean(axis=0),
    'final_new': table[-1, len(BASE) :].mean(axis=0),
    'retention': table[-1, : len(BASE)].mean(axis=0),
    'forgetting': forgotten,
    'matched': matched(begun['points']),
    'first_new': first['new'],
    'first_base': first['base'],
    'kl_new': first['kl_new'],
    'kl_base': last['kl_base'],
  }
  tuned = {'optimizer.lr': {'grid': begun['grid'], 'chosen': begun['rate']}}
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec,
    overrides=dict(way.items),
    values=values,
    account=lab.total_account(stages),
    tuned=tuned,
  ), table


def figures(
  arms: dict[str, lab.Arm],
  begun: dict[str, dict],
  tables: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
  found = [
    {
      'kind': 'frontier', 'name': 'retention_against_gain',
      'title': 'What was learnt and what was kept',
      'x': 'new_accuracy', 'y': 'retention',
      'caption': 'Each arm after three new tasks in sequence, at its own best '
                 'learning rate: mean and 95% interval over seeds.',
    },
    {
      'kind': 'bars', 'name': 'forgetting', 'title': 'Forgetting',
      'measures': ['forgetting', 'matched'],
      'caption': 'Left: points lost since the best accuracy of each earlier '
                 'task. Right: the most that an arm keeps of the base tasks '
                 f'at {MATCHED:.0f}% or more on the first new one, at any rate '
                 'and step that was tried (none: it never got there).',
    },
  ]  # fmt: skip
  series = {}
  for arm, way in begun.items():
    ordered = sorted(way['points'], key=lambda p: float(np.mean(p['kl_new'])))
    series[WAYS[arm].label] = {
      'x': [float(np.mean(p['kl_new'])) for p in ordered],
      'y': [p['base'].tolist() for p in ordered],
    }
  found.append(
    {
      'kind': 'lines', 'name': 'forgetting_against_kl',
      'title': 'Base tasks kept, by the distance from the base',
      'xlabel': 'KL to the base on the new task (nats a token)',
      'ylabel': 'base tasks (%)', 'logx': False, 'series': series,
      'caption': 'Every learning rate and snapshot of the first new task.',
    }
  )  # fmt: skip
  for arm in ('sft', 'grpo'):
    if arm in tables:
      found.append(
        {
          'kind': 'heatmap', 'name': f'matrix_{arm}',
          'title': f'{WAYS[arm].label}: every task after every stage',
          'rows': ['base', *NEW], 'columns': list(EVERY),
          'values': tables[arm].mean(axis=2).round(1).tolist(),
          'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'task',
          'ylabel': 'after learning',
          'caption': 'Greedy accuracy, mean over seeds.',
        }
      )  # fmt: skip
  return found


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = runs.train('base', base_config(scale))
  judge = Judge(runs, base, scale)
  arms, begun, tables = {}, {}, {}
  for arm in scale.arms:
    begun[arm] = first_task(runs, judge, base, arm, scale)
    stages = sequence(runs, arm, begun[arm], scale)
    arms[arm], tables[arm] = make_arm(judge, base, arm, begun[arm], stages)
  study = dataclasses.replace(
    STUDY, equal=f'{STUDY.equal} ({scale.steps} x 256 for each task)'
  )
  return study, arms, figures(arms, begun, tables), []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
