r"""SFT against RL: what is forgotten when new tasks are learnt in sequence.

  python -m experiments.forgetting.run             # full: about an hour
  python -m experiments.forgetting.run --reduced   # minutes

A base model knows five tasks well and three new ones a little. Every arm learns
the new ones one after the other. README.md has the question and the reading.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from posttrain_jax import build, lab, measures, tasks
from posttrain_jax import config as config_lib
from posttrain_jax.measures import transfer
from posttrain_jax.statistics import Claim

BASE = {
  'addition': dict(name='addition', num_digits=2, reverse=True),
  'modular': dict(name='modular', modulus=10),
  'sorting': dict(name='sorting', length=3, max_value=9),
  'list_functions': dict(name='list_functions', depth=1, length=4),
  'facts': dict(
    name='facts',
    num_entities=16,
    num_relations=2,
    num_values=16,
    heldout_fraction=0.0,
  ),
}
NEW = {
  'countdown': dict(name='countdown', num_numbers=2, max_number=9),
  'two_functions': dict(name='list_functions', depth=2, length=4),
  'sudoku': dict(name='sudoku', num_empty=2, answer='holes'),
}
EVERY = {**BASE, **NEW}
# A fact that was left out cannot be known: all of them are trained and asked.
LEARNT_BY_HEART = ('facts',)
# Of a new task in the base mixture, against 1 of each base task: RL has to find
# a right answer now and then.
SEEN = 0.1
# Share of replayed rows is that of the base tasks in this mixture.
REPLAYED = 0.05


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode; `rates` multiply an arm's middle learning rate."""

  seeds: int
  preset: str
  base_steps: int
  steps: int
  snapshots: tuple[int, ...]
  rates: tuple[float, ...]
  arms: tuple[str, ...]
  problems: int


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains: a recipe, its middle learning rate, overrides."""

  label: str
  family: str
  spec: str
  rate: float
  items: tuple[tuple[str, str], ...] = ()


_RL = (('prompts_per_step', '32'), ('group_size', '8'))
WAYS = {
  'sft': Way('SFT', 'sft', 'configs/sft.py:recipe=sft', 1e-3),
  'sft_small': Way(
    'SFT, a tenth of the rate', 'sft', 'configs/sft.py:recipe=sft', 1e-4
  ),
  'sft_kl': Way('SFT + KL', 'sft', 'configs/sft.py:recipe=sft_kl', 1e-3),
  'dft': Way('DFT', 'sft', 'configs/sft.py:recipe=dft', 1e-3),
  'asft': Way('Anchored SFT', 'sft', 'configs/sft.py:recipe=asft', 1e-3),
  # Four updates on each cached policy, so a quarter of the steps of 4 x rows.
  'psft': Way(
    'Proximal SFT', 'sft', 'configs/sft.py:recipe=psft', 1e-3,
    (('prompts_per_step', '1024'), ('minibatch_rows', '256')),
  ),
  'on_policy_sft': Way(
    'SFT on own right answers', 'sft',
    'configs/sft.py:recipe=rejection_sampling', 1e-3,
    (*_RL, ('collect.sampler', 'policy')),
  ),
  'grpo': Way('GRPO', 'rl', 'configs/rl.py:recipe=grpo', 3e-4, _RL),
  'grpo_kl': Way('GRPO + KL', 'rl', 'configs/rl.py:recipe=grpo_kl', 3e-4, _RL),
  'replay': Way(
    'SFT with replay', 'other', 'configs/sft.py:recipe=sft', 1e-3
  ),
  'multitask': Way(
    'All tasks at once', 'other', 'configs/sft.py:recipe=sft', 1e-3
  ),
}  # fmt: skip

SCALES = {
  'full': Scale(
    seeds=5, preset='pico', base_steps=2000, steps=60,
    snapshots=(10, 30), rates=(0.3, 1.0, 3.0), arms=tuple(WAYS),
    problems=256,
  ),
  'reduced': Scale(
    seeds=2, preset='pico', base_steps=150, steps=20, snapshots=(10,),
    rates=(1.0,), arms=('sft', 'on_policy_sft', 'grpo', 'replay'), problems=64,
  ),
}  # fmt: skip

# The new accuracy, in %, at which retention is compared.
MATCHED = 60.0

STUDY = lab.Study(
  name='forgetting',
  title='SFT against RL: forgetting',
  question=(
    'When a model learns new tasks one after the other, does RL forget less '
    'of the earlier ones than SFT, and is it RL, its own data, a small '
    'learning rate or an anchor that protects them?'
  ),
  paper_claims=(
    'RFT mitigates forgetting (037): after seven tasks in sequence SFT loses '
    '10.4 points of its best accuracies, GRPO 2.3; the KL penalty is not what '
    'protects.',
    "SFT doesn't always hurt (160): with a small learning rate SFT keeps "
    'general skills at nearly the same gain on the new task.',
    'Anchored SFT (2509.23753): DFT drifts; an anchor to the base keeps it.',
    'Proximal SFT (2508.17784): a clipped objective keeps other skills.',
  ),
  setup=(
    'Base: pico (0.2M parameters), SFT on five tasks at weight 1 and on the '
    'three new ones at weight 0.1. One in eight problems is never trained on, '
    'so at most 28 of the 32 facts can be known.',
    'Then two-number Countdown, two list functions in a row and 4x4 Sudoku '
    'with two holes, in this order; each stage begins with a fresh optimizer.',
    'Every step of every arm has 256 rows; demonstrations are drawn without '
    'end. RL and SFT on own answers sample 32 problems x 8.',
    'Greedy accuracy on 256 held-out problems of each task (on all facts); KL '
    'per token to the base, on own samples.',
    'Arms "replay" (a fifth of the rows from the base tasks) and "all tasks at '
    'once" are there to compare with: they see data that the others do not.',
  ),
  equal='optimizer steps and rows per step',  # `run` says how many
  tuning=(
    'three learning rates for each arm (0.3, 1 and 3 times the middle one), '
    'on the first new task; the best by its accuracy on validation problems '
    'is used for the sequence'
  ),
  measures={
    'new_accuracy': lab.Measure('New tasks after learning', '%', 'higher', 1),
    'gain': lab.Measure('Gained on them', '%', 'higher', 1),
    'final_new': lab.Measure('New tasks at the end', '%', 'higher', 1),
    'retention': lab.Measure('Base tasks at the end', '%', 'higher', 1),
    'forgetting': lab.Measure('Forgetting', '%', 'lower', 1),
    'matched': lab.Measure(
      f'Base tasks kept at {MATCHED:.0f}% of the first new one', '%', 'higher',
      1,
    ),
    'first_new': lab.Measure('First new task', '%', 'higher', 1),
    'first_base': lab.Measure('Base tasks after it', '%', 'higher', 1),
    'kl_new': lab.Measure('KL to base, new task', 'nats', 'lower', 3),
    'kl_base': lab.Measure('KL to base, base tasks', 'nats', 'lower', 3),
  },
  claims=(
    Claim('rl_forgets_less', '037', 'GRPO forgets less than SFT after three '
          'tasks in sequence', 'forgetting', 'grpo', 'sft', 'less', 5.0),
    Claim('matched', '037', 'at matched accuracy on the new task, GRPO keeps '
          'more of the base tasks than SFT', 'matched', 'grpo', 'sft',
          'greater', 5.0),
    Claim('kl_is_not_why', '037', 'GRPO without KL forgets as little as with '
          'it', 'forgetting', 'grpo', 'grpo_kl', 'equal', 5.0,
          moved='gain', at_least=5.0),
    Claim('own_data', '037', 'SFT on own right answers forgets less than SFT '
          'on demonstrations', 'forgetting', 'on_policy_sft', 'sft', 'less',
          5.0),
    Claim('small_rate_keeps', '160', 'SFT at a tenth of the rate forgets less',
          'forgetting', 'sft_small', 'sft', 'less', 5.0),
    Claim('small_rate_learns', '160', 'and learns the new tasks as well',
          'new_accuracy', 'sft_small', 'sft', 'equal', 5.0, moved='gain',
          at_least=5.0),
    Claim('anchor', '022', 'Anchored SFT forgets less than DFT', 'forgetting',
          'asft', 'dft', 'less', 5.0),
    Claim('proximal', '130', 'Proximal SFT forgets less than SFT',
          'forgetting', 'psft', 'sft', 'less', 5.0),
  ),
)  # fmt: skip


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
  there = [
    claim
    for claim in STUDY.claims
    if claim.arm in arms and claim.against in arms
  ]
  study = dataclasses.replace(
    STUDY,
    claims=there,
    equal=f'{STUDY.equal} ({scale.steps} x 256 for each task)',
  )
  return study, arms, figures(arms, begun, tables), []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
