"""The loop of a run: steps, evaluations, checkpoints, and how it stops."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from posttrain_jax import log
from posttrain_jax.core import sharding
from posttrain_jax.core.types import TrainState
from posttrain_jax.data.bad_rows import BadData
from posttrain_jax.log import progress
from posttrain_jax.models import transformer
from posttrain_jax.run import (
  auto,
  base,
  build,
  checkpoint,
  drivers,
  failed,
  model_folder,
  notes,
  roles,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO
from posttrain_jax.run.feed import Feed
from posttrain_jax.run.judging import evaluated, judged
from posttrain_jax.run.lease import Lease
from posttrain_jax.run.profile import Profiler
from posttrain_jax.run.speed import Speed
from posttrain_jax.run.state import first_state, saved_state
from posttrain_jax.run.stop import Interrupted, Stop
from posttrain_jax.trainers import guard

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
# Keys that may be 'auto', and stay in a run what they were when it began.
PINNED = (*config_lib.DECIDED, 'model.dtype')
# Keys that may differ between a run and its continuation.
FREE_KEYS = ('num_steps', 'steps_per_call', 'on_nonfinite', 'eval.',
             'data.eval_path', 'data.on_bad_row',
             'checkpoint.', 'log.', 'mesh.', 'offload.')  # fmt: skip


def check_continues(config: Any, workdir: Path) -> None:
  """Raises ValueError if `workdir` holds a run of another config, or one whose
  config is not there."""
  saved = checkpoint.load_config(workdir)
  if saved is None:
    if checkpoint.steps(workdir):
      raise ValueError(
        f'{workdir} has checkpoints, and no {checkpoint.CONFIG} that says of '
        'what; put it back, or use another --workdir'
      )
    return
  config = model_folder.settled(config)
  old = model_folder.settled(config_lib.completed(saved['config'])).to_dict()
  old = config_lib.flatten(json.loads(json.dumps(old)))
  new = config_lib.flatten(json.loads(json.dumps(config.to_dict())))
  # How a step is cut up may be left to 'auto' on one side: it changes rounding.
  decided = {key for key in PINNED if AUTO in (old.get(key), new.get(key))}
  _resolve_rates(workdir, old, new)
  changed = [
    f'{key}: {old.get(key)!r} -> {new.get(key)!r}'
    for key in sorted((old.keys() | new.keys()) - decided)
    if old.get(key) != new.get(key) and not key.startswith(FREE_KEYS)
  ]
  if changed:
    raise ValueError(
      f'{workdir} holds a run of another config; use another --workdir, or '
      'undo: ' + '; '.join(changed)
    )


def _resolve_rates(workdir: Path, *configs: dict[str, Any]) -> None:
  """Puts the learning rate that 'auto' is for the model of a run's folder in
  its place, in flat configs."""
  key = config_lib.RATE
  if len({str(config.get(key)) for config in configs}) == 1:
    return
  size = transformer.param_count(roles.saved_model(workdir)[0])
  for config in configs:
    beside = config.get('adapter.name', 'none')
    config[key], _ = auto.learning_rate(
      config[key], config['paradigm'], size, beside
    )


def pinned(config: Any, workdir: Path) -> Any:
  """The config with what 'auto' was when the run of `workdir` began.

  A longer run, or another mesh, might choose otherwise: in the same run a step
  is cut up the same way to its end, so that it goes on bit for bit.
  """
  saved = checkpoint.load_config(workdir) or {}
  began = dict(saved.get('sizes', {}))
  if 'resolved_model' in saved:
    began |= {f'model.{k}': x for k, x in saved['resolved_model'].items()}
  asked = config_lib.flatten(config.to_dict())
  values = {k: began[k] for k in PINNED if asked.get(k) == AUTO and k in began}
  return config_lib.with_values(config, values) if values else config


def next_stop(step: int, config: Any, profiler: Profiler | None = None) -> int:
  """The next step at which something happens on the host."""
  stops = [config.num_steps]
  traced = profiler and profiler.next_stop(step)
  stops += [traced] if traced else []
  for every in (config.eval.every, config.checkpoint.every):
    if every > 0:
      stops.append((step // every + 1) * every)
  return min(stops)


@dataclasses.dataclass
class _Recorder:
  """What the loop does on the host with finished steps."""

  writer: log.Writer
  bar: progress.Progress
  handle: int
  watch: failed.Watch
  speed: Speed
  shown: dict[str, float] = dataclasses.field(default_factory=dict)
  pending: Any = None
  mark: float = 0.0

  def push(self, first_step: int, metrics: dict, done: int) -> None:
    """Takes the metrics of steps just dispatched; handles the ones before."""
    self.drain()
    self.pending = (first_step, metrics, done)

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
    self.shown |= {k: metrics[k] for k in SHOWN if k in metrics}
    self.bar.update(self.handle, step, self.shown)


def make_driver(run: build.Run, config: Any):
  """The driver of a run: in-graph steps, steps on data or on a host task."""
  if isinstance(run.step, drivers.HostStep):
    return drivers.HostRL(
      run.step,
      run.task,
      run.tokenizer,
      config.seed,
      run.sizes.prompts_per_step,
      config.rollout_overlap,
    )
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
  """The steps of one run, from a state on."""

  run: build.Run
  config: Any
  workdir: Path
  driver: Any
  saver: checkpoint.Checkpointer
  lease: Lease
  recorder: _Recorder
  stop: Stop
  profiler: Profiler

  def __call__(
    self, state: TrainState, step: int, fresh: bool
  ) -> tuple[TrainState, dict[str, float]]:
    """(the state after the last step, the last evaluation)."""
    config, recorder, stop = self.config, self.recorder, self.stop
    scores: dict[str, float] = {}
    if fresh and config.eval.every > 0 and judged(self.run):
      scores = self._evaluate(state, 0)
    recorder.mark = time.monotonic()
    while step < config.num_steps:
      self.profiler.at(step)
      until = next_stop(step, config, self.profiler)
      try:
        state, metrics, done = self.driver.advance(state, step, until - step)
      except BadData:
        self._save_before_end(state, step)
        raise
      step += done
      last = step == config.num_steps
      stopping = bool(stop.number)  # once: a signal may come at any line
      try:
        recorder.push(step - done + 1, metrics, done)
        if last or stopping or self._is_due(step):
          recorder.drain()
      except failed.NonFinite as error:
        raise self._recorded(error, state) from None
      better = False
      if last or is_due(config.eval.every, step):
        scores = self._evaluate(state, step)
        better = self.saver.keeper.improves(scores, step)
      if last or stopping or better or is_due(config.checkpoint.every, step):
        recorder.writer.flush()
        self.lease.check()
        self.saver.save(step, state, self.driver.position(), best=better)
        recorder.mark = time.monotonic()
      if stopping and not last:
        self.saver.wait()
        raise Interrupted(stop.number, step)
    self.profiler.at(step)
    self.saver.wait()
    return state, scores

  def _save_before_end(self, state: TrainState, step: int) -> None:
    """What was learnt is kept where the data end a run."""
    self.recorder.drain()
    self.recorder.writer.flush()
    if step > 0:
      self.lease.check()
      self.saver.save(step, state, self.driver.position())
      self.saver.wait()

  def _is_due(self, step: int) -> bool:
    config = self.config
    return (
      is_due(config.eval.every, step)
      or is_due(config.checkpoint.every, step)
      or self.profiler.turns(step)
    )

  def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
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
    failed.NonFinite: a step was not finite, and nothing of it is saved; or,
      where such steps are skipped, there were too many in a row.
  """
  workdir = Path(workdir)
  config = model_folder.settled(config)
  run = build.build(pinned(config, workdir))
  if config.num_steps != run.config.num_steps:  # as many as its epochs have
    config = config_lib.with_values(config, {'num_steps': run.config.num_steps})
  roles.check(config)
  notes.tell(notes.notes(run))
  mesh = sharding.make_mesh(config.mesh)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(mesh))
    lease = stack.enter_context(Lease(workdir))
    check_continues(config, workdir)
    model_folder.check_template(config, run, workdir)
    parts = run.adapter is not None and base.stands_apart(workdir)
    saver = stack.enter_context(
      checkpoint.Checkpointer(
        workdir, config.checkpoint.keep, config.checkpoint.best, parts
      )
    )
    stop = stack.enter_context(Stop())
    driver = make_driver(run, config)
    if isinstance(run.batches, Feed):
      run.batches.keep_in(workdir)
      stack.callback(run.batches.close)
    state = _start(run, mesh, config, workdir, saver, driver)
    step, fresh = int(state.step), saver.latest is None
    if step >= config.num_steps:
      print(f'{workdir}: finished at step {step}; nothing left to do')
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
      bar = stack.enter_context(progress.Progress())
    watch = failed.Watch(config.on_nonfinite, config.num_steps)
    task = bar.task(name, config.num_steps)
    speed = Speed.of(run, mesh.size)
    recorder = _Recorder(writer, bar, task, watch, speed)
    profiler = Profiler(config.log.profile_steps, workdir)
    stack.enter_context(profiler)
    advance = _Loop(
      run, config, workdir, driver, saver, lease, recorder, stop, profiler
    )
    state, scores = advance(state, step, fresh)
  if watch.skipped:
    print(f'{workdir}: {watch.skipped} steps were not finite, and skipped')
  return run, state, scores


def is_due(every: int, step: int) -> bool:
  return every > 0 and step % every == 0
