"""The keys of a config that may be names of the hub, each with its commit.

What a run records is 'org/name@COMMIT': the same files wherever it goes on.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from posttrain_jax.core import hub
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import stored
from posttrain_jax.run.auto import AUTO

__all__ = ['as_begun', 'pinned']

MODELS = ('init_from', 'ref.path', 'tokenizer')
DATA = ('data.path', 'data.eval_path')
Change = Callable[[str, str, bool], str]  # (key, name, data) -> name


def _changed(config: Any, change: Change) -> Any:
  """The config with every name that is one of the hub passed through `change`;
  itself, where none is."""
  flat = config_lib.flatten(config.to_dict())
  files = flat.get('data.source') not in (None, 'tfds')
  keys = [key for key in flat if key in MODELS or key.startswith('others.')]
  keys += [key for key in DATA if files and key in flat]
  values = {}
  for key in keys:
    if hub.parse(flat[key], key in DATA):
      values[key] = change(key, flat[key], key in DATA)
  listed = flat.get('data.sources', ()) if files else ()
  if isinstance(listed, str):
    listed = (listed,)
  made = []
  for number, entry in enumerate(listed):
    own = entry if isinstance(entry, str) else entry.get('path')
    new = own
    if hub.parse(own, True):
      new = change(f'data.sources[{number}]', own, True)
    made.append(new if isinstance(entry, str) else {**entry, 'path': new})
  if made != list(listed):
    values['data.sources'] = tuple(made)
  return config_lib.with_values(config, values) if values else config


def _placed(config: Any) -> Any:
  """The config with the paths of reward models in `others`, by their roles."""
  listed = config.get('rewards', ())
  if isinstance(listed, str) or not isinstance(listed, Sequence):
    return config  # is refused where it is read
  has_path = lambda x: (
    isinstance(x, Mapping) and (x.get('name') == 'model' and x.get('path'))
  )
  if not any(map(has_path, listed)):
    return config
  config = config.copy_and_resolve_references()
  made = []
  for index, entry in enumerate(listed):
    if has_path(entry):
      entry = dict(entry)
      path = entry.pop('path')
      entry['role'] = role = entry.get('role', entry.get('label', 'reward'))
      if config.others.get(role, '') not in ('', path):
        raise ValueError(
          f'rewards[{index}]: path="{path}", and others.{role}='
          f'{config.others[role]}: give one of the models another "role"'
        )
      with config.unlocked():
        config.others[role] = path
    made.append(entry)
  with config.ignore_type():
    config.rewards = tuple(made)
  return config


def pinned(config: Any) -> Any:
  """The config with the commits that its names of the hub stand for, and reward
  models under their roles.

  Raises:
    ValueError: a name of nothing there, or no network; names the key. Processes
      that were given different commits.
  """
  found: list[str] = []

  def change(key: str, name: str, data: bool) -> str:
    try:
      found.append(hub.pinned(name, data))
    except ValueError as error:
      raise ValueError(f'{key}={name}: {error}') from error
    return found[-1]

  config = _changed(_placed(config), change)
  if found and jax.process_count() > 1:
    digest = hashlib.sha256(' '.join(found).encode()).digest()[:4]
    seen = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    if (seen != seen.ravel()[0]).any():
      raise ValueError(
        f'{", ".join(found)}: other processes were given other commits; name '
        'one: org/name@COMMIT'
      )
  return config


def as_begun(config: Any, workdir: str | Path) -> Any:
  """The config with the commits that the run of a folder began with, where a
  name says no revision, and with its tokenizer where the config says 'auto' and
  no model brings one: what 'auto' is of a file was another in older runs."""
  saved = stored.load_config(workdir) or {}
  old = config_lib.flatten(saved.get('config', {}))
  listed = old.get('data.sources', ())
  listed = [listed] if isinstance(listed, str) else listed
  for number, entry in enumerate(listed):
    path = entry.get('path') if isinstance(entry, dict) else entry
    old[f'data.sources[{number}]'] = path

  def change(key: str, name: str, data: bool) -> str:
    asked, began = hub.parse(name, data), hub.parse(old.get(key), data)
    same = began and began._replace(revision='') == asked
    return old[key] if same else name

  config = _changed(_placed(config), change)
  began = old.get('tokenizer', AUTO)
  asked = config.get('tokenizer'), config.get('init_from')
  new = config_lib.flatten(config.to_dict())
  same = all(new.get(k) == old.get(k) for k in ('data.source', 'data.path'))
  if asked == (AUTO, '') and same and began not in (AUTO, ''):
    return config_lib.with_values(config, {'tokenizer': began})
  return config
