"""Trains the runs of a sweep: together where they fit, else in turn.

A run's folder is what `posttrain_jax.train` makes: config.json, metrics.jsonl,
checkpoints. Any of them can be evaluated, exported or gone on with alone, and a
sweep that was stopped goes on with each run from its own last checkpoint.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import log
from posttrain_jax.core.keys import seed_key
from posttrain_jax.evals import score
from posttrain_jax.log import progress
from posttrain_jax.run import base, build, checkpoint, failed, loop, recorder
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO
from posttrain_jax.run.lease import Lease
from posttrain_jax.run.profile import Profiler
from posttrain_jax.run.saving import Saver
from posttrain_jax.run.speed import Speed
from posttrain_jax.run.state import abstract_state
from posttrain_jax.sweep.core import Program, in_graph, seed_mesh, traceable
from posttrain_jax.sweep.settings import Member
from posttrain_jax.trainers import guard

__all__ = ['Group', 'folder', 'groups', 'has_failed', 'run_group']

# Share of a device's memory, or of this much of a host's, that runs may take.
SHARE = 0.6
HOST_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that one program can serve.

  names    config keys whose numbers differ, traced
  step     of their newest checkpoints; 0 = none
  """

  members: tuple[Member, ...]
  names: tuple[str, ...]
  step: int

  @property
  def config(self) -> Any:
    return self.members[0].config


def folder(workdir: Path, member: Member) -> Path:
  """Where a run of a sweep lives."""
  return workdir / 'runs' / member.name


def _values(member: Member, skip: Sequence[str] = ()) -> tuple:
  flat = config_lib.flatten(json.loads(json.dumps(member.config.to_dict())))
  skip = {'seed', *skip}
  return tuple(sorted((k, repr(v)) for k, v in flat.items() if k not in skip))


def _newest(path: Path) -> int:
  try:
    return checkpoint.find(path)[1]
  except ValueError:
    return 0


def has_failed(member: Member, workdir: Path) -> bool:
  """Whether a run has failed on its way; it would again, and is left alone."""
  place = folder(workdir, member)
  path = failed.newest(place)
  stops = member.config.on_nonfinite == 'stop'
  return bool(stops and path and path[0] > _newest(place))


def _left_alone(member: Member, workdir: Path) -> bool:
  """Whether a run has failed; tells of it."""
  path = failed.newest(folder(workdir, member))
  if not path or not has_failed(member, workdir):
    return False
  checkpoint.tell(
    f'{member.name}: step {path[0]} was not finite; left as it is (delete '
    f'{path[1].parent} to train it again)'
  )
  return True


def fits_together(run: build.Run) -> int:
  """Runs that a device's memory holds at once, by a rough upper bound."""
  state = abstract_state(run)
  held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  # Gradients beside the state; activations of the forward pass, with logits.
  model, sizes = run.model, run.sizes
  wide = model.num_layers * (8 * model.width + 3 * model.mlp_dim)
  rows = sizes.microbatch_rows * sizes.row_tokens
  live = 4 * rows * (wide + 3 * model.vocab_size)
  live += (
    4
    * sizes.microbatch_rows
    * model.num_heads
    * (model.num_layers * sizes.row_tokens**2)
  )
  stats = jax.devices()[0].memory_stats() or {}
  there = stats.get('bytes_limit', HOST_BYTES)
  return max(1, int(SHARE * there / (2 * held + live)))


def _memories() -> int:
  """Devices with a memory of their own; those of a CPU share one."""
  return 1 if jax.default_backend() == 'cpu' else jax.device_count()


def groups(
  members: Sequence[Member], workdir: Path, together: int = 0
) -> Iterator[Group]:
  """The unfinished runs, in groups of at most `together` (0: what fits).

  Runs go together whose configs differ in seed and in numbers that can be
  traced, and which stand at the same step.
  """
  at = {m: _newest(folder(workdir, m)) for m in members}
  left = [
    m
    for m in members
    if at[m] < m.config.num_steps and not _left_alone(m, workdir)
  ]
  swept = sorted({key for m in members for key, _ in m.overrides})
  coarse: dict[tuple, list[Member]] = {}
  for member in left:
    coarse.setdefault(_values(member, swept), []).append(member)
  for alike in coarse.values():
    values = [dict(_values(m)) for m in alike]
    differing = [key for key in swept if len({v.get(key) for v in values}) > 1]
    # Of a rate that is 'auto' in some runs, each value has its own program.
    auto = {k for v in values for k in differing if v.get(k) == repr(AUTO)}
    given = [key for key in differing if key not in auto]
    names = traceable(alike[0].config, given)
    fine: dict[tuple, list[Member]] = {}
    for member in alike:
      fine.setdefault((at[member], _values(member, names)), []).append(member)
    for (step, _), group in fine.items():
      yield from _cut(group, names, step, together)


def _cut(group, names, step, together) -> Iterator[Group]:
  run = build.build(config_lib.plain(group[0].config))
  sharded = any(size != 1 for size in dict(run.config.mesh).values())
  if sharded or not in_graph(run):
    size = 1
  else:
    size = together or fits_together(run) * _memories()
  for first in range(0, len(group), size):
    yield Group(tuple(group[first : first + size]), names, step)


def run_group(group: Group, workdir: Path, bar: progress.Progress) -> None:
  """Trains a group's runs to their end.

  Raises:
    loop.Interrupted: a signal came; every run's state is saved.
  """
  if len(group.members) == 1:
    member = group.members[0]
    try:
      loop.train(
        member.config, folder(workdir, member), bar=bar, name=member.name
      )
    except failed.NonFinite as error:  # the other runs go on
      checkpoint.tell(f'{member.name}: {error}')
    return
  with contextlib.ExitStack() as stack:
    _Together(group, workdir, bar, stack).train()


class _Together:
  """The loop of train.py over many runs in one program."""

  def __init__(self, group: Group, workdir: Path, bar, stack):
    self._members = group.members
    self._config = config = group.config
    self._names = group.names
    self._folders = [folder(workdir, m) for m in group.members]
    self._leases = [stack.enter_context(Lease(path)) for path in self._folders]
    self._watches = [
      failed.Watch(config.on_nonfinite, config.num_steps) for _ in self._folders
    ]
    # Runs that have stopped: they stand still while the others go on.
    self._stopped: set[int] = set()
    for member, path in zip(group.members, self._folders):
      loop.check_continues(member.config, path)
    mesh = seed_mesh(len(group.members))
    self._program = Program(config, group.names, mesh)
    self._keys = jnp.stack([seed_key(m.seed) for m in group.members])
    self._values = [
      jnp.asarray([_number(m.config, name) for m in group.members], jnp.float32)
      for name in group.names
    ]
    self._stop = stack.enter_context(loop.Stop())
    self._savers = [
      stack.enter_context(
        Saver(path, config.checkpoint.keep, config.checkpoint.best)
      )
      for path in self._folders
    ]
    # What all runs do together is traced in the first one's folder.
    self._profiler = stack.enter_context(
      Profiler(config.log.profile_steps, self._folders[0])
    )
    self._speed = Speed.of(self._program.run, mesh.size if mesh else 1)
    self._step = group.step
    self._state = self._restored() if group.step else self._fresh()
    self._writers = [
      stack.enter_context(
        log.Writer(
          path,
          log.make_header(m.config.to_dict()),
          resume_step=group.step or None,
          tensorboard=config.log.tensorboard,
          wandb_project=config.log.wandb_project,
        )
      )
      for m, path in zip(group.members, self._folders)
    ]
    first, count = group.members[0].name, len(group.members)
    self._bar, self._handle = (
      bar,
      bar.task(f'{first} and {count - 1} more', config.num_steps),
    )

  def _fresh(self):
    for member, path in zip(self._members, self._folders):
      failed.save_config(path, member.config, self._program.run)
    return self._program.start(self._keys, self._values)

  def _restored(self):
    for path in self._folders:
      if base.KEY in (checkpoint.load_config(path) or {}):
        raise ValueError(
          f'{path} holds adapters alone, as posttrain_jax.train began it; go '
          'on with it there'
        )
    shapes = abstract_state(self._program.run)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )
    found = [saver.restore(shapes, self._step)[0] for saver in self._savers]
    # On the host: the program puts every run where it is trained.
    return jax.tree.map(lambda *xs: np.stack(jax.device_get(xs)), *found)

  def train(self) -> None:
    config, stop = self._config, self._stop
    if self._step == 0 and config.eval.every > 0:
      self._evaluate()
    everyone = len(self._members)
    while self._step < config.num_steps and len(self._stopped) < everyone:
      self._profiler.at(self._step)
      stop_at = loop.next_stop(self._step, config, self._profiler)
      until = stop_at - self._step
      began = time.monotonic()
      self._state, metrics, done = self._program.advance(
        self._state, self._keys, self._values, until
      )
      metrics = {name: np.asarray(x) for name, x in metrics.items()}
      self._write(metrics, time.monotonic() - began, done)
      self._step += done
      last = self._step == config.num_steps
      stopping = bool(stop.number)  # once: a signal may come at any line
      better: list[int] = []
      if last or loop.is_due(config.eval.every, self._step):
        better = self._evaluate()
      if last or stopping or loop.is_due(config.checkpoint.every, self._step):
        self._save(range(everyone), better)
      else:
        self._save(better, better)
      if stopping and not last:
        raise loop.Interrupted(stop.number, self._step)
    self._profiler.at(self._step)

  def _write(self, metrics: dict, seconds: float, done: int) -> None:
    runs = len(self._members)
    # A run's share of the time that all took together.
    each = seconds / done / runs
    what = metrics.pop(guard.WHAT)
    for index, writer in enumerate(self._writers):
      if index in self._stopped:
        continue
      bad = self._watches[index].failing(what[index])
      count = done if bad is None else bad + 1
      own = {name: x[index, :count] for name, x in metrics.items()}
      own['time/step'] = np.full(count, each)
      own |= self._speed.metrics(own['num_tokens'], each)
      writer.write_stacked(self._step + 1, own)
      if bad is not None:
        writer.flush()
        row = {name: float(x[-1]) for name, x in own.items()}
        self._end(index, self._step + count, row, float(what[index, bad]))
    means = {
      name: float(np.mean(x[:, -1]))
      for name, x in metrics.items()
      if name in recorder.SHOWN
    }
    self._bar.update(self._handle, self._step + done, means)

  def _end(self, index: int, step: int, row: dict, what: float) -> None:
    """One run stops, with a record; the others go on."""
    member, mode = self._members[index], self._config.on_nonfinite
    error = failed.NonFinite(step, row, what, mode)
    if mode == 'stop':
      self._leases[index].check()
      values = {name: _number(member.config, name) for name in self._names}
      place = failed.Together(values, len(self._members), index)
      state = jax.tree.map(lambda x: x[index], self._state)
      error = failed.save(
        self._folders[index],
        member.config,
        self._program.run,
        error,
        state,
        {},
        place,
      )
    self._stopped.add(index)
    checkpoint.tell(f'{member.name}: {error}')

  def _evaluate(self) -> list[int]:
    """Writes what an evaluation found; the runs that are better than ever."""
    found = self._program.evaluate(self._state.params, self._keys, self._values)
    scores, better = score.gathered(found), []
    for index, writer in enumerate(self._writers):
      own = {name: float(x[index]) for name, x in scores.items()}
      if own and index not in self._stopped:
        writer.write(self._step, own, split='eval')
        if self._step and self._savers[index].keeper.improves(own, self._step):
          better.append(index)
    return better

  def _save(self, which: Iterable[int], best: Sequence[int]) -> None:
    """Saves the runs `which`, of which `best` are better than ever."""
    for index in which:
      if index in self._stopped:
        continue
      self._writers[index].flush()
      self._leases[index].check()
      one = jax.tree.map(lambda x, i=index: x[i], self._state)
      self._savers[index].save(self._step, one, best=index in best)
    for saver in self._savers:
      saver.wait()


def _number(config: Any, name: str) -> float:
  return config_lib.flatten(config.to_dict())[name]
