"""Configs of the study's stages, and what is measured of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors

from configs import sft
from experiments.forgetting.design import (
  BASE,
  BY_HEART,
  EVERY,
  MIXED,
  WAYS,
  WEIGHTS,
  Scale,
)
from experiments.forgetting.frontier import Point
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = [
  'PARTS',
  'Judge',
  'arm_config',
  'base_config',
  'blend',
  'both',
  'mixture',
  'snapshots_of',
]

PARTS = ('test', 'validation')
_OTHER = dict(zip(PARTS, PARTS[::-1]))


def mixture(weights: Mapping[str, float]) -> ml_collections.ConfigDict:
  """Config entry of tasks of MIXED with their weights."""
  parts = {
    name: {**tasks.defaults(**MIXED[name]), 'weight': weight}
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


def arm_config(arm: str, scale: Scale, task: str = '') -> Any:
  """The config of an arm on a task of EVERY, by default its new one: equal
  updates of equal rows."""
  way = WAYS[arm]
  config = config_lib.load(way.spec)
  config.task = ml_collections.ConfigDict(
    tasks.defaults(**EVERY[task or way.task])
  )
  config.num_steps = scale.steps
  config.prompts_per_step = scale.rows
  # To nothing: a frontier's points are models that a run would hand on.
  config.optimizer.schedule = 'linear'
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
        'heldout_fraction': 0.0 if name in BY_HEART else self._fraction,
        'measures': ('accuracy_greedy',),
        # What is known by heart is asked for where it was trained: facts that
        # were held out all lie in the half that others are tested on.
        'part': _OTHER[part] if name in BY_HEART else part,
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

  def problems(self, new: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many different problems are in each set; of new tasks, `new`."""
    labels = {
      'near': 'new task',
      'far': 'far task',
      'known': 'base tasks',
      **{x: f'{x}, by heart' for x in BY_HEART},
    }
    return {
      labels[name]: lab.of_probe(self._lab, self.probe(name, 'test'))
      for name in (*new, 'known', *BY_HEART)
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


def both(point: Point, part: str = 'validation') -> np.ndarray:
  """[S] what rates are chosen by: new and base tasks, equally."""
  new = 100.0 * point.new[part].mean(1)
  return 0.5 * (new + point.retention(part))
