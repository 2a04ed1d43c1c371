"""What a run is about to read, looked at before anything is made of it.

Of weight files the headers are read, no numbers: names, shapes and types of all
tensors are held to config.json in the blink of an eye, for a dry run too.
"""

from pathlib import Path
from typing import Any

from posttrain_jax.core import hosts, hub
from posttrain_jax.models import hf
from posttrain_jax.params import peft
from posttrain_jax.run import checkpoint, roles

__all__ = ['check']


def check(run: Any, workdir: Path | None) -> None:
  """Looks at the models that a new `build.Run` starts from.

  workdir  of the run; one that has begun reads its own steps, and no folder is
           looked at

  Raises:
    FileNotFoundError: weights that cannot be read here.
    hosts.Elsewhere: another process of the run has such a fault.
    ValueError: as `roles.check`; weights that do not fit their config.json;
      a reward model that has no head. Keys of the config are named.
  """
  roles.check(run.config)
  # The disk of one host may differ from another's: all hear of it.
  if workdir is None or not checkpoint.steps(workdir):
    hosts.together(lambda: _look(run))


def _look(run: Any) -> None:
  config = run.config
  scorers = roles.scorers(config)
  for role in sorted(run.models):
    path = roles.path_of(config, role)
    if not path:
      continue
    if role in scorers and not roles.read_model(path).value_head:
      raise ValueError(
        f'{_entry(config, role)}others.{role}={path} has no value head; '
        + roles.SCORER
      )
    _weights(path)


def _entry(config: Any, role: str) -> str:
  """'rewards[0].path, which is ' of the entry that a reward model is of."""
  for index, entry in enumerate(config.get('rewards', ())):
    if hasattr(entry, 'get') and entry.get('role') == role:
      return f'rewards[{index}].path, which is '
  return ''


def _weights(path: str) -> None:
  """Raises as `hf.check` for a folder whose weights are here."""
  base = peft.base_of(path) if peft.is_folder(path) else path
  # Of the hub they come when they are read.
  if hub.elsewhere(base) or not roles.is_hf_folder(base):
    return
  folder = Path(hub.folder(base))
  if any(folder.glob('*.safetensors*')):  # else `notes` says what is there
    hf.check(folder)
