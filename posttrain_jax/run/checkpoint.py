"""Checkpoints by Orbax: all of a run, or only its parameters.

A run's folder holds `checkpoints/<step>/` with two items, `params` and `rest`
(step, optimizer state, frozen models, controllers), the data iterator's
position, and a manifest (`manifest.py`) with a digest of every file;
`config.json` beside them is the resolved config. Of a run with adapters
`params` is what is trained alone (`base.py`).

Whoever reads a run gets its newest step that is as it was written
(`stored.py`); a run that goes on moves newer ones to `damaged/`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils

from posttrain_jax.core import hosts, hub, paths, trees
from posttrain_jax.core.types import PyTree, TrainState
from posttrain_jax.models import adapted, hf
from posttrain_jax.params import make_adapter
from posttrain_jax.run import base, manifest, stored
from posttrain_jax.run.best import Keeper
from posttrain_jax.run.stored import (
  CONFIG,
  FOLDER,
  find,
  load_config,
  run_folder,
  save_config,
  steps,
  tell,
)

__all__ = [
  'CONFIG',
  'DAMAGED',
  'FOLDER',
  'Checkpointer',
  'find',
  'free',
  'load_config',
  'load_params',
  'read_params',
  'read_position',
  'read_state',
  'run_folder',
  'save_config',
  'steps',
  'tell',
]

# Where a run moves steps that it cannot use.
DAMAGED = 'damaged'


def free(place: Path) -> Path:
  """`place`, in a folder that is there; numbered if it is taken."""
  place.parent.mkdir(parents=True, exist_ok=True)
  taken, count = place, 1
  while taken.exists():
    count += 1
    taken = place.with_name(f'{place.name}-{count}')
  return taken


class Checkpointer:
  """Saves and restores the states of one run; a context manager.

  Newest steps that cannot be used are moved to `damaged/`.

  Args:
    workdir: the run's folder.
    keep: newest checkpoints kept; 0 keeps all.
    best: metric whose best step is kept as well (`best.py`); '' for none.
    parts: of a state with adapters only what is trained is saved; who restores
      it gives the rest.

  Raises:
    ValueError: there are checkpoints, and none can be used.
  """

  def __init__(
    self, workdir: str | Path, keep: int, best: str = '', parts: bool = False
  ):
    self._workdir = paths.path(workdir)
    self.keeper = Keeper(workdir, best, keep)
    self._folder = self._workdir.absolute() / FOLDER
    self._saving = -1
    self._parts = parts
    if steps(workdir):
      self._set_aside(stored.newest(self._workdir)[2])
    self._manager = ocp.CheckpointManager(
      paths.plain(self._folder),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self.keeper,
        create=True,
        async_options=ocp.options.AsyncOptions(
          # Before the step gets its name: none is ever without a manifest.
          post_finalization_callback=self._write_manifest,
          barrier_sync_fn=_digesting_barrier(self._unfinished),
        ),
      ),
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *exception) -> None:
    self._manager.close()

  @property
  def latest(self) -> int | None:
    """Step of the newest checkpoint."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: TrainState,
    data: dict | None = None,
    best: bool = False,
  ) -> None:
    """Saves `state` (in the background) and the data iterator's position.

    best  it is the best step so far: waits for it, and writes down that it is
    """
    if step in self._manager.all_steps():
      return
    self._manager.wait_until_finished()
    self._saving = step
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(_stored(state.params, self._parts)),
        rest=ocp.args.StandardSave(_rest(state)),
        data=ocp.args.JsonSave(data or {}),
      ),
      force=True,  # or a step before the newest one is left out, silently
    )
    if best:
      self._manager.wait_until_finished()
      if hosts.first():
        self.keeper.write()

  def restore(
    self, abstract: TrainState, step: int | None = None
  ) -> tuple[TrainState, dict]:
    """The state saved at `step` and the data position; by default, of the
    newest step that can be read.

    abstract  shapes, dtypes and shardings (jax.ShapeDtypeStruct leaves); the
              saved arrays are laid out by these shardings. Where `parts` are
              saved, what is not trained is in it as it will be returned

    Raises:
      ValueError: the step, or none of them, can be read.
    """
    use = lambda step: _restored(self._manager, abstract, step, self._parts)
    if step is not None:
      return stored.exactly(self._workdir, step, use)
    _, made, bad = stored.newest(self._workdir, use)
    self._set_aside(bad)
    self._manager.reload()
    return made

  def wait(self) -> None:
    """Returns when every save is on disk."""
    self._manager.wait_until_finished()

  def _set_aside(self, steps: list[int]) -> None:
    """Moves steps to `damaged/`: this run will write their numbers again."""
    if hosts.first():
      for step in steps:
        place = free(self._workdir / DAMAGED / str(step))
        (self._folder / str(step)).rename(place)
        tell(f'moved to {place}')
    if steps and hosts.several():
      multihost_utils.sync_global_devices('checkpoint:damaged')

  def _unfinished(self) -> Path | None:
    """Where the step that is being saved is written."""
    places = [self._folder / str(self._saving)]
    places += self._folder.glob(f'{self._saving}.orbax-checkpoint-tmp*')
    places = [place for place in places if place.is_dir()]
    return max(places, key=lambda p: p.stat().st_mtime, default=None)

  def _write_manifest(self) -> None:
    folder = self._unfinished()
    if folder is not None:
      manifest.write(
        folder,
        self._saving,
        stored.run_id(self._workdir),
        stored.config_digest(self._workdir),
      )


def _digesting_barrier(unfinished: Callable[[], Path | None]):
  """A barrier at which each of several processes first digests what it wrote;
  None, Orbax's own, where there is one process."""
  if not hosts.several():
    return None
  from orbax.checkpoint import multihost

  barrier = multihost.get_barrier_sync_fn()

  def digest_and_wait(*, key: str, timeout_ms: int) -> None:
    # What is not digested here, process 0 digests in the end.
    folder = unfinished() if 'async_write_complete' in key else None
    if folder is not None:
      manifest.write_own(folder, jax.process_index())
    barrier(key=key, timeout_ms=timeout_ms)

  return digest_and_wait


def _rest(state: TrainState) -> dict[str, Any]:
  fields = ('step', 'opt_state', 'ref_params', 'others', 'control')
  rest = {name: getattr(state, name) for name in fields}
  # What a run does not have is not written.
  return {name: x for name, x in rest.items() if jax.tree.leaves(x)}


def _stored(params: PyTree, parts: bool) -> PyTree:
  """What is saved of parameters; nodes of a tree as dicts of their arrays."""
  if parts:
    return adapted.trained(params)
  leaves = zip(trees.names(params), jax.tree.leaves(params))
  return traverse_util.unflatten_dict(dict(leaves), sep='/')


def _laid_out(saved: PyTree, params: PyTree, parts: bool) -> PyTree:
  """Parameters from what `_stored` gave of them; `params` has their nodes."""
  if parts:
    return adapted.join(saved, params)
  flat = traverse_util.flatten_dict(saved, sep='/')
  leaves = [flat[name] for name in trees.names(params)]
  return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _restored(
  manager: ocp.CheckpointManager,
  abstract: TrainState,
  step: int,
  parts: bool = False,
) -> tuple[TrainState, dict]:
  out = manager.restore(
    step,
    args=ocp.args.Composite(
      params=ocp.args.StandardRestore(_stored(abstract.params, parts)),
      rest=ocp.args.StandardRestore(_rest(abstract)),
      data=ocp.args.JsonRestore(),
    ),
  )
  params = _laid_out(out.params, abstract.params, parts)
  state = abstract.replace(params=params, **out.rest)
  if int(state.step) != step:
    raise ValueError(f'it holds step {int(state.step)}')
  return state, dict(out.data)


def _reader(workdir: Path) -> ocp.CheckpointManager:
  # All items are named, or orbax warns of those it cannot read.
  handlers = {
    'params': ocp.StandardCheckpointHandler(),
    'rest': ocp.StandardCheckpointHandler(),
    'data': ocp.JsonCheckpointHandler(),
  }
  return ocp.CheckpointManager(
    paths.plain(workdir.absolute() / FOLDER), item_handlers=handlers
  )


def read_state(
  workdir: str | Path, step: int, abstract: TrainState
) -> TrainState:
  """The whole state of step `step`; moves nothing, unlike `Checkpointer`.

  abstract  its shapes, dtypes and shardings

  Raises:
    ValueError: there is no such step, or it cannot be used.
  """
  workdir, _ = run_folder(paths.path(workdir) / FOLDER / str(step))
  with _reader(workdir) as manager:
    use = lambda step: _restored(manager, abstract, step)
    return stored.exactly(workdir, step, use)[0]


def read_position(workdir: str | Path, step: int) -> dict:
  """The data position of a step, as `Checkpointer.restore` gives it.

  Raises:
    ValueError: there is no such step, or it cannot be used.
  """
  workdir, _ = run_folder(paths.path(workdir) / FOLDER / str(step))
  with _reader(workdir) as manager:
    args = ocp.args.Composite(data=ocp.args.JsonRestore())
    use = lambda step: dict(manager.restore(step, args=args).data)
    return stored.exactly(workdir, step, use)


def read_params(
  path: str | Path,
  abstract: PyTree | None = None,
  where: Callable[[str, tuple[int, ...]], Any] | None = None,
) -> tuple[Path, int, PyTree]:
  """(run folder, step, parameters) of a run's newest step that can be read, or
  of the step that `path` names.

  abstract  how the parameters are laid out; None: as `where` says
  where     (path of a parameter, shape) -> its sharding; None: all on the first
            device (of several processes, on all)

  Those of a run with adapters have them still, on its base.

  Raises:
    ValueError: no checkpoint there, or none that can be read.
  """
  workdir, step = run_folder(path)
  with _reader(workdir) as manager:
    use = lambda step: _whole(
      workdir, _params(manager, step, abstract, where), where
    )
    if step is not None:
      return workdir, step, stored.exactly(workdir, step, use)
    step, params, _ = stored.newest(workdir, use)
    return workdir, step, params


def _params(
  manager: ocp.CheckpointManager,
  step: int,
  abstract: PyTree | None,
  where: Callable[[str, tuple[int, ...]], Any] | None,
) -> PyTree:
  if abstract is None:
    place = where or _anywhere()
    saved = manager.item_metadata(step)['params']
    abstract = trees.map_by_path(
      lambda name, leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=place(name, leaf.shape)
      ),
      dict(saved),
    )
  args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
  return manager.restore(step, args=args).params


def _anywhere() -> Callable[[str, tuple[int, ...]], Any]:
  """Wherever it was saved, it is read onto this host's first device; with
  several hosts, all of it onto every device of each."""
  place: jax.sharding.Sharding
  if hosts.several():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('all',))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  else:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return lambda name, shape: place


def _whole(workdir: Path, saved: PyTree, where: Any) -> PyTree:
  """Parameters from those of a checkpoint; of a run with adapters with them."""
  if not any(name.endswith('/a') for name in trees.names(saved)):
    return saved
  config = stored.load_config(workdir) or {}
  adapter = make_adapter(config.get('config', {}).get('adapter'))
  if adapter is None:
    raise ValueError(f'{workdir / CONFIG} does not say what its adapters are')
  model = config['resolved_model']
  if base.KEY in config:
    read = lambda path: _read_base(path, model['param_dtype'], where)
    plain = base.load(workdir, config[base.KEY], read, where)
    return adapted.join(saved, adapter.attach(plain, jax.random.key(0)))
  return adapter.rebuilt(saved, model['param_dtype'])


def _read_base(path: str, dtype: str, where: Any) -> PyTree:
  path = hub.folder(path, weights=True)
  if not any(paths.path(path).glob('*.safetensors*')):
    return read_params(path, where=where)[2]
  return hf.load(path, param_dtype=dtype, where=where)[1]


def load_params(path: str | Path, abstract: PyTree | None = None) -> PyTree:
  """Only the parameters of a run's newest step, or of the step that `path`
  names. Nothing else is taken in its place: `read_params` does that.

  Raises:
    ValueError: no checkpoint there, or it cannot be used.
  """
  workdir, step = run_folder(path)
  step = steps(workdir)[0] if step is None else step
  return read_params(workdir / FOLDER / str(step), abstract)[2]
