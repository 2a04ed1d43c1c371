"""Checkpoints by Orbax: all of a run, or only its parameters.

A run's folder holds `checkpoints/<step>/` with two items, `params` and `rest`
(step, optimizer state, frozen models, controllers), and the data iterator's
position; `config.json` beside them is the resolved config.
"""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from posttrain_jax.core.types import PyTree, TrainState

FOLDER = 'checkpoints'
CONFIG = 'config.json'


class Checkpointer:
  """Saves and restores the states of one run; a context manager.

  Args:
    workdir: the run's folder.
    keep: newest checkpoints kept; 0 keeps all.
  """

  def __init__(self, workdir: str | Path, keep: int):
    self._manager = ocp.CheckpointManager(
      Path(workdir).absolute() / FOLDER,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep or None, create=True
      ),
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *exception) -> None:
    self._manager.close()

  @property
  def latest(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: TrainState, data: dict | None = None
  ) -> None:
    """Saves `state` (in the background) and the data iterator's position."""
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(_rest(state)),
        data=ocp.args.JsonSave(data or {}),
      ),
    )

  def restore(
    self, abstract: TrainState, step: int | None = None
  ) -> tuple[TrainState, dict]:
    """The state saved at `step` (default: the newest) and the data position.

    abstract  shapes, dtypes and shardings (jax.ShapeDtypeStruct leaves); the
              saved arrays are laid out by these shardings
    """
    step = self.latest if step is None else step
    out = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        rest=ocp.args.StandardRestore(_rest(abstract)),
        data=ocp.args.JsonRestore(),
      ),
    )
    state = abstract.replace(params=out.params, **out.rest)
    return state, dict(out.data)

  def wait(self) -> None:
    """Returns when every save is on disk."""
    self._manager.wait_until_finished()


def _rest(state: TrainState) -> dict[str, Any]:
  fields = ('step', 'opt_state', 'ref_params', 'others', 'control')
  rest = {name: getattr(state, name) for name in fields}
  # What a run does not have is not written.
  return {name: x for name, x in rest.items() if jax.tree.leaves(x)}


def save_config(workdir: str | Path, config: dict[str, Any]) -> None:
  """Writes the resolved config beside the checkpoints."""
  Path(workdir).mkdir(parents=True, exist_ok=True)
  text = json.dumps(config, indent=1, default=list)
  (Path(workdir) / CONFIG).write_text(text + '\n')


def load_config(workdir: str | Path) -> dict[str, Any] | None:
  """The resolved config of a run's folder; None where there is none.

  Raises:
    ValueError: the file is no JSON.
  """
  path = Path(workdir) / CONFIG
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}:{error.lineno}: {error.msg}') from error


def find(path: str | Path) -> tuple[Path, int]:
  """(run folder, step) of 'runs/x' (its newest) or 'runs/x/checkpoints/40'.

  Raises:
    ValueError: there is no checkpoint; says what is there instead.
  """
  path = Path(path)
  if path.name.isdigit() and path.parent.name == FOLDER:
    workdir, step = path.parent.parent, int(path.name)
  else:
    workdir, step = path, None
  folder = workdir / FOLDER
  steps = sorted(
    int(child.name)
    for child in (folder.iterdir() if folder.is_dir() else ())
    if child.name.isdigit()
  )
  if not steps:
    raise ValueError(f'no checkpoint under {folder}')
  if step is not None and step not in steps:
    raise ValueError(
      f'no checkpoint of step {step} in {folder}; there are: '
      + ', '.join(map(str, steps))
    )
  return workdir, steps[-1] if step is None else step


def load_params(path: str | Path, abstract: PyTree | None = None) -> PyTree:
  """Only the parameters of a run; laid out as `abstract` says, if given.

  Raises:
    ValueError: no checkpoint there.
  """
  workdir, step = find(path)
  # All items are named, or orbax warns of those it cannot read.
  handlers = {
    'params': ocp.StandardCheckpointHandler(),
    'rest': ocp.StandardCheckpointHandler(),
    'data': ocp.JsonCheckpointHandler(),
  }
  with ocp.CheckpointManager(
    workdir.absolute() / FOLDER, item_handlers=handlers
  ) as manager:
    if abstract is None:
      # Wherever it was saved, it is read onto this host's first device.
      device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
      saved = manager.item_metadata(step)['params']
      abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=device
        ),
        dict(saved),
      )
    args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
    return manager.restore(step, args=args).params
