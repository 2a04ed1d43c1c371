"""Which runs a sweep has: grids, lists and random draws of config overrides."""

import dataclasses
import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain_jax.core import paths
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import model_folder

__all__ = ['Member', 'grid', 'listed', 'members', 'parse_axis', 'point',
           'sampled']  # fmt: skip

Overrides = tuple[tuple[str, str], ...]
# 'log(1e-5,1e-2)', 'uniform(0,1)': what --random draws from
_RANGE = re.compile(r'(log|uniform)\(([^,()]+),([^,()]+)\)')


@dataclasses.dataclass(frozen=True)
class Member:
  """One run of a sweep.

  overrides  ((dotted key, text), ...) beside those of the whole sweep
  seed       `config.seed`
  config     resolved
  name       of its folder, under runs/
  """

  overrides: Overrides
  seed: int
  config: Any = dataclasses.field(compare=False, hash=False)

  @property
  def name(self) -> str:
    return f'{setting_name(self.overrides)}/seed{self.seed}'


def setting_name(overrides: Overrides) -> str:
  """A folder's name that says the values, and that no other setting has."""
  if not overrides:
    return 'base'
  shown = ','.join(f'{key.rpartition(".")[2]}={v}' for key, v in overrides)
  shown = re.sub(r'[^\w=.,+-]', '_', shown)[:80]
  digest = hashlib.sha256(repr(sorted(overrides)).encode()).hexdigest()[:6]
  return f'{shown}-{digest}'


def parse_axis(text: str) -> tuple[str, list[str] | tuple[str, float, float]]:
  """'config.optimizer.lr=1e-4,3e-4' -> (key, values), or (key, range).

  Values that hold commas are written in brackets: `config.x=[(1,2),(3,4)]`.

  Raises:
    ValueError: no `config.`, no value, or a range that cannot be drawn from.
  """
  key, equals, values = text.partition('=')
  if not key.startswith('config.') or not equals or not values:
    raise ValueError(
      f'--sweep {text}: write config.KEY=VALUE,VALUE, or a range as '
      'config.KEY=log(LOW,HIGH)'
    )
  key = key.removeprefix('config.')
  if key == 'recipe':
    raise ValueError(
      f'--sweep {text}: a recipe stands behind the colon, as --config '
      f'configs/rl.py:recipe={values.split(",")[0]}; two methods are two '
      'sweeps, each with its own --workdir, whose results.csv are compared'
    )
  drawn = _RANGE.fullmatch(values)
  if drawn:
    kind, low, high = drawn.groups()
    try:
      low, high = float(low), float(high)
    except ValueError as error:
      raise ValueError(f'--sweep {text}: {error}') from error
    if not low < high or (kind == 'log' and low <= 0):
      raise ValueError(
        f'--sweep {text}: needs {"0 < " if kind == "log" else ""}LOW < HIGH'
      )
    return key, (kind, low, high)
  if values.startswith('[') and values.endswith(']'):
    # Commas inside brackets belong to a value.
    found = re.findall(r'\([^()]*\)|[^,()\[\]]+', values[1:-1])
  else:
    found = values.split(',')
  found = [value.strip() for value in found]
  if '' in found:
    raise ValueError(f'--sweep {text}: an empty value')
  values_of: dict[Any, str] = {}
  for value in found:
    same = values_of.setdefault(_number(value), value)
    if same != value:
      raise ValueError(f'--sweep {text}: {same} and {value} are one number')
  if len(values_of) < len(found):
    raise ValueError(f'--sweep {text}: a value twice')
  return key, found


def _number(text: str) -> Any:
  """The number that a text is; else itself."""
  try:
    return float(text)
  except ValueError:
    return text


def grid(axes: Sequence[str]) -> list[Overrides]:
  """The product of all axes; of none, the config as it is.

  Raises:
    ValueError: a bad axis, a key twice, or a range (which is for `sampled`).
  """
  parsed = _parse_all(axes)
  for key, values in parsed:
    if isinstance(values, tuple):
      raise ValueError(
        f'--sweep config.{key}={values[0]}(...): a range is drawn from; say '
        'how often with --random N'
      )
  return [
    tuple((key, value) for (key, _), value in zip(parsed, chosen))
    for chosen in itertools.product(*(values for _, values in parsed))
  ]


def sampled(axes: Sequence[str], count: int, seed: int) -> list[Overrides]:
  """`count` random draws: of a range by its law, of values evenly.

  Raises:
    ValueError: a bad axis, a key twice, no axis, or a count below 1.
  """
  parsed = _parse_all(axes)
  if count < 1 or not parsed:
    raise ValueError(
      f'--random {count}: needs a count of at least 1 and at least one --sweep'
    )
  source = random.Random(seed)
  return [
    tuple((key, _draw(values, source)) for key, values in parsed)
    for _ in range(count)
  ]


def _draw(values: Any, source: random.Random) -> str:
  if isinstance(values, list):
    return source.choice(values)
  kind, low, high = values
  if kind == 'log':
    return f'{math.exp(source.uniform(math.log(low), math.log(high))):.4g}'
  return f'{source.uniform(low, high):.4g}'


def listed(path: str | Path) -> list[Overrides]:
  """Settings of a JSONL file, one object {"optimizer.lr": 1e-4, ...} a line.

  Raises:
    ValueError: no such file, or a line that is no such object; names the line.
  """
  path = Path(path)
  if not path.is_file():
    raise ValueError(f'--list {path}: no such file{paths.hint(path)}')
  out = []
  for number, line in enumerate(
    path.read_text(encoding='utf-8-sig').splitlines(), start=1
  ):
    if not line.strip():
      continue
    try:
      item = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f'{path}:{number}: {error.msg}') from error
    if not isinstance(item, dict):
      raise ValueError(f'{path}:{number}: not an object of config keys')
    out.append(
      tuple(
        (key.removeprefix('config.'), _text(value))
        for key, value in item.items()
      )
    )
  if not out:
    raise ValueError(f'{path}: no settings in it')
  return out


def _text(value: Any) -> str:
  if isinstance(value, bool):
    return str(value).lower()
  return str(tuple(value)) if isinstance(value, list) else str(value)


def _parse_all(axes: Sequence[str]) -> list:
  parsed = [parse_axis(text) for text in axes]
  seen = [key for key, _ in parsed]
  for key in seen:
    if seen.count(key) > 1:
      raise ValueError(f'--sweep config.{key}: given twice')
    if key == 'seed':
      raise ValueError('--sweep config.seed: take --seeds N')
  return parsed


def members(
  spec: str,
  items: Sequence[tuple[str, str]],
  settings: Sequence[Overrides],
  seeds: Sequence[int],
) -> list[Member]:
  """Every setting with every seed, in that order; equal settings once.

  spec   'configs/rl.py:recipe=grpo'
  items  overrides of the whole sweep

  Raises:
    ValueError: a setting that the config does not take; it is named.
  """
  out, fixed = [], dict(items)
  if 'seed' in fixed:
    raise ValueError(
      f'--config.seed={fixed["seed"]}: seeds of a sweep are --seeds N, from '
      '--first_seed on'
    )
  for overrides in dict.fromkeys(settings):
    for key, value in overrides:
      if fixed.get(key, value) != value:
        raise ValueError(
          f'--config.{key}={fixed[key]} is for all runs, and a setting has '
          f'{key}={value}: leave one out'
        )
    try:
      config = config_lib.load(spec, [*items, *overrides])
      config = model_folder.settled(config)
    except ValueError as error:
      shown = ', '.join(f'{key}={value}' for key, value in overrides)
      raise ValueError(f'setting {shown or "(none)"}: {error}') from error
    for seed in seeds:
      own = config.copy_and_resolve_references()
      own.seed = seed
      out.append(Member(overrides, seed, own))
  return out


def point(members: Sequence[Member], number: int) -> list[Member]:
  """The runs of setting `number` (0, 1, ...) of `members`: all of its seeds.

  Raises:
    ValueError: there are fewer settings.
  """
  found = list(dict.fromkeys(member.overrides for member in members))
  if not 0 <= number < len(found):
    raise ValueError(
      f'--only {number}: there are {len(found)} settings, 0 to {len(found) - 1}'
    )
  return [member for member in members if member.overrides == found[number]]
