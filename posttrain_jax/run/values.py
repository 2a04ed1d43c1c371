"""Looks at every value of a config before anything is built.

`check` is of a run's config, `check_arms` of one that holds several runs. Both
raise a ValueError that names the key and the value; what a value may be stands
in `run.domains`.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from posttrain_jax import trainers
from posttrain_jax.core import dtypes
from posttrain_jax.core.domain import Number, concrete
from posttrain_jax.core.resolve import nearest
from posttrain_jax.rewards import entries as rewards
from posttrain_jax.rollout import guides
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import domains
from posttrain_jax.run.auto import AUTO

__all__ = ['check', 'check_arms', 'check_listed', 'entries']

# Hyperparameters of one part of which the first is not above the second.
ORDERED = (
  ('low', 'high'),
  ('min_ratio', 'max_ratio'),
  ('cov_low', 'cov_high'),
)


def _leaves(
  config: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
  for key, item in config.items():
    if isinstance(item, ml_collections.ConfigDict):
      yield from _leaves(item, (*path, key))
    else:
      yield (*path, key), item


def entries(config: Any) -> Iterator[tuple[str, Any, Any | None]]:
  """(dotted key, value, domain or None) of every leaf of a run's config."""
  for path, value in _leaves(config):
    yield '.'.join(path), value, domains.domain_of(config, path)


def check(config: Any) -> None:
  """Refuses values that no run can work with; traced numbers pass.

  Raises:
    ValueError: the first such key, with its value and what it may be.
  """
  if 'paradigm' not in config:
    raise ValueError(
      'this config names no paradigm, so it describes no run: take one of '
      + ', '.join(f'configs/{name}.py' for name in trainers.KINDS)
    )
  domains.KEYS['paradigm'].check('paradigm', config.paradigm)
  _check_complete(config)
  _check_known(config)
  # Names first: they say what the other values are of.
  found = sorted(entries(config), key=lambda x: not x[0].endswith('.name'))
  for key, value, domain in found:
    _check_value(key, value, domain)
  for name in ('dtype', 'param_dtype', 'cache_dtype'):
    if config.model[name] != AUTO:
      dtypes.check_available(config.model[name], f'model.{name}')
  check_listed('guides', config.guides, guides.__all__)
  if 'rewards' in config:
    check_listed('rewards', config.rewards, rewards.names())
    rewards.read(config.rewards)
  _check_order(config)


def check_arms(config: Any, names: Sequence[str]) -> None:
  """`check` of the runs `names` of a config, and of its own keys.

  Raises:
    ValueError: as `check`; or an arm that is not there.
  """
  for name in names:
    if not isinstance(config.get(name), ml_collections.ConfigDict):
      raise ValueError(
        f'this config has no arm "{name}"; it needs {", ".join(names)}, as '
        'configs/quickstart.py has them'
      )
    try:
      check(config[name])
    except ValueError as error:
      raise ValueError(f'{name}.{error}') from error
  for path, value in _leaves(config):
    if path[0] not in names:
      key = '.'.join(path)
      _check_value(key, value, domains.KEYS.get(key))


def _check_value(key: str, value: Any, domain: Any | None) -> None:
  """A key without a domain (of a config of one's own) is at least finite."""
  number = isinstance(concrete(value), int | float)
  if domain is None and number and not isinstance(value, bool):
    domain = Number()
  if domain is not None:
    domain.check(key, value)


@functools.cache
def _shipped(paradigm: str) -> tuple[str, ...]:
  """Dotted keys that the shipped config of a paradigm has: those that do not
  depend on the functions that it names."""
  try:
    module = importlib.import_module(f'configs.{paradigm}')
  except ImportError:
    return ()  # the package alone
  config = module.get_config()
  named = [
    key
    for key, item in config.items()
    if isinstance(item, ml_collections.ConfigDict)
    and config_lib.is_part(config, key)
  ]
  return tuple(
    '.'.join(path)
    for path, _ in _leaves(config)
    if path[0] not in named or path[1:] == ('name',)
  )


def _check_complete(config: Any) -> None:
  there = {'.'.join(path) for path, _ in _leaves(config)}
  # A section without keys, such as `others`, has no leaf.
  there |= set(config)
  lacking = [key for key in _shipped(config.paradigm) if key not in there]
  if lacking:
    shown = ', '.join(lacking[:4]) + (', ...' if len(lacking) > 4 else '')
    raise ValueError(
      f'paradigm="{config.paradigm}": this config has no {shown}; start from '
      f'configs/{config.paradigm}.py'
    )


def _keys_of(config: Any, key: str) -> list[str] | None:
  """Dotted keys that the part `key` of a config may have; None: its name is
  unknown, or it is a task, which is refused where it is looked up."""
  name = config[key].get('name')
  if key == 'task' or not isinstance(name, str):
    return None
  try:
    return [f'{key}.{x}' for x in config_lib.entry(config, key, name)]
  except ValueError:
    return None


def _check_known(config: Any) -> None:
  """Refuses keys that nothing reads, wherever they came from."""
  known = set(_shipped(config.paradigm))
  if not known:
    return
  unread, sure = [], {key.partition('.')[0] for key in known}
  parts = {
    key
    for key, item in config.items()
    if isinstance(item, ml_collections.ConfigDict)
    and config_lib.is_part(config, key)
  }
  for key in sorted(parts):
    theirs = _keys_of(config, key)
    if theirs is None:
      sure.discard(key)
    known |= set(theirs or ())
  for path, _ in _leaves(config):
    free = path[0] == 'others' or (path[0] in parts and path[0] not in sure)
    if '.'.join(path) not in known and not free:
      unread.append('.'.join(path))
  if unread:
    more = f' ({len(unread) - 1} more are unknown)' if len(unread) > 1 else ''
    raise ValueError(
      f'unknown config key "{unread[0]}"{more}.'
      + config_lib.meant(config, unread[0], sorted(known))
    )


def check_listed(key: str, parts: Any, names: Sequence[str]) -> None:
  """Refuses bad values in a list of {name, **hyperparameters}; whoever makes
  the functions says which names and hyperparameters there are."""
  if isinstance(parts, str | Mapping) or not isinstance(parts, Sequence):
    raise ValueError(
      f'{key}={parts!r} is not a list of {{"name": ...}}.' + nearest('', names)
    )
  for index, part in enumerate(parts):
    if not isinstance(part, Mapping):
      continue
    if part.get('name', '') not in names:
      continue  # of one's own, or unknown
    for name, value in part.items():
      domain = domains.hyperparameter(key, part['name'], name)
      if domain is not None:
        domain.check(f'{key}[{index}].{name}', value)


def _check_order(config: Any) -> None:
  for key, part in config.items():
    if not isinstance(part, ml_collections.ConfigDict) or key == 'task':
      continue
    for low, high in ORDERED:
      if low not in part or high not in part:
        continue
      ends = concrete(part[low]), concrete(part[high])
      if any(isinstance(x, jax.core.Tracer) for x in ends):
        continue
      if ends[0] > ends[1]:
        raise ValueError(
          f'{key}.{low}={ends[0]} is above {key}.{high}={ends[1]}'
        )
