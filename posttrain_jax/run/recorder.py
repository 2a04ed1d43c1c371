"""What the loop of a run does on the host with steps that are finished."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from posttrain_jax import log
from posttrain_jax.core import heap, target
from posttrain_jax.core.types import TrainState
from posttrain_jax.log import progress
from posttrain_jax.run import failed
from posttrain_jax.run.speed import Speed
from posttrain_jax.trainers import guard

__all__ = ['Recorder', 'one_at_a_time']

# Shown beside the progress bar, where the run has them.
SHOWN = (
  'loss',
  'reward',
  'eval/accuracy',
  'eval/perplexity',
  'rewards/accuracies',
  'frac_rows_kept',
  'completions/mean_length',
  'entropy',
)
UNIFORM = 'frac_reward_zero_std'  # of the groups of a step
EVALUATED = 'eval/'  # what is known of the step of an evaluation alone
# Bytes of a state from which on the steps of a CPU wait for each other, and how
# long: its buffers are given back after its results are said to be there.
LARGE_STATE = 256 * 2**20
PAUSE_SECONDS = 0.01


def one_at_a_time(state: TrainState) -> bool:
  """Whether a step is begun only when the one before it has ended.

  A CPU takes a step's buffers when it begins with it, and may do so before it
  has given back those of the step before: both then stand in memory. What the
  host does between two steps is nothing beside one of a large model.
  """
  leaves = jax.tree.leaves(state)
  size = sum(x.size * x.dtype.itemsize for x in leaves)
  return target.backend() == 'cpu' and size >= LARGE_STATE


@dataclasses.dataclass
class Recorder:
  """What the loop does on the host with finished steps."""

  writer: log.Writer
  bar: progress.Progress
  handle: int
  watch: failed.Watch
  speed: Speed
  waits: bool = False
  resident: int = 0
  shown: dict[str, float] = dataclasses.field(default_factory=dict)
  evaluated: int = 0
  grouped: int = 0  # steps with groups of answers
  reward: float = math.nan  # of the last step, their mean
  alike: int = 0  # those of them where no two of a group earned differently
  pending: Any = None
  mark: float = 0.0

  @classmethod
  def of(cls, state: TrainState, *parts: Any) -> 'Recorder':
    """Of a run that goes on from `state`; `parts` are the first five fields."""
    waits = one_at_a_time(state)
    if waits:  # what loading took and no step will
      heap.give_back()
    return cls(*parts, waits)

  def push(self, first_step: int, metrics: dict, done: int) -> None:
    """Takes the metrics of steps just dispatched; handles the ones before, or
    these too where steps wait for each other."""
    self.drain()
    self.pending = (first_step, metrics, done)
    if self.waits:
      if not self.resident:  # what compiling took
        heap.give_back()
      self.drain()
      self.clear()

  def clear(self) -> None:
    """Between two steps of a large state: what the last one has freed.

    A buffer may not fit where it was freed, for want of a few bytes that
    something else has taken, and then stands beside its old place: most often
    after the first step, later seldom. That is given back, and only then: all
    that is has to be faulted in again.
    """
    time.sleep(PAUSE_SECONDS)
    resident = heap.resident()
    if not self.resident or resident > 1.1 * self.resident:
      heap.give_back()
    self.resident = max(self.resident, resident)

  def drain(self) -> None:
    """Waits for the pending steps, then writes and shows them.

    Raises:
      failed.NonFinite: one of them ends the run; it is the last one written.
    """
    if self.pending is None:
      return
    first_step, metrics, done = self.pending
    self.pending = None
    metrics = {name: np.asarray(x) for name, x in metrics.items()}
    now = time.monotonic()
    seconds = (now - self.mark) / done
    self.mark = now
    what = metrics.pop(guard.WHAT)
    bad = self.watch.failing(what)
    if bad is not None:
      done = bad + 1
      metrics = {name: x[:done] for name, x in metrics.items()}
    if UNIFORM in metrics:
      self.grouped += done
      self.alike += int(np.sum(metrics[UNIFORM] > 1.0 - 1e-6))
      self.reward = float(metrics.get('reward', [math.nan])[-1])
    metrics['time/step'] = np.full(done, seconds)
    metrics |= self.speed.metrics(metrics['num_tokens'], seconds)
    self.writer.write_stacked(first_step, metrics)
    last = {k: float(v[-1]) for k, v in metrics.items()}
    self.show(first_step + done - 1, last)
    if bad is not None:
      self.writer.flush()
      raise failed.NonFinite(
        first_step + bad, last, float(what[bad]), self.watch.mode
      )

  def show(self, step: int, metrics: dict[str, float]) -> None:
    """Shows what is known at a step; of an evaluation that was before it, too,
    with the step at which it was."""
    self.shown |= {k: metrics[k] for k in SHOWN if k in metrics}
    if any(name.startswith(EVALUATED) for name in metrics):
      self.evaluated = step
    old = f' (step {self.evaluated:,})' if self.evaluated < step else ''
    self.bar.update(
      self.handle,
      step,
      {
        name: f'{progress.short(value)}{old}'
        if name.startswith(EVALUATED)
        else value
        for name, value in self.shown.items()
      },
    )
