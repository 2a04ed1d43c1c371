"""The loop of a run: steps, evaluations, checkpoints, and how it stops."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any, TextIO

import jax

from posttrain_jax import advantages, log
from posttrain_jax.core import heap, hosts, paths, sharding, target
from posttrain_jax.core.types import TrainState
from posttrain_jax.log import progress
from posttrain_jax.run import (
  base,
  build,
  checkpoint,
  drivers,
  failed,
  hub_keys,
  measured,
  model_folder,
  notes,
  on_disk,
  rescue,
  served_rl,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.continuing import (
  built,
  check_continues,
  check_folder,
  other_schedule,
)
from posttrain_jax.run.feed import Feed
from posttrain_jax.run.judging import evaluated, judged
from posttrain_jax.run.lease import Lease
from posttrain_jax.run.notices import Notices
from posttrain_jax.run.profile import Profiler
from posttrain_jax.run.recorder import Recorder
from posttrain_jax.run.saving import Saver
from posttrain_jax.run.speed import Speed
from posttrain_jax.run.state import abstract_state, first_state, saved_state
from posttrain_jax.run.stop import Interrupted, Stop
from posttrain_jax.run.watchdog import Watchdog

FEW_STEPS = 2  # that say nothing of a run


def next_stop(step: int, config: Any, profiler: Profiler | None = None) -> int:
  """The next step at which something happens on the host."""
  stops = [config.num_steps]
  traced = profiler and profiler.next_stop(step)
  stops += [traced] if traced else []
  for every in (config.eval.every, config.checkpoint.every):
    if every > 0:
      stops.append((step // every + 1) * every)
  return min(stops)


def run_mesh(config: Any) -> jax.sharding.Mesh:
  """The mesh of a run.

  Raises:
    ValueError: it does not fit the devices; of several processes one would
      have none in it.
  """
  mesh = sharding.make_mesh(config.mesh)
  if mesh.size < target.device_count() and hosts.several():
    raise ValueError(
      f'mesh {sharding.shown_as(sharding.axis_sizes(config.mesh))} takes '
      f'{mesh.size} of the {target.device_count()} devices of '
      f'{jax.process_count()} processes: with several processes it has to take '
      'all; set one axis to -1'
    )
  return mesh


def make_driver(run: build.Run, config: Any, workdir: Path = Path()):
  """The driver of a run: in-graph steps, steps on data or on a host task."""
  if isinstance(run.step, drivers.HostStep):
    return served_rl.driver(run, config, workdir)
  if run.batches is not None:
    return drivers.OnData(run.step, run.batches())
  return drivers.InGraph(run.step, config.seed, config.steps_per_call)


def _start(
  run: build.Run,
  mesh: jax.sharding.Mesh,
  config: Any,
  workdir: Path,
  saver: checkpoint.Checkpointer,
  driver: Any,
) -> TrainState:
  """The state that a run goes on from; the driver is set to its position."""
  if saver.latest is None:
    state, entry = first_state(run, mesh, config, workdir)
    failed.save_config(workdir, config, run, entry)
    return state
  saved = saved_state(run, mesh, config, workdir)
  state, position = saver.restore(saved)
  driver.seek(position)
  return state


@dataclasses.dataclass
class _Loop:
  """The steps of one run, from a state on; `last` is (state, steps done)."""

  run: build.Run
  config: Any
  workdir: Path
  driver: Any
  saver: checkpoint.Checkpointer
  lease: Lease
  recorder: Recorder
  stop: Stop
  agreement: hosts.Agreement
  profiler: Profiler
  watchdog: Watchdog
  last: tuple[TrainState, int] = dataclasses.field(init=False)

  def __call__(
    self, state: TrainState, step: int, fresh: bool
  ) -> tuple[TrainState, dict[str, float]]:
    """(the state after the last step, the last evaluation)."""
    config, recorder = self.config, self.recorder
    scores: dict[str, float] = {}
    self.last = state, step
    if fresh and config.eval.every > 0 and judged(self.run):
      scores = self._evaluate(state, 0)
    recorder.mark = time.monotonic()
    while step < config.num_steps:
      self.profiler.at(step)
      until = next_stop(step, config, self.profiler)
      self.watchdog.at(step, 'step')
      state, metrics, done = self.driver.advance(state, step, until - step)
      step += done
      self.last = state, step
      self.watchdog.at(step, 'devices')
      last = step == config.num_steps
      # Once: a signal may come at any line, and to any process.
      stopping, failing = self.agreement.tell(
        [self.stop.number, int(self.driver.failing())]
      )
      if failing:
        self.driver.tell_failing()
      try:
        recorder.push(step - done + 1, metrics, done)
        if last or stopping or self._is_due(step):
          recorder.drain()
      except failed.NonFinite as error:
        raise self._recorded(error, state) from None
      self.watchdog.stepped(step, done)
      better = False
      if last or is_due(config.eval.every, step):
        scores = self._evaluate(state, step)
        better = self.saver.keeper.improves(scores, step)
      if last or stopping or better or is_due(config.checkpoint.every, step):
        self.save(state, step, better)
        recorder.mark = time.monotonic()
      if stopping and not last:
        self.saver.wait()
        raise Interrupted(stopping, step)
    self.profiler.at(step)
    self.saver.wait()
    return state, scores

  def finish(self) -> None:
    """Writes the metrics of all steps so far."""
    self.recorder.drain()
    self.recorder.writer.flush()

  def save(self, state: TrainState, step: int, best: bool = False) -> None:
    """Begins to save a step, whose metrics come first."""
    self.watchdog.at(step, 'save')
    self.recorder.writer.flush()
    self.lease.check()
    if self.recorder.waits:  # the buffers of steps: those of saving come now
      heap.give_back()
    self.saver.save(step, state, self.driver.position(), best=best)

  def _is_due(self, step: int) -> bool:
    config = self.config
    return (
      is_due(config.eval.every, step)
      or is_due(config.checkpoint.every, step)
      or self.profiler.turns(step)
    )

  def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    self.watchdog.at(step, 'evaluation')
    scores = evaluated(self.run, state, self.config.seed)
    if scores:
      self.recorder.writer.write(step, scores, split='eval')
      self.recorder.show(step, scores)
    self.recorder.mark = time.monotonic()
    return scores

  def _recorded(
    self, error: failed.NonFinite, state: TrainState
  ) -> failed.NonFinite:
    """The error with a record; `state` has stood still since that step."""
    if self.config.on_nonfinite != 'stop':
      return error  # the state has moved: its record would be of another step
    self.lease.check()
    given = self.driver.given(error.step - 1)
    return failed.save(self.workdir, self.config, self.run, error, state, given)


def train(
  config: Any,
  workdir: str | Path,
  *,
  bar: progress.Progress | None = None,
  name: str = 'train',
) -> tuple[build.Run, TrainState, dict[str, float]]:
  """Trains to `config.num_steps`, resuming what is in `workdir`.

  Returns the run, its final state and the last evaluation.

  Raises:
    ValueError: a config that cannot work, before anything is compiled; a
      workdir that cannot be written or that another process writes; no
      checkpoint in it that can be used.
    Interrupted: a signal came; the state is saved.
    saving.NoRoom, rescue.OutOfMemory: the disk is full, or a memory.
    failed.NonFinite: a step was not finite, and nothing of it is saved; or,
      where such steps are skipped, there were too many in a row.
  """
  workdir = paths.path(workdir)
  check_folder(workdir)
  config = model_folder.settled(hub_keys.as_begun(config, workdir))
  run = built(config, workdir)
  if config.num_steps != run.config.num_steps:  # as many as its epochs have
    config = config_lib.with_values(config, {'num_steps': run.config.num_steps})
  on_disk.check(run, workdir)
  notes.tell(notes.notes(run))
  mesh = run_mesh(config)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(mesh))
    measured.check(run)
    lease = stack.enter_context(Lease(workdir))
    check_continues(config, workdir)
    model_folder.check_template(config, run, workdir)
    parts = run.adapter is not None and base.stands_apart(workdir)
    saver = stack.enter_context(
      Saver(workdir, config.checkpoint.keep, config.checkpoint.best, parts)
    )
    saver.tell_room(abstract_state(run))
    stop = stack.enter_context(Stop())
    stack.enter_context(Notices(config.preemption, stop))
    driver = make_driver(run, config, workdir)
    if isinstance(run.batches, Feed):
      if hosts.first():
        run.batches.keep_in(workdir)
      stack.callback(run.batches.close)
    state = _start(run, mesh, config, workdir, saver, driver)
    step, fresh = int(state.step), saver.latest is None
    notes.tell(other_schedule(run, workdir, step))
    if step >= config.num_steps:
      _say(f'{workdir}: finished at step {step}; nothing left to do')
      scores = evaluated(run, state, config.seed)
      return run, state, scores
    writer = stack.enter_context(
      log.Writer(
        workdir,
        log.make_header(config.to_dict()),
        resume_step=None if fresh else step,
        tensorboard=config.log.tensorboard,
        wandb_project=config.log.wandb_project,
      )
    )
    if bar is None:
      shown = None if hosts.first() else stack.enter_context(_nowhere())
      bar = stack.enter_context(progress.Progress(shown))
    watch = failed.Watch(config.on_nonfinite, config.num_steps)
    task = bar.task(name, config.num_steps)
    speed = Speed.of(run, mesh.size)
    recorder = Recorder.of(state, writer, bar, task, watch, speed)
    profiler = stack.enter_context(Profiler(config.log.profile_steps, workdir))
    watchdog = stack.enter_context(Watchdog.of(config.watchdog, workdir))
    advance = _Loop(
      run, config, workdir, driver, saver, lease, recorder, stop,
      hosts.Agreement(2, mesh), profiler, watchdog,
    )  # fmt: skip
    state, scores = rescue.guarded(advance, state, step, fresh)
  _tell_end(workdir, recorder, config)
  return run, state, scores


def _tell_end(workdir: Path, recorder: Recorder, config: Any) -> None:
  """What the steps of this start have in common, where it says too little."""
  if skipped := recorder.watch.skipped:
    _say(f'{workdir}: {skipped} steps were not finite, and skipped')
  alike = FEW_STEPS < recorder.grouped == recorder.alike
  if alike and config.get('group_size', 1) > 1 and compares(config):
    notes.tell([
      f'in none of {recorder.grouped:,} steps did two answers to a problem '
      f'earn different rewards (of the last they are {recorder.reward:.3g} on '
      'average): nothing was learnt from their comparison. Problems that a '
      'model solves now and then, a reward of degrees, or more answers to each '
      '(group_size) make them differ'
    ])  # fmt: skip


def compares(config: Any) -> bool:
  """Whether answers to a problem are learnt from by how they differ."""
  name = config.get('advantage', {}).get('name', 'raw')
  return name not in (*advantages.ALONE, 'batch_whitened')


def _say(text: str) -> None:
  if hosts.first():
    print(text)


def _nowhere() -> TextIO:
  """Where processes but the first show their progress."""
  return open(os.devnull, 'w', encoding='utf-8')


def is_due(every: int, step: int) -> bool:
  return every > 0 and step % every == 0
