"""The best step of a run, by a metric of its evaluations: kept with the newest.

`config.checkpoint.best='eval/loss'` saves the run whenever an evaluation is
better than all before it, and keeps that step. `best.json` in the run's folder
names it; 'runs/x/best' stands for it wherever a checkpoint is asked for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain_jax.core import paths
from posttrain_jax.core.resolve import nearest

__all__ = ['FILE', 'NAME', 'Best', 'Keeper', 'check', 'lower_is_better', 'read']

FILE, NAME = 'best.json', 'best'
# Words in the names of metrics that are better when they are lower.
LOWER = ('loss', 'perplexity', 'truncated', 'length', 'kl', 'ece', 'brier')
# Last parts of names: rewards have words such as these in their labels.
LOWER_LAST = ('none', 'unscored')


class Best(NamedTuple):
  """The best step so far."""

  metric: str
  value: float
  step: int


def lower_is_better(metric: str) -> bool:
  """Whether a smaller value of a metric is the better one, by its name."""
  before, _, last = metric.rpartition('/')
  if last in LOWER_LAST:
    # Where nothing stands between, it is a reward's label.
    return last == 'unscored' or not before.endswith('rewards')
  return any(word in last.replace('@', '_').split('_') for word in LOWER)


def read(workdir: str | Path) -> Best | None:
  """What `best.json` of a run's folder says; None: there is none.

  Raises:
    ValueError: it is no such file.
  """
  file = paths.path(workdir) / FILE
  if not file.exists():
    return None
  try:
    content = json.loads(file.read_text())
    return Best(
      str(content['metric']), float(content['value']), int(content['step'])
    )
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{file}: not the best step of a run: {error!r}') from None


def check(config: Any) -> None:
  """Raises ValueError where a best step is asked for and nothing judges it."""
  if config.checkpoint.best and config.eval.every == 0:
    raise ValueError(
      f'checkpoint.best="{config.checkpoint.best}" needs evaluations to choose '
      'from, and eval.every=0 leaves only the last one; set eval.every'
    )


class Keeper:
  """Which steps a run keeps: the newest ones and the best one.

  An Orbax preservation policy, told of every evaluation.

  Args:
    workdir: the run's folder; a best step that it names is gone on from.
    metric: that decides; '' for no best step.
    keep: newest steps that are kept; 0 keeps all.

  Raises:
    ValueError: `best.json` is of another metric, or cannot be read.
  """

  def __init__(self, workdir: str | Path, metric: str, keep: int):
    self._file = paths.path(workdir) / FILE
    self._metric, self._keep = metric, keep
    self._best = read(workdir) if metric else None
    if self._best and self._best.metric != metric:
      raise ValueError(
        f'{self._file} keeps the best step by "{self._best.metric}", not by '
        f'checkpoint.best="{metric}"; remove it to choose anew'
      )

  def improves(self, scores: Mapping[str, float], step: int) -> bool:
    """Whether `scores` of a step are the best so far; remembers them.

    Raises:
      ValueError: the evaluation has no such metric; with the nearest.
    """
    if not self._metric:
      return False
    if self._metric not in scores:
      raise ValueError(
        f'checkpoint.best="{self._metric}" is no metric of this evaluation.'
        + nearest(self._metric, scores)
      )
    value = float(scores[self._metric])
    if math.isnan(value):
      return False
    if self._best is not None:
      old = self._best.value
      better = value < old if lower_is_better(self._metric) else value > old
      if not better:
        return False
    self._best = Best(self._metric, value, step)
    return True

  def write(self) -> None:
    """Names the best step on disk; call it when that step is there."""
    if self._best is not None:
      content = json.dumps(self._best._asdict(), indent=1) + '\n'
      paths.write(self._file, content)

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """For each checkpoint, oldest first, whether it stays."""
    del context
    steps = [info.step for info in checkpoints]
    kept = set(steps[-self._keep :]) if self._keep else set(steps)
    best = self._best.step if self._best else None
    return [step in kept or step == best for step in steps]
