"""Whether a run's folder can be gone on with by a config, and as what."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from posttrain_jax.core import hosts, paths
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.models import transformer
from posttrain_jax.rewards import entries
from posttrain_jax.run import (
  auto,
  best,
  build,
  checkpoint,
  feed,
  model_folder,
  roles,
  stored,
)
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.auto import AUTO
from posttrain_jax.run.lease import Lease
from posttrain_jax.trainers import optim

__all__ = ['built', 'check_continues', 'check_folder', 'foreseen',
           'other_schedule', 'pinned']  # fmt: skip

MOST = 4  # keys that differ that are named where it is another kind of run
# Keys that may be 'auto', and stay in a run what they were when it began.
PINNED = (*config_lib.DECIDED, 'model.dtype')
# Keys that may differ between a run and its continuation.
FREE_KEYS = ('num_steps', 'steps_per_call', 'on_nonfinite', 'eval.',
             'data.eval_path', 'data.on_bad_row', 'data.on_change',
             'checkpoint.', 'log.', 'mesh.', 'offload.', 'watchdog',
             'preemption', 'sampler.url', 'sampler.model', 'sampler.timeout',
             'sampler.tries', 'sampler.requests', 'sampler.reload')  # fmt: skip


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
  _read_rewards(old, new)
  changed = [
    f'{key}: {old.get(key)!r} -> {new.get(key)!r}'
    for key in sorted(
      (old.keys() | new.keys()) - decided, key=lambda x: (x != 'paradigm', x)
    )
    if old.get(key) != new.get(key) and not key.startswith(FREE_KEYS)
  ]
  more = len(changed) - MOST
  if more > 0 and changed[0].startswith('paradigm: '):
    changed[MOST:] = [f'and {more} more']
  if changed:
    raise ValueError(
      f'{workdir} holds a run of another config; use another --workdir, or '
      'undo: ' + '; '.join(changed)
    )


def _read_rewards(old: dict[str, Any], new: dict[str, Any]) -> None:
  """Takes the new form of rewards that are the same in two flat configs: a name
  alone is an entry, and what is so by default may be said."""
  try:
    same = entries.read(old['rewards']) == entries.read(new['rewards'])
  except (KeyError, ValueError):
    return  # is told as it stands
  if same:
    old['rewards'] = new['rewards']


def _there(path: Path) -> bool:
  """Whether a file, a folder or a link is there.

  Raises:
    OSError: there can be none, as of a name that is too long.
  """
  try:
    os.lstat(path)
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True


def _check_made(workdir: Path) -> None:
  """Raises ValueError where a folder of this machine cannot be made, as under
  a file, a link to nothing, or in a file system that makes none."""
  place = workdir.absolute()
  try:
    while not _there(place):
      place = place.parent
    if not place.exists():
      raise ValueError(
        f'{place} is a link to {os.readlink(place)}, which is not there'
      )
    if not place.is_dir():
      raise ValueError(f'{place} is a file, not a folder')
    if hosts.first() and not os.access(place, os.W_OK | os.X_OK):
      raise ValueError(f'{workdir} cannot be written: {place} is closed')
    if hosts.first() and place != workdir.absolute():
      # Not all that is open takes a folder: to try is the only way to know.
      os.rmdir(tempfile.mkdtemp(prefix='.tried-', dir=place))
  except OSError as error:
    raise ValueError(
      f'{workdir} cannot be made or written: {error.strerror or error}'
    ) from None


def check_folder(workdir: Path) -> None:
  """Raises ValueError where a run's folder cannot be made or written, or is
  somebody's model. Nothing is left behind."""
  if not paths.is_remote(str(workdir)):
    _check_made(workdir)
  if (workdir / checkpoint.FOLDER).is_dir():
    return
  weights = next(iter(sorted(workdir.glob('*.safetensors'))), None)
  file = workdir / checkpoint.CONFIG
  found = {}
  if file.is_file():
    try:
      found = json.loads(file.read_text(encoding='utf-8'))
    except ValueError:
      return  # is refused where it is read
  foreign = isinstance(found, dict) and 'model_type' in found
  if weights is not None or foreign:
    raise ValueError(
      f'{workdir} is a model folder ({(weights or file).name}), and a run '
      'would write into it; use another --workdir'
    )


def foreseen(config: Any, run: Any, workdir: str | Path) -> list[str]:
  """What a run would find in its folder; nothing is written.

  config  as `train` takes it, settled

  Raises:
    ValueError: what `train` would raise before it begins.
  """
  workdir = paths.path(workdir)
  told = [x for x in (Lease(workdir).foreseen(),) if x]
  check_continues(config, workdir)
  model_folder.check_template(config, run, workdir)
  best.Keeper(workdir, config.checkpoint.best, config.checkpoint.keep)
  if not checkpoint.steps(workdir):
    return [*told, f'{workdir}: a new run']
  step, last = stored.newest(workdir)[0], run.config.num_steps
  _check_data(run, workdir, step)
  if step >= last:
    return [*told, f'{workdir}: finished at step {step}; nothing left to do']
  going = f'{workdir}: goes on from step {step:,} to {last:,}'
  return [*told, going, *other_schedule(run, workdir, step)]


def _check_data(run: build.Run, workdir: paths.AnyPath, step: int) -> None:
  """Raises ValueError where a run's records are not those of its step; with
  data.on_change="warn" it is told."""
  position = checkpoint.read_position(workdir, step)
  if isinstance(run.batches, feed.Feed) and 'iterator' in position:
    run.batches.batches().set_state(position['iterator'])
  elif isinstance(run.task, HostTask):
    run.task.check_content(position.get('content', []))


def other_schedule(run: Any, workdir: Path, step: int) -> list[str]:
  """Told where a run that began with another num_steps has another learning
  rate from a step on."""
  saved = checkpoint.load_config(workdir) or {}
  config = run.config.optimizer
  then = saved.get('sizes', {}).get('num_updates', 0)
  now, each = run.sizes.num_updates, run.sizes.updates_per_step
  if not step or not then or then == now:
    return []
  key = config_lib.WARMUP
  rising = config_lib.flatten(saved.get('config', {})).get(key, 0)
  rising, _ = auto.warmup(rising, run.config.paradigm, then)
  began = config_lib.with_values(run.config, {key: rising}).optimizer
  rates = [
    float(optim.make_schedule(how, count)(step * each))
    for how, count in ((began, then), (config, now))
  ]
  if abs(rates[0] - rates[1]) <= 0.01:
    return []
  return [
    f'num_steps={then // each:,} -> {now // each:,}: the '
    f'{config.schedule} schedule of the learning rate is drawn anew. After '
    f'step {step:,} the rate is {rates[1]:.3g} of its peak, and was '
    f'{rates[0]:.3g} by the schedule that the run began with'
  ]


def _resolve_rates(workdir: Path, *configs: dict[str, Any]) -> None:
  """Puts the learning rate that 'auto' is for the model of a run's folder, and
  the warmup that it is in a long run, in their places, in flat configs."""
  for config in configs:
    rising = config.get(config_lib.WARMUP)
    config[config_lib.WARMUP], _ = auto.warmup(
      rising, config['paradigm'], sys.maxsize
    )
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


def built(config: Any, workdir: Path) -> build.Run:
  """`build.build` of the config as `pinned`.

  Raises:
    ValueError: as `build.build`; that the folder holds a run of another config,
      where a size that is kept from it does not fit this one.
  """
  try:
    return build.build(pinned(config, workdir))
  except ValueError:
    check_continues(config, workdir)
    raise
