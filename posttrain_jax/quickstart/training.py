"""The base model and the arms: how they train, and what they answer.

One base model; from it every arm, at every learning rate, with several seeds
side by side in one program. Stages are kept on disk by `lab.Lab`: an
interrupted quickstart goes on where it stopped.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from posttrain_jax import lab
from posttrain_jax.log import progress
from posttrain_jax.quickstart.answers import Answers, reported, texts
from posttrain_jax.run import accounting, build, values
from posttrain_jax.tasks import vocab

__all__ = [
  'ARMS',
  'LABELS',
  'Found',
  'Point',
  'check',
  'labs',
  'steps_of',
  'train',
]

# In the order of the page; SFT on own answers stands between the two.
ARMS = ('sft', 'grpo', 'own')
LABELS = {
  'base': 'base model',
  'sft': 'SFT',
  'grpo': 'GRPO',
  'own': 'SFT on own right answers',
}
RATE = 'optimizer.lr'
Labs = tuple[lab.Lab, lab.Lab]


@dataclasses.dataclass(frozen=True)
class Point:
  """What a model of every seed answers.

  accuracy    [S] share of sampled answers that are right, to the new task's
              reported problems
  greedy      [S] of the most likely answers to them
  retention   [S] of the most likely answers to the old tasks' problems
  validation  [S] as `accuracy`, of the new task's other problems, by which a
              rate is chosen
  shown       texts, one for each of the problems that the page shows
  """

  accuracy: np.ndarray
  greedy: np.ndarray
  retention: np.ndarray
  validation: np.ndarray
  shown: tuple[tuple[str, bool], ...]


@dataclasses.dataclass(frozen=True)
class Found:
  """All that was trained and measured.

  points    {arm: {rate: Point}}
  steps     {arm: steps}, at equal counted FLOPs
  account   {arm: what one seed at one rate took, by `accounting.ITEMS`}
  prompts   of the problems that are shown
  problems  {'new' or 'old': `lab.counts`}
  seconds   of training and measuring, those of earlier processes included
  commit    of the code that trained
  """

  base: Point
  points: Mapping[str, Mapping[float, Point]]
  steps: Mapping[str, int]
  account: Mapping[str, Mapping[str, float]]
  prompts: tuple[str, ...]
  problems: Mapping[str, Mapping[str, int]]
  seconds: float
  commit: str


def check(config: Any) -> None:
  """Refuses a config that cannot be a quickstart.

  Raises:
    ValueError: names the key, its value and the nearest valid one.
  """
  values.check_arms(config, ('base', *ARMS))
  least = {
    'seeds': 2,  # one has no spread
    'eval.new_problems': 2,
    'eval.old_problems': 1,
    'eval.batch': 1,
    'eval.shown': 0,
    'eval.samples': 1,
  }
  for key, low in least.items():
    value = config
    for part in key.split('.'):
      value = value[part]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
      raise ValueError(
        f'{key}={value} is not a whole number from {low} on; nearest valid: '
        f'{low}'
      )
  for key in ('new_problems', 'old_problems'):
    count, batch = config.eval[key], config.eval.batch
    size = min(count, batch)
    if count % size:
      raise ValueError(
        f'eval.{key}={count} is no multiple of eval.batch={batch}; nearest '
        f'valid: {max(1, round(count / batch)) * batch}'
      )
  rates = list(config.rates)
  rising = all(a < b for a, b in zip(rates, rates[1:]))
  if not rates or not rising or not rates[0] > 0:
    raise ValueError(
      f'rates={tuple(rates)} are not positive and rising, as (3e-4, 6e-4) are'
    )
  for name in ('base', *ARMS):
    for key in ('model', 'heldout_fraction', 'task'):
      if (name, key) == ('base', 'task'):
        continue
      mine, other = config[name][key], config.grpo[key]
      if mine != other:
        raise ValueError(
          f'{name}.{key} is not that of grpo: the arms would not learn the '
          'same thing'
        )
  old_tasks(config)
  if not config.grpo.heldout_fraction > 0:
    raise ValueError(
      'heldout_fraction=0 leaves no problem that is not trained on; nearest '
      'valid: 0.25 for base and all arms'
    )


def arm_config(config: Any, name: str, steps: int) -> Any:
  """The config of an arm with its number of steps."""
  arm = config[name].copy_and_resolve_references()
  arm.num_steps = steps
  return arm


def steps_of(config: Any) -> dict[str, int]:
  """{arm: steps}: as many as cost what GRPO's cost, by counted FLOPs."""
  costs = {}
  for name in ARMS:
    run = build.build(config[name])
    costs[name] = accounting.step_flops(
      config[name], run.model, run.sizes, run.models
    )
  whole = config.grpo.num_steps * costs['grpo']
  return {name: max(1, round(whole / costs[name])) for name in ARMS}


class Judge:
  """What stages answer: new task and old tasks, each in one program."""

  def __init__(self, config: Any, runs: lab.Lab):
    base = build.build(config.base)
    make = lambda task, count, samples: Answers(
      model=base.model,
      task=task,
      num_problems=count,
      batch=min(count, config.eval.batch),
      heldout_fraction=config.base.heldout_fraction,
      samples=samples,
    )
    new = build.make_task(config.grpo.task)
    self._new = make(new, config.eval.new_problems, config.eval.samples)
    self._old = make(old_tasks(config), config.eval.old_problems, 0)
    self._runs = runs
    draw = lambda answers: [
      jax.jit(answers.problems)(key) for key in runs.split_keys('test')
    ]
    asked, kept = draw(self._new), draw(self._old)
    self._reported = np.stack([reported(self._new, x) for x in asked])
    halves = [
      [jax.tree.map(lambda x, k=keep: x[k], y) for y, keep in zip(asked, part)]
      for part in (self._reported, ~self._reported)
    ]
    self.problems = {
      'new': lab.counts(new, *halves),
      'old': lab.counts(self._old.task, kept),
    }
    first = np.flatnonzero(self._reported[0])[: config.eval.shown]
    self._first = first
    self.prompts = tuple(
      vocab.decode(asked[0].prompt[i], asked[0].prompt_mask[i]) for i in first
    )

  def __call__(self, stage: lab.Trained) -> Point:
    new = self._runs.measure(stage, self._new)
    old = self._runs.measure(stage, self._old)
    right, sampled = np.asarray(new['right']), np.asarray(new['sampled'])
    mean = lambda shares, kept: np.array(
      [row[keep].mean() if keep.any() else np.nan
       for row, keep in zip(shares, kept)]
    )  # fmt: skip
    written = texts(
      *(np.asarray(new[key][0])[self._first] for key in ('tokens', 'mask'))
    )
    verdicts = right[0][self._first] > 0.5
    return Point(
      accuracy=mean(sampled, self._reported),
      greedy=mean(right, self._reported),
      retention=np.mean(old['right'], axis=1),
      validation=mean(sampled, ~self._reported),
      shown=tuple(zip(written, verdicts.tolist())),
    )


def old_tasks(config: Any) -> Any:
  """The base model's mixture without the new task, in equal parts."""
  entry = config.base.task.copy_and_resolve_references()
  if 'parts' not in entry:
    raise ValueError(
      f'base.task.name="{entry.name}" is one task: a base that knows several '
      'has base.task.name=mixture'
    )
  new = config.grpo.task.name
  if new in entry.parts:
    del entry.parts[new]
  for part in entry.parts.values():
    part.weight = 1.0
  if not entry.parts:
    raise ValueError(
      f'base.task.parts has "{new}" alone: there is no old task to keep'
    )
  return build.make_task(entry)


def labs(
  config: Any,
  workdir: Path,
  bar: progress.Progress | None = None,
  like: Labs | None = None,
) -> Labs:
  """The lab of the base's one seed and that of the arms' seeds.

  like  those of another quickstart, whose compiled programs they take
  """
  seeds = range(config.seed, config.seed + config.seeds)
  base, arms = like or (None, None)
  return (
    lab.Lab(workdir, seeds[:1], bar, base, brief=True),
    lab.Lab(workdir, seeds, bar, arms, brief=True),
  )


def train(config: Any, both: Labs, bar: progress.Progress) -> Found:
  """Trains and measures the base and every arm at every rate; `labs`."""
  alone, runs = both
  bar.say(
    f'Training the base model: {config.base.num_steps} steps on '
    f'{", ".join(config.base.task.parts)}. Its first minute is compiling.'
  )
  base = alone.train('base', config.base).for_seeds(config.seeds)
  judge = Judge(config, runs)
  start = judge(base)
  bar.say(
    f'The base model is right on {_percent(start.accuracy)} of the new task '
    f'and {_percent(start.retention)} of the old ones.'
  )
  steps = steps_of(config)
  points: dict[str, dict[float, Point]] = {}
  account = {}
  for name in ARMS:
    points[name] = {}
    arm = arm_config(config, name, steps[name])
    bar.say(
      f'{LABELS[name]}: {steps[name]} steps at each of {len(config.rates)} '
      f'learning rates, {config.seeds} seeds at a time.'
    )
    for rate in config.rates:
      stage = runs.train(f'{name}-{rate:g}', arm, base, {RATE: rate})
      points[name][rate] = point = judge(stage)
      account[name] = lab.total_account([stage])[0]
      bar.say(
        f'  rate {rate:g}: new task {_percent(point.accuracy)}, old tasks '
        f'{_percent(point.retention)}'
      )
  commits = sorted(runs.commits | alone.commits)
  return Found(
    base=start,
    points=points,
    steps=steps,
    account=account,
    prompts=judge.prompts,
    problems=judge.problems,
    seconds=alone.seconds + runs.seconds,
    commit=', '.join(commits),
  )


def _percent(shares: np.ndarray) -> str:
  return f'{100 * float(np.mean(shares)):.1f}%'
