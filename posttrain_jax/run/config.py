"""Loading a config file, applying overrides, and refusing what cannot work."""

import ast
import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from posttrain_jax import advantages, collect, controllers, tasks, token_weights
from posttrain_jax.core.resolve import nearest, part
from posttrain_jax.data import text_task
from posttrain_jax.losses import (
  contrastive,
  distillation,
  flow,
  policy_gradient,
  preference,
  reduce,
  regularizers,
  reward_model,
  supervised,
  value,
)
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import conditioned
from posttrain_jax.trainers.rl import guests

ConfigDict = ml_collections.ConfigDict

# Keys of a part that are not hyperparameters of the function it names.
CALLERS = ('coef', 'mix', 'place')

# Parts that a run may do without: their name is then 'none'.
OPTIONAL = (
  'contrastive',
  'entropy_controller',
  'expert_advantage',
  'expert_loss',
  'explore_controller',
  'kl_controller',
  'sft_controller',
  'token_rewards',
)


def _room(config: ConfigDict, key: str, name: str = '') -> ModuleType | None:
  """The room that `config.<key>.name` = `name` is a name of."""
  if key == 'loss':
    if config.paradigm == 'preference' and name in reward_model.__all__:
      return reward_model
    return {
      'sft': supervised,
      'preference': preference,
      'rl': flow if name in flow.__all__ else policy_gradient,
      'distill': distillation,
    }.get(config.paradigm)
  if key.endswith('_controller'):
    return controllers
  return {
    'advantage': advantages,
    'collect': collect,
    'contrastive': contrastive,
    'decoder': decoders,
    'expert_advantage': advantages,
    'expert_loss': policy_gradient,
    'kl': regularizers,
    'negative': token_weights,
    'reduce': reduce,
    'sft_loss': supervised,
    'sft_weights': token_weights,
    'token_rewards': token_rewards,
    'value_loss': value,
    'weights': token_weights,
  }.get(key)


def task_entry(name: str) -> dict[str, Any]:
  """Config entry of an in-graph task, or of 'text:NAME'.

  Raises:
    ValueError: unknown task, with the nearest one.
  """
  if text_task.is_text(name):
    return text_task.entry(name)
  return tasks.defaults(name)


def _entry(config: ConfigDict, key: str, name: str) -> dict[str, Any]:
  """The config part `key` with the function called `name` and its defaults."""
  if key == 'task':
    return task_entry(name)
  if key == 'condition':
    return {'name': name, **conditioned.knobs(name)}
  if key == 'advantage' and name == 'gae':
    return {'name': 'gae', 'gamma': 1.0, 'lam': 0.95, 'whiten': True}
  # What the caller keeps beside the function's own hyperparameters.
  kept = {k: config[key][k] for k in CALLERS if k in config[key]}
  if name == 'none' and key in OPTIONAL:
    return {'name': 'none', **kept}
  return part(_room(config, key, name), name) | kept


def keys(config: ConfigDict, prefix: str = '') -> list[str]:
  """Dotted names of every leaf of a config."""
  out = []
  for key, item in config.items():
    nested = isinstance(item, ConfigDict)
    out += keys(item, f'{prefix}{key}.') if nested else [prefix + key]
  return out


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a.b': leaf} of a nested dict."""
  out = {}
  for key, item in tree.items():
    if isinstance(item, dict):
      out |= flatten(item, f'{prefix}{key}.')
    else:
      out[prefix + key] = item
  return out


def _parse(key: str, text: str, old: Any) -> Any:
  """`text` as a value of the same kind as `old`."""
  try:
    if isinstance(old, bool):
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if isinstance(old, int):
      return int(text)
    if isinstance(old, float):
      return float(text)
    if isinstance(old, (tuple, list)):
      if text.startswith(('(', '[')):
        return tuple(ast.literal_eval(text))
      return tuple(item for item in text.split(',') if item)
    if old is None:  # a knob without a default: any literal, else text
      with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
  except (KeyError, ValueError, SyntaxError) as error:
    raise ValueError(
      f'--config.{key}={text}: not a {type(old).__name__} (it is {old!r} now)'
    ) from error
  return text


def completed(saved: dict[str, Any]) -> ConfigDict:
  """The config of a saved run, with the defaults of keys that are newer.

  Keys of a part that names a function are that function's own and stay as they
  are; so do keys that no config file has any more, which `build` refuses.
  """
  config = ConfigDict(saved)
  paradigm = config.get('paradigm', '')
  try:
    defaults = load(f'configs/{paradigm}.py')
  except ValueError:
    return config  # of a config file that is not shipped
  _fill(config, defaults)
  return config


def _fill(config: ConfigDict, defaults: ConfigDict) -> None:
  for key, item in defaults.items():
    if key not in config:
      config[key] = item
    elif isinstance(item, ConfigDict) and 'name' not in item:
      _fill(config[key], item)


def with_values(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
  """A copy with dotted keys set to values of any kind, traced ones too.

  Raises:
    ValueError: an unknown key, with the nearest valid one.
  """
  config = config.copy_and_resolve_references()
  known = keys(config)
  for key, value_ in values.items():
    if key not in known:
      raise ValueError(f'unknown config key "{key}".{nearest(key, known)}')
    *path, leaf = key.split('.')
    node = config
    for name in path:
      node = node[name]
    with node.ignore_type():
      node[leaf] = value_
  return config


def override(config: ConfigDict, items: Sequence[tuple[str, str]]) -> None:
  """Applies ('loss.clip_high', '0.28') pairs, names of parts first.

  A new name replaces its part with that function's defaults.

  Raises:
    ValueError: an unknown key or name, with the nearest valid one, or a value
      of the wrong kind.
  """
  for key, text in items:
    *path, top, leaf = ['', *key.split('.')]
    node: Any = config
    for name in filter(None, path):
      node = node.get(name) if isinstance(node, ConfigDict) else None
    if leaf == 'name' and isinstance(node, ConfigDict) and top in node:
      has_room = top in ('task', 'condition') or (
        'paradigm' in node and _room(node, top) is not None
      )
      if has_room:
        node[top] = ConfigDict(_entry(node, top, text))
  for key, text in items:
    known = keys(config)
    if key not in known:
      raise ValueError(f'unknown config key "{key}".{nearest(key, known)}')
    parent, _, leaf = key.rpartition('.')
    node = config
    for name in filter(None, parent.split('.')):
      node = node[name]
    value_ = _parse(key, text, node[leaf])
    with node.ignore_type():
      node[leaf] = value_


def _find(path: str) -> Path:
  """A config file: as given, or among those installed with the package."""
  given = Path(path)
  if given.is_file():
    return given
  spec = importlib.util.find_spec('configs')
  folder = Path(spec.origin).parent if spec and spec.origin else None
  if folder and (folder / given.name).is_file():
    return folder / given.name
  shipped = [] if folder is None else [f.name for f in folder.glob('*.py')]
  shipped = [f'configs/{name}' for name in shipped if name[0] != '_']
  raise ValueError(f'no config file "{path}".{nearest(path, shipped)}')


def load(spec: str, items: Sequence[tuple[str, str]] = ()) -> ConfigDict:
  """The config of 'configs/rl.py:recipe=grpo' with overrides applied.

  Raises:
    ValueError: no such file, argument, key or name; with the nearest one.
  """
  path, _, arg = spec.partition(':')
  found = _find(path)
  module_spec = importlib.util.spec_from_file_location(found.stem, found)
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise ValueError(f'{found} defines no get_config(arg)')
  config = module.get_config(arg or None)
  override(config, items)
  return config


def split_flags(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
  """Separates `--config.KEY=VALUE` (or `--config.KEY VALUE`) from the rest.

  Raises:
    ValueError: an override without a value.
  """
  items, rest, pending = [], [], None
  for flag in argv:
    if pending is not None:
      items.append((pending, flag))
      pending = None
    elif flag.startswith('--config.'):
      key, equals, text = flag.removeprefix('--config.').partition('=')
      if equals:
        items.append((key, text))
      else:
        pending = key
    else:
      rest.append(flag)
  if pending is not None:
    raise ValueError(f'--config.{pending} has no value')
  return items, rest


def _divides(name: str, part_: int, whole: int, of: str) -> None:
  """Raises with the nearest valid sizes unless `part_` divides `whole`."""
  if part_ < 0 or (part_ > 0 and whole % part_):
    valid = [d for d in range(1, whole + 1) if whole % d == 0]
    near = sorted(valid, key=lambda d: abs(d - part_))[:3]
    raise ValueError(
      f'{name}={part_} does not divide {of}={whole}; nearest valid: '
      + ', '.join(str(d) for d in sorted(near))
    )


def rows_per_prompt(config: ConfigDict) -> int:
  """Rows that a step trains on for each of its problems or records."""
  if config.paradigm == 'rl':
    return config.group_size + guests.rows_beside(config)
  if config.data.source == 'task':
    name = config.collect.name
    return collect.rows_per_prompt(name, config.group_size)
  unpaired = config.loss.name in preference.UNPAIRED
  return 2 if config.paradigm == 'preference' and not unpaired else 1


def sizes(config: ConfigDict) -> ConfigDict:
  """The batch arithmetic of a run, resolved and checked.

  Returns prompts_per_step, group_size (rows of one problem), rows,
  minibatch_rows, microbatch_rows, updates_per_rollout, updates_per_step and
  num_updates.

  Raises:
    ValueError: sizes that do not divide, with the nearest that do.
  """
  for key in ('prompts_per_step', 'group_size', 'num_steps', 'steps_per_call',
              'updates_per_rollout'):  # fmt: skip
    if config[key] < 1:
      raise ValueError(f'{key}={config[key]} must be at least 1')
  group = rows_per_prompt(config)
  rows = config.prompts_per_step * group
  minibatch = config.minibatch_rows or rows
  _divides('minibatch_rows', minibatch, rows, 'rows')
  microbatch = config.microbatch_rows or minibatch
  _divides('microbatch_rows', microbatch, minibatch, 'minibatch_rows')
  if group > 1 and config.paradigm == 'preference':
    for key, size in (('minibatch', minibatch), ('microbatch', microbatch)):
      if size % group:
        raise ValueError(
          f'{key}_rows={size} would cut the {group} rows of a problem apart; '
          f'nearest valid: {max(group, size // group * group)}'
        )
  if 'reduce' in config and config.reduce.name == 'prompt_mean':
    _divides('group_size', group, microbatch, 'microbatch_rows')
  per_step = rows // minibatch * config.updates_per_rollout
  return ConfigDict(
    dict(
      prompts_per_step=config.prompts_per_step,
      group_size=group,
      rows=rows,
      minibatch_rows=minibatch,
      microbatch_rows=microbatch,
      updates_per_rollout=config.updates_per_rollout,
      updates_per_step=per_step,
      num_updates=per_step * config.num_steps,
    )
  )
