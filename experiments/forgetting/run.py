r"""SFT against RL: what is kept of old tasks, at an equal gain on a new one.

  python -m experiments.forgetting.run             # full
  python -m experiments.forgetting.run --reduced   # minutes

A base model knows five tasks well, a new one a third of the time and another
new one almost never. Every arm learns a new one at every learning rate of one
grid. README.md has the question and the reading, design.py the settings and the
claims, frontier.py how arms are compared.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors

from configs import sft
from experiments.forgetting import frontier
from experiments.forgetting.design import (
  BASE,
  BY_HEART,
  EVERY,
  EXPLAINED,
  FRONTIER,
  GAIN,
  HIGH,
  LOW,
  RATE,
  SCALES,
  SHARES,
  STUDY,
  WAYS,
  WEIGHTS,
  Scale,
)
from experiments.forgetting.frontier import Point
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

PARTS = ('test', 'validation')


def mixture(weights: Mapping[str, float]) -> ml_collections.ConfigDict:
  """Config entry of tasks of EVERY with their weights."""
  parts = {
    name: {**tasks.defaults(**EVERY[name]), 'weight': weight}
    for name, weight in weights.items()
  }
  return ml_collections.ConfigDict({'name': 'mixture', 'parts': parts})


def base_config(scale: Scale) -> Any:
  """SFT on all tasks by their weights."""
  config = sft.get_config()
  config.task = mixture(WEIGHTS)
  config.num_steps = scale.base_steps
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = 3e-3
  config.steps_per_call = 100
  return _shared(config, scale)


def _shared(config: Any, scale: Scale) -> Any:
  config.model.preset = scale.preset
  config.eval.num_problems = 0
  return config


def arm_config(arm: str, scale: Scale) -> Any:
  """The config of an arm on its new task: equal updates of equal rows."""
  way = WAYS[arm]
  config = config_lib.load(way.spec)
  config.task = ml_collections.ConfigDict(tasks.defaults(**EVERY[way.task]))
  config.num_steps = scale.steps
  config.prompts_per_step = scale.rows
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = scale.steps
  config_lib.override(config, way.items)
  if way.group > 1:
    config.group_size = way.group
    config.prompts_per_step = scale.rows // way.group
  if way.updates > 1:  # on each batch, of that many times the rows
    config.minibatch_rows = scale.rows
    config.prompts_per_step = scale.rows * way.updates
    config.num_steps = scale.steps // way.updates
  return _shared(config, scale)


def snapshots_of(arm: str, scale: Scale) -> tuple[int, ...]:
  """Steps at which a stage of an arm is looked at before its end."""
  return tuple(x // WAYS[arm].updates for x in scale.snapshots)


class Judge:
  """What models know: the new task, the base tasks, the KL to the base."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab, self._base, self._scale = runs, base, scale
    self._model = build.build(base.config).model
    self._fraction = base.config.heldout_fraction
    known = dict.fromkeys((x for x in BASE if x not in BY_HEART), 1.0)
    self._tasks = {
      'known': build.make_task(mixture(known)),
      **{
        name: tasks.make(**EVERY[name]) for name in (*BY_HEART, 'near', 'far')
      },
    }
    self._points: dict[tuple[str, str], Point] = {}

  def probe(self, name: str, part: str, **more: Any) -> measures.Probe:
    """Greedy answers to one set of problems."""
    count = self._scale.problems[name] // (1 if part == 'test' else 2)
    return measures.Probe(
      **{
        'model': self._model,
        'task': self._tasks[name],
        'num_problems': count,
        'samples': 1,
        'batch': count,
        # What is known by heart is asked for, trained or not.
        'heldout_fraction': 0.0 if name in BY_HEART else self._fraction,
        'measures': ('accuracy_greedy',),
        'part': part,
        'by_problem': True,
        **more,
      }
    )

  def right(self, stage: lab.Trained, name: str, part: str) -> np.ndarray:
    """[S, N] 1.0 where the greedy answer is right."""
    found = self._lab.measure(stage, self.probe(name, part), split=part)
    return np.array(found['accuracy_greedy/problems'])

  def point(self, stage: lab.Trained, new: str, name: str = '') -> Point:
    """A model on the new task `new` and on the base tasks."""
    key = stage.digest, new
    if key not in self._points:
      kept = {
        part: np.concatenate(
          [self.right(stage, x, part) for x in ('known', *BY_HEART)], axis=1
        )
        for part in PARTS
      }
      learned = {part: self.right(stage, new, part) for part in PARTS}
      self._points[key] = Point(name, learned, kept)
    return self._points[key]

  def kl(self, stage: lab.Trained, new: str) -> np.ndarray:
    """[S] KL(model || base) a token on own samples for the new task."""
    probe = self.probe(
      new, 'validation', measures=('kl_reverse',), by_problem=False
    )
    found = self._lab.measure(stage, probe, self._base, split='validation')
    return np.array(found['kl_reverse'])

  def distance(self, stage: lab.Trained) -> np.ndarray:
    """[S] Euclidean distance of all parameters from the base."""
    flat = traverse_util.flatten_dict(stage.params, sep='/')
    start = traverse_util.flatten_dict(self._base.params, sep='/')
    squares = sum(
      np.sum(
        np.square(np.asarray(flat[k]) - np.asarray(start[k])).reshape(
          len(flat[k]), -1
        ),
        axis=1,
      )
      for k in start
    )
    return np.sqrt(squares)

  def problems(self) -> dict[str, dict[str, int]]:
    """How many different problems there are in each set."""
    return {
      label: lab.of_probe(self._lab, self.probe(name, 'test'))
      for name, label in (
        ('near', 'new task'),
        ('far', 'far task'),
        ('known', 'base tasks'),
        *((x, f'{x}, by heart') for x in BY_HEART),
      )
    }


def blend(
  runs: lab.Lab, base: lab.Trained, stage: lab.Trained, share: float
) -> lab.Trained:
  """WiSE-FT: base + share * (stage - base), kept beside the stages."""
  digest = f'{stage.digest}-wise-{share:g}'
  path = runs.workdir / 'blends' / f'{digest}.safetensors'
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    start, end = (
      traverse_util.flatten_dict(x.params, sep='/') for x in (base, stage)
    )
    mixed = {
      k: np.asarray(start[k])
      + np.float32(share) * np.asarray(end[k] - start[k])
      for k in start
    }
    made = path.with_name(f'.{path.name}')
    safetensors.save_file(mixed, made)
    made.replace(path)
  return dataclasses.replace(
    stage, name=f'wise-{share:g}', digest=digest, path=path, snapshots={}
  )


@dataclasses.dataclass(frozen=True)
class Found:
  """All that is measured of one arm.

  points  {rate: its points, the end of the stage last}
  chosen  the rate that validation problems chose
  end     its point that was chosen
  """

  points: Mapping[float, list[Point]]
  chosen: float
  end: Point

  def along(self, base: Point, rates: Sequence[float] = ()) -> list[Point]:
    """The base's point and those of all rates, or of some."""
    wanted = rates or self.points
    return [base, *(x for rate in wanted for x in self.points[rate])]


def both(point: Point, part: str = 'validation') -> np.ndarray:
  """[S] what rates are chosen by: new and base tasks, equally."""
  new = 100.0 * point.new[part].mean(1)
  return 0.5 * (new + point.retention(part))


def learn(
  runs: lab.Lab, judge: Judge, base: lab.Trained, scale: Scale
) -> dict[str, lab.Tuned]:
  """Every arm that trains, at every rate of one grid."""

  def tuned(task: str, grid: Sequence[float], extend: int):
    def maker(arm: str):
      config = arm_config(arm, scale)
      return lambda rate: runs.train(
        arm, config, base, {RATE: rate}, snapshots=snapshots_of(arm, scale)
      )

    arms = {
      arm: maker(arm)
      for arm in scale.arms
      if WAYS[arm].spec and WAYS[arm].task == task
    }
    score = lambda arm, stage: both(judge.point(stage, task))
    return lab.tune(arms, grid, score, extend) if arms else {}

  near = tuned('near', scale.grid, 1)
  # The far task is there to see who gains at all: at the same rates.
  grid = sorted(next(iter(near.values())).tried)
  return near | tuned('far', grid, 0)


def look(judge: Judge, arm: str, tuned: lab.Tuned) -> Found:
  """The points of an arm that trains."""
  points = {}
  for rate, stage in sorted(tuned.tried.items()):
    stages = [*stage.snapshots.values(), stage]
    points[rate] = [judge.point(x, WAYS[arm].task) for x in stages]
  return Found(points, tuned.chosen, points[tuned.chosen][-1])


def blends(
  runs: lab.Lab, base: lab.Trained, tuned: lab.Tuned
) -> dict[float, list[lab.Trained]]:
  """WiSE-FT of every rate of SFT, by its shares."""
  return {
    rate: [blend(runs, base, stage, share) for share in SHARES]
    for rate, stage in sorted(tuned.tried.items())
  }


def look_at_blends(
  judge: Judge, made: Mapping[float, list[lab.Trained]]
) -> Found:
  """As `look`; the share is chosen with the rate."""
  points = {
    rate: [judge.point(x, 'near') for x in stages]
    for rate, stages in made.items()
  }
  every = {(r, i): x for r, xs in points.items() for i, x in enumerate(xs)}
  rate, index = lab.best(every, both)
  return Found(points, rate, points[rate][index])


def values_of(found: Found, base: Point) -> tuple[dict, dict]:
  """(numbers by seed, outcomes by seed and problem) of an arm."""
  end, along = found.end, frontier.mixed(found.along(base), GAIN)
  # As results.json keeps them.
  kept = np.round(along['kept'], 3)
  values = {
    'matched': 100.0 * kept.mean(1),
    'matched_gain': along['gain'],
    'most': along['most'],
    'gain': end.gain(base, 'test'),
    'new': 100.0 * end.new['test'].mean(1),
    'retention': end.retention('test'),
    'both': both(end, 'test'),
  }
  return values, {'matched': kept}


def make_arm(
  arm: str, found: Found, base: Point, stages: Sequence[lab.Trained]
) -> lab.Arm:
  """What an arm shows; `stages` are what its chosen rate took."""
  way = WAYS[arm]
  values, outcomes = values_of(found, base)
  if way.task == 'far':  # where hardly anything is gained
    values = {k: values[k] for k in ('most', 'gain', 'new', 'retention')}
    outcomes = {}
  # Frontiers are of all rates: what is chosen is for the other measures.
  chosen = {key: found.chosen for key in values if key not in FRONTIER}
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec or WAYS['sft'].spec,
    overrides=dict(way.items),
    values=values,
    account=lab.total_account(stages),
    tuned={RATE: {'grid': list(found.points), 'chosen': chosen}},
    outcomes=outcomes,
  )


def halves(
  found: Found, base: Point, stages: Sequence[lab.Trained]
) -> dict[str, lab.Arm]:
  """SFT at small rates alone, and at large ones alone."""
  made = {}
  for arm, label, rates in (
    ('sft_small', f'SFT, rates up to {LOW:g}', [x for x in found.points
                                                if x <= LOW]),
    ('sft_large', f'SFT, rates from {HIGH:g}', [x for x in found.points
                                                if x >= HIGH]),
  ):  # fmt: skip
    along = frontier.mixed(found.along(base, rates), GAIN)
    kept = np.round(along['kept'], 3)
    made[arm] = lab.Arm(
      label=label,
      family='sft',
      config=WAYS['sft'].spec,
      overrides={},
      values={
        'matched': 100.0 * kept.mean(1),
        'matched_gain': along['gain'],
        'most': along['most'],
      },
      account=lab.total_account(stages),
      outcomes={'matched': kept},
    )
  return made


def razor(
  judge: Judge,
  base: Point,
  stages: Sequence[lab.Trained],
) -> tuple[dict[str, lab.Arm], np.ndarray, np.ndarray]:
  """How well KL and distance say what is forgotten, over all arms and rates.

  Returns (arms, [models, S] KL to the base on the new task, [models, S] points
  of the base tasks that are lost).
  """
  lost = np.stack([
    base.retention('test') - judge.point(x, 'near').retention('test')
    for x in stages
  ])  # fmt: skip
  kls = np.stack([judge.kl(x, 'near') for x in stages])
  distances = np.stack([judge.distance(x) for x in stages])
  rank = lambda x: [
    frontier.rank_correlation(x[:, s], lost[:, s]) for s in range(x.shape[1])
  ]
  arm = lambda label, values: lab.Arm(
    label=label, family='base', config='', overrides={},
    values={'explained': values}, account=[],
  )  # fmt: skip
  return (
    {
      'by_kl': arm('Forgetting by KL on the new task', rank(kls)),
      'by_distance': arm('Forgetting by distance of weights', rank(distances)),
      'bar': arm('The bound set before', [EXPLAINED] * lost.shape[1]),
    },
    kls,
    lost,
  )


def base_arms(base: Mapping[str, Point], stage: lab.Trained) -> dict:
  """The base, as it knows either new task."""
  made = {}
  for arm, label, task in (
    ('base', 'Base', 'near'), ('base_far', 'Base, far task', 'far'),
  ):  # fmt: skip
    point = base[task]
    made[arm] = lab.Arm(
      label=label,
      family='base',
      config='configs/sft.py',
      overrides={},
      values={
        'new': 100.0 * point.new['test'].mean(1),
        'retention': point.retention('test'),
      },
      account=lab.total_account([stage]),
    )
  return made


GROUPS = {
  'by_data': (
    'RL, own data and demonstrations',
    ('sft', 'own', 'grpo', 'grpo_kl'),
  ),
  'by_loss': (
    'Losses on demonstrations',
    ('sft', 'sft_kl', 'dft', 'asft', 'psft', 'talr'),
  ),
  'by_anchor': (
    'Where the model may go',
    ('sft', 'l2', 'flow', 'wise', 'lora'),
  ),
}


def line(points: list[Point]) -> dict[str, list]:
  """An arm's frontier: corners by validation, numbers by test problems."""
  base = points[0]
  means = lambda of: np.array([of(x).mean() for x in points])
  corners = frontier.hull(
    means(lambda x: x.gain(base, 'validation')),
    means(lambda x: x.retention('validation')),
  )
  shown = sorted(
    (points[i] for i in corners), key=lambda x: x.gain(base, 'test').mean()
  )
  return {
    'x': [float(x.gain(base, 'test').mean()) for x in shown],
    'y': [x.retention('test').tolist() for x in shown],
  }


def figures(
  found: Mapping[str, Found], base: Point, kls: np.ndarray, lost: np.ndarray
) -> list[dict[str, Any]]:
  """Frontiers, what is kept at an equal gain, and the razor."""
  made = []
  for name, (title, arms) in GROUPS.items():
    there = [arm for arm in arms if arm in found]
    made.append(
      {
        'kind': 'lines', 'name': name, 'title': f'{title}: kept against gained',
        'xlabel': 'gained on the new task (points)',
        'ylabel': 'base tasks (%)', 'logx': False,
        'series': {
          WAYS[arm].label: line(found[arm].along(base)) for arm in there
        },
        'caption': 'Frontiers over all rates and snapshots, from the base at '
                   '0: corners chosen on validation problems, numbers of test '
                   'problems, mean and 95% interval over seeds.',
      }
    )  # fmt: skip
  order = np.argsort(kls.mean(1))
  return [
    *made,
    {
      'kind': 'bars', 'name': 'matched', 'title': 'At an equal gain',
      'measures': ['matched', 'most'],
      'caption': f'Left: base tasks at {GAIN:g} points gained, along each '
                 "arm's frontier (of an arm that never gets there: where it "
                 'gained most). Right: the most that it gained at any rate.',
    },
    {
      'kind': 'frontier', 'name': 'chosen', 'title': 'At the chosen rates',
      'x': 'gain', 'y': 'retention',
      'caption': 'Each arm at the rate that new and base tasks together chose '
                 'on validation problems.',
    },
    {
      'kind': 'lines', 'name': 'forgetting_by_kl',
      'title': 'What is forgotten, by the KL to the base on the new task',
      'xlabel': 'KL (nats a token)', 'ylabel': 'points lost', 'logx': False,
      'series': {
        'every arm and rate': {
          'x': [float(x) for x in kls.mean(1)[order]],
          'y': lost[order].tolist(),
        }
      },
      'caption': 'One mark for each arm and rate, in order of their KL.',
    },
  ]  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = runs.train('base', base_config(scale))
  judge = Judge(runs, base, scale)
  tuned = learn(runs, judge, base, scale)
  start = {task: judge.point(base, task) for task in ('near', 'far')}
  found = {arm: look(judge, arm, own) for arm, own in tuned.items()}
  made = blends(runs, base, tuned['sft'])
  found['wise'] = look_at_blends(judge, made)
  near = [arm for arm in scale.arms if WAYS[arm].task == 'near']
  ends = [
    *(x for arm in near if arm in tuned for x in tuned[arm].tried.values()),
    *(x for stages in made.values() for x in stages),
  ]
  predicted, kls, lost = razor(judge, start['near'], ends)
  arms = base_arms(start, base)
  for arm in scale.arms:
    source = tuned[arm if arm in tuned else 'sft']
    stages = [source.tried[found[arm].chosen]]
    arms[arm] = make_arm(arm, found[arm], start[WAYS[arm].task], stages)
  sft_stage = tuned['sft'].tried[tuned['sft'].chosen]
  arms |= halves(found['sft'], start['near'], [sft_stage])
  arms |= predicted
  study = dataclasses.replace(
    STUDY,
    equal=f'{STUDY.equal} ({scale.steps} x {scale.rows})',
    problems=judge.problems(),
  )
  return study, arms, figures(found, start['near'], kls, lost), []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
