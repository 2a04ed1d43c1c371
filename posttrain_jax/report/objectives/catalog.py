"""Every public function of every room, and every recipe, as plain records."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from posttrain_jax.core import rooms as room_table
from posttrain_jax.core.resolve import arrays_of, hparams_of
from posttrain_jax.report.objectives import docs
from posttrain_jax.report.objectives import needs as objectives_needs
from posttrain_jax.report.objectives.docs import Doc

__all__ = [
  'Catalog',
  'Function',
  'Part',
  'Recipe',
  'Room',
  'find',
  'load',
  'names_of',
  'recipes',
  'rooms',
]

# Public functions with a signature of their own, in no list of their room.
_UNLISTED = {'losses.regularizers': ('l2_to_start',)}


@dataclasses.dataclass(frozen=True)
class Function:
  """One function of a room.

  id         'losses.preference.dpo', also its place on the page
  call       its parameters as they are written in Python
  hparams    {name: default}
  arrays     keyword arrays that the caller must pass
  optional   arrays that may be left out
  needs      some of `objectives_needs.NEEDS`
  same_as    id of the function that this is another name of, or ''
  """

  id: str
  room: str
  name: str
  call: str
  doc: Doc
  hparams: dict[str, Any]
  arrays: tuple[str, ...]
  optional: tuple[str, ...]
  needs: tuple[str, ...]
  same_as: str = ''


@dataclasses.dataclass(frozen=True)
class Room:
  """A module of functions that are called alike."""

  name: str
  summary: str
  about: str
  functions: tuple[Function, ...]


@dataclasses.dataclass(frozen=True)
class Part:
  """What a recipe takes from a room.

  key      of the config: `--config.KEY.NAME=...` overrides a hyperparameter
  changed  {name: (value, default)} where the recipe differs
  more     {name: value} of keys that are the trainer's, not the function's
  """

  key: str
  function: Function
  changed: dict[str, tuple[Any, Any]]
  more: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A row of a table in configs/recipes.

  id         its place on the page
  settings   {'ref.refresh_every': 50}: keys of the config besides parts
  urls       its reference, or what its first part's docstring cites
  """

  id: str
  name: str
  table: str
  config: str
  command: str
  parts: tuple[Part, ...]
  settings: dict[str, Any]
  urls: tuple[str, ...]

  @property
  def place(self) -> int:
    """Where the room of its loss stands: tables are shown in that order."""
    losses = [p.function.room for p in self.parts if p.key == 'loss']
    order = list(room_table.ROOMS)
    return order.index(losses[0]) if losses else len(order)

  @property
  def needs(self) -> tuple[str, ...]:
    """Those of its parts and settings, in the order of `NEEDS`."""
    found = {need for part in self.parts for need in part.function.needs}
    for part in self.parts:
      found |= objectives_needs.models_named(
        v for v, _ in part.changed.values()
      )
      if part.key == 'collect' and 'task oracle' not in part.function.needs:
        found.discard('demonstrations')  # its own answers stand for them
    for name in self.settings:
      section, _, key = name.partition('.')
      if section == 'ref':
        found.add('reference policy')
      elif section == 'others':
        found.add(key if key in objectives_needs.NEEDS else 'other models')
    return tuple(need for need in objectives_needs.NEEDS if need in found)


@dataclasses.dataclass(frozen=True)
class Catalog:
  rooms: tuple[Room, ...]
  recipes: tuple[Recipe, ...]

  def functions(self) -> list[Function]:
    """Those of all rooms."""
    return [f for room in self.rooms for f in room.functions]

  def headline(self, recipe: Recipe) -> Function:
    """The part that sets a recipe apart: the one that fewest recipes have."""
    parts = [part for part in recipe.parts if part.key != 'reduce']
    rarity = lambda p: (len(self.users_of(p.function)), p.key != 'loss')
    return min(parts, key=rarity).function

  def users_of(self, function: Function) -> list[Recipe]:
    """The recipes that have a function among their parts."""
    return [
      recipe
      for recipe in self.recipes
      if any(part.function.id == function.id for part in recipe.parts)
    ]


def names_of(room: str, module: ModuleType) -> list[str]:
  """Names in `__all__`, then those in the room's other public lists."""
  names = list(module.__all__)
  for key, value in vars(module).items():
    listed = isinstance(value, list | tuple) and key.isupper()
    if listed and not key.startswith('_'):
      names += [x for x in value if callable(getattr(module, str(x), None))]
  return list(dict.fromkeys([*names, *_UNLISTED.get(room, ())]))


def _call(name: str, function: Callable) -> str:
  """'f(signals, mask, *, negative, coef=1.0)' without annotations."""
  parameters = [
    p.replace(annotation=inspect.Parameter.empty)
    for p in inspect.signature(function).parameters.values()
  ]
  return f'{name}{inspect.Signature(parameters)}'


def _function(room: str, name: str, module: ModuleType) -> Function:
  function = getattr(module, name)
  return Function(
    id=f'{room}.{name}',
    room=room,
    name=name,
    call=_call(name, function),
    doc=docs.parse(function.__doc__, inspect.signature(function).parameters),
    hparams=hparams_of(function),
    arrays=tuple(arrays_of(function)),
    optional=tuple(objectives_needs.optional_of(function)),
    needs=objectives_needs.needs_of(room, function, module),
  )


def _module(room: str) -> ModuleType | None:
  """The room, or None where this checkout does not have it."""
  name = f'posttrain_jax.{room}'
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name:
      raise
    return None


def rooms(names: Iterable[str] = room_table.ROOMS) -> tuple[Room, ...]:
  """The rooms that there are, in the order of `core.rooms`."""
  home: dict[Callable, str] = {}
  found = []
  modules = {room: _module(room) for room in names}
  for room, module in modules.items():
    for name in names_of(room, module) if module else ():
      function = getattr(module, name)
      is_own = function.__module__.startswith(module.__name__)
      if function not in home or (is_own and function.__name__ == name):
        home[function] = f'{room}.{name}'
  for room, module in modules.items():
    if module is None:
      continue
    functions = []
    for name in names_of(room, module):
      entry = _function(room, name, module)
      first = home[getattr(module, name)]
      same_as = first if first != entry.id else ''
      functions.append(dataclasses.replace(entry, same_as=same_as))
    functions.sort(key=lambda f: f.name)
    summary, _, about = inspect.cleandoc(module.__doc__ or '').partition('\n\n')
    summary = ' '.join(summary.split())
    found.append(Room(room, summary, about, tuple(functions)))
  return tuple(found)


def _tables() -> dict[str, dict[str, dict]]:
  """Every table of rows in configs/recipes: {'RL': {'grpo': row, ...}}."""
  module = importlib.import_module('configs.recipes')
  return {
    key: value
    for key, value in vars(module).items()
    if key.isupper()
    and not key.startswith('_')
    and isinstance(value, dict)
    and all(isinstance(row, dict) for row in value.values())
  }


def find(key: str, entry: dict, where: str, functions: list[Function]) -> Part:
  """The function that a part of a row names, and how it is called.

  Args:
    key: of the row, such as 'loss'.
    entry: {'name': ..., hyperparameters}.
    where: the row, for the message of an error.
    functions: of all rooms.

  Raises:
    LookupError: no room has it.
  """
  room = room_table.of_key(key) or 'losses.'
  named = [f for f in functions if f.name == entry['name']]
  fitting = [f for f in named if f.room.startswith(room)] or named
  if not fitting:
    raise LookupError(f'{where}: no room has "{entry["name"]}" ({key})')
  given = {name: x for name, x in entry.items() if name != 'name'}
  fits = lambda f: (len(given.keys() & f.hparams.keys()), not f.same_as)
  function = max(fitting, key=fits)
  return Part(
    key=key,
    function=function,
    changed={
      name: (x, function.hparams[name])
      for name, x in given.items()
      if name in function.hparams and x != function.hparams[name]
    },
    more={n: x for n, x in given.items() if n not in function.hparams},
  )


def _flat(row: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'ref.mixup': 0.1}: nested keys with dots between the levels."""
  found = {}
  for key, value in row.items():
    if isinstance(value, dict):
      found |= _flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def _recipe(
  table: str, name: str, row: dict, functions: list[Function]
) -> Recipe:
  names = {function.name for function in functions}
  is_part = lambda key, entry: (
    isinstance(entry, dict)
    and 'name' in entry
    and (key == 'loss' or room_table.of_key(key) or entry['name'] in names)
  )
  parts = tuple(
    find(key, entry, f'{table}[{name!r}]', functions)
    for key, entry in row.items()
    if is_part(key, entry)
  )
  known = {'reference', *(part.key for part in parts)}
  config = f'configs/{table.lower()}.py'
  return Recipe(
    id=f'recipe-{name}',
    name=name,
    table=table,
    config=config,
    command=(
      f'python -m posttrain_jax.train --config {config}:recipe={name} '
      f'--workdir runs/{name}'
    ),
    parts=parts,
    settings=_flat({k: v for k, v in row.items() if k not in known}),
    urls=docs.urls_of(row.get('reference', '')) or parts[0].function.doc.urls,
  )


def recipes(functions: list[Function]) -> tuple[Recipe, ...]:
  """The rows of all tables; tables in the order of the rooms of their losses.

  A name that two tables have leads to the first of them: the other's id ends
  with its table.
  """
  tables = [
    [_recipe(table, name, row, functions) for name, row in rows.items()]
    for table, rows in _tables().items()
    if rows
  ]
  tables.sort(key=lambda own: (own[0].place, own[0].table))
  taken: set[str] = set()
  found = []
  for recipe in (recipe for own in tables for recipe in own):
    if recipe.id in taken:
      place = f'{recipe.id}-{recipe.table.lower()}'
      recipe = dataclasses.replace(recipe, id=place)
    taken.add(recipe.id)
    found.append(recipe)
  return tuple(found)


def load() -> Catalog:
  """All rooms and recipes of this checkout."""
  all_rooms = rooms()
  functions = [f for room in all_rooms for f in room.functions]
  return Catalog(all_rooms, recipes(functions))
