"""Loading a config file, applying overrides, and refusing what cannot work."""

import ast
import contextlib
import difflib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import ml_collections

from posttrain_jax import tasks, trainers
from posttrain_jax.core import paths, rooms
from posttrain_jax.core.names import closest
from posttrain_jax.core.resolve import nearest, part
from posttrain_jax.data import text_task
from posttrain_jax.models import remat
from posttrain_jax.params import adapters
from posttrain_jax.rewards import entries
from posttrain_jax.run import auto, config_file, foreign_keys, later, literals
from posttrain_jax.run.auto import AUTO
from posttrain_jax.tasks import conditioned
from posttrain_jax.trainers.rl.terms import advantage_keys

ConfigDict = ml_collections.ConfigDict

# Of the keys of a config, which are many, that a message names.
MOST_NAMED = 8
KEY_LIKE = 0.6  # how like a key has to be to be meant (`difflib`'s ratio)
OTHERS = 'others.'  # of frozen models by their roles

# Keys of a part that are not hyperparameters of the function it names.
CALLERS = ('annotation', 'coef', 'mix', 'place')

# Keys that may be 'auto', and what a run whose seeds are mapped takes.
DECIDED = {
  'cache_stages': 1,
  'microbatch_rows': 0,
  'model.attention': 'plain',
  'model.remat': 'none',
  'model.scan_decode': False,
  'model.scan_layers': False,
  'slots': 0,
  'token_buckets': 1,
}
# Of these, one whose names true and false stand for, too.
REMAT = 'model.remat'
# That may be 'auto' and decide what is learnt.
RATE = 'optimizer.lr'
WARMUP = 'optimizer.warmup_updates'

# Parts whose name is no function of a room: their keys are all there.
NAMED = ('data', 'optimizer')

# Parts that a run may do without: their name is then 'none'.
OPTIONAL = (
  'adapter',
  'contrastive',
  'curriculum',
  'entropy_controller',
  'expert_advantage',
  'expert_loss',
  'explore_controller',
  'kl_controller',
  'sft_controller',
  'temperature_controller',
  'token_rewards',
)


def room_of(config: ConfigDict, key: str, name: str = '') -> ModuleType | None:
  """The room that `config.<key>.name` = `name` is a name of."""
  if key == 'loss':
    if config.paradigm not in trainers.KINDS:
      return None
    return trainers.kind(config.paradigm).loss_room(name)
  if key == 'adapter':
    return adapters
  room = rooms.of_key(key)
  return rooms.load(room) if room else None


def is_part(config: ConfigDict, key: str) -> bool:
  """Whether `config.<key>` names a function, whose hyperparameters it has."""
  return key in ('task', 'condition') or room_of(config, key) is not None


def task_entry(name: str) -> dict[str, Any]:
  """Config entry of an in-graph task, or of 'text:NAME'.

  Raises:
    ValueError: unknown task, with the nearest one.
  """
  if text_task.is_text(name):
    return text_task.entry(name)
  return tasks.defaults(name)


def entry(config: ConfigDict, key: str, name: str) -> dict[str, Any]:
  """The config part `key` with the function called `name` and its defaults."""
  if key == 'task':
    return task_entry(name)
  if key == 'condition':
    return {'name': name, **conditioned.knobs(name)}
  # What the caller keeps beside the function's own hyperparameters.
  kept = {k: config[key][k] for k in CALLERS if k in config[key]}
  if name == 'none' and key in OPTIONAL:
    return {'name': 'none', **kept}
  found = part(room_of(config, key, name), name) | kept
  return found | advantage_keys(name) if key == 'advantage' else found


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
  now = old
  for name, number in {**DECIDED, RATE: 0.0, WARMUP: 0}.items():
    if key == name or key.endswith(f'.{name}'):  # of an arm of the quickstart
      if text == AUTO:
        return AUTO
      old = number
  if key == REMAT or key.endswith(f'.{REMAT}'):
    flags = {'true': True, '1': True, 'false': False, '0': False}
    return remat.word(flags.get(text.lower(), text))
  try:
    if isinstance(old, bool):
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if isinstance(old, int):
      return int(text)
    if isinstance(old, float):
      return float(text)
    if isinstance(old, (tuple, list)):
      return literals.listed(text)
    if old is None:  # a knob without a default: any literal, else text
      with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
  except (
    KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError
  ) as error:  # fmt: skip
    told = '; true or false' if isinstance(old, bool) else ''
    if isinstance(old, tuple | list):
      one = isinstance(error, TypeError)
      told = (
        '; a list of one is written (x,)'
        if one
        else ('; a list is written as JSON, as [{"name": "x"}], or a,b')
      )
    raise ValueError(
      f'--config.{key}={text}: not {literals.kind(old)} (it is {now!r} now)'
      + told
    ) from error
  return text


def shipped(paradigm: str) -> ConfigDict | None:
  """The config of configs/PARADIGM.py of the package; None: it has none."""
  file = config_file.shipped(paradigm)
  return None if file is None else config_file.read(file)


def completed(saved: dict[str, Any]) -> ConfigDict:
  """The config of a saved run, with the defaults of keys that are newer.

  Keys of a part that names a function are that function's own and stay as they
  are; so do keys that no config file has any more, which `build` refuses.
  """
  config = ConfigDict(saved)
  _moved(config)
  paradigm = config.get('paradigm', '')
  defaults = shipped(paradigm)
  if defaults is not None:
    _fill(config, defaults)
  return config


def _moved(config: ConfigDict) -> None:
  """Keys of older runs under the names that they have now."""
  if 'reward' in config:  # a reward model was the only one there was
    role = config.reward.get('model', '')
    entry = {'name': 'model', 'weight': 1.0, 'role': role}
    del config['reward']
    config.rewards = (entry,) if role else ()
  rising = config.get('optimizer', {}).get('warmup_updates', 0)
  usual = auto.WARMUPS.get(config.get('paradigm', ''))
  if rising == usual and rising > config.get('num_steps', rising):
    with config.optimizer.ignore_type():  # it was the default, and gave way
      config.optimizer.warmup_updates = AUTO
  if config.get('adapter', {}).get('name') in ('lora', 'rslora', 'dora'):
    config.adapter.dropout = config.adapter.get('dropout', 0.0)
  later.complete(config)
  _named_remat(config)


def _named_remat(config: ConfigDict) -> None:
  """A name where True or False stands, which was all that one could say."""
  if isinstance(config.get('model', {}).get('remat'), bool):
    name = remat.word(config.model.remat)
    with config.model.ignore_type():
      config.model.remat = name


def _fill(config: ConfigDict, defaults: ConfigDict) -> None:
  for key, item in defaults.items():
    if key not in config:
      config[key] = item
    elif isinstance(item, ConfigDict) and (key in NAMED or 'name' not in item):
      _fill(config[key], item)


def with_values(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
  """A copy with dotted keys set to values of any kind, traced ones too; of
  rewards as `entries.with_value`: 'rewards.LABEL.weight'.

  Raises:
    ValueError: an unknown key, with the nearest valid one.
  """
  config = config.copy_and_resolve_references()
  known = keys(config)
  for key, value_ in values.items():
    if key.startswith('rewards.') and 'rewards' in known:
      path = key.split('.')[1:]
      config.rewards = entries.with_value(config.rewards, path, value_)
      continue
    if key not in known:
      raise ValueError(f'unknown config key "{key}".{nearest(key, known)}')
    *path, leaf = key.split('.')
    node = config
    for name in path:
      node = node[name]
    with node.ignore_type():
      node[leaf] = value_
  return config


def plain(config: ConfigDict) -> ConfigDict:
  """A copy that takes all rows at a time where the config leaves it to 'auto'.

  Runs mapped side by side share one program, in which slots and micro-batches
  gain nothing. How deep a model is still says whether its layers are scanned.
  """
  config = config.copy_and_resolve_references()
  for key, number in DECIDED.items():
    if key in config and config[key] == AUTO:
      with config.ignore_type():
        config[key] = number
  return config


def meant(config: ConfigDict, key: str, known: Sequence[str]) -> str:
  """What may be meant by a key that is not among the `known` ones of a config:
  the nearest of these many, a part that has no name yet, a config file that has
  it; or what a name of another library is here."""
  if told := foreign_keys.ours(key, known):
    return told
  close = difflib.get_close_matches(key, known, n=MOST_NAMED, cutoff=0.4)
  # Of so many keys one is always a little like it.
  hint = closest(key, known, KEY_LIKE)
  told = f' Did you mean "{hint}"?' if hint else ''
  told += f' Valid: {", ".join(sorted(close or known))}'
  if len(close) and len(close) < len(known):
    told += f', of {len(known)} keys'
  part_name = key.rpartition('.')[0]
  if f'{part_name}.name' in known:
    told += f'. It may be of another --config.{part_name}.name'
  for name in trainers.KINDS:
    if name != config.get('paradigm'):
      theirs = keys(shipped(name) or ConfigDict())
      if key in theirs:
        told += f'. configs/{name}.py has it'
      elif there := foreign_keys.ours(key, theirs):
        told += f'. In configs/{name}.py{there.removesuffix(" here.")}'
  return told


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
    there = isinstance(node, ConfigDict) and 'paradigm' in node and top in node
    if leaf == 'name' and there and is_part(node, top):
      try:
        node[top] = ConfigDict(entry(node, top, text))
      except ValueError as error:
        told = config_file.recipe(text)
        raise ValueError(f'{error}{told and ". "}{told}') from None
  # Roles are known once it is known who names them.
  for key, text in sorted(items, key=lambda item: item[0].startswith(OTHERS)):
    known = [*keys(config), *_roles_named(config)]
    if key not in known:
      told = meant(config, key, known)
      raise ValueError(f'unknown config key "{key}".{told}')
    parent, _, leaf = key.rpartition('.')
    node = config
    for name in filter(None, parent.split('.')):
      node = node[name]
    value_ = _parse(key, text, node.get(leaf, ''))
    with node.ignore_type():
      node[leaf] = value_


def _roles_named(config: ConfigDict) -> list[str]:
  """'others.ROLE' of the models that other keys of a config name."""
  if 'others' not in config:
    return []
  entry_ = [x for x in config.get('rewards', ()) if not isinstance(x, str)]
  found = [*config.get('strength', ()), *(x.get('role', '') for x in entry_)]
  for section in ('collect', 'meta'):
    given = config.get(section, {})
    asks = 'sampler', 'other', 'judge'
    found += [given[key] for key in asks if key in given]
  own = ('', 'policy', 'ref', 'oracle', *config.others)
  return [f'{OTHERS}{role}' for role in found if role not in own]


def load(spec: str, items: Sequence[tuple[str, str]] = ()) -> ConfigDict:
  """The config of 'configs/rl.py:recipe=grpo' with overrides applied.

  Raises:
    ValueError: no such file, argument, key or name; with the nearest one.
  """
  path, _, arg = spec.partition(':')
  config = config_file.read(config_file.find(path), arg)
  override(config, items)
  _named_remat(config)
  _at_home(config)
  return config


def _at_home(config: ConfigDict) -> None:
  """Writes the home folder out in every path that begins with '~'."""
  for key, item in config.items():
    if isinstance(item, ConfigDict):
      _at_home(item)
    elif isinstance(item, str | tuple | list):
      found = paths.expanded(item)
      if found != item:
        config[key] = found


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
  first = dict(reversed(items))
  for key, text in items:
    if first[key] != text:
      raise ValueError(
        f'--config.{key} is given twice, as {first[key]} and {text}: leave one '
        'out'
      )
  return items, rest
