"""Shapes of what public functions are given, checked where they are called.

A room ends with one line, `shapes.checked(globals(), names)`. Its functions
then take plain lists, too, and refuse with one sentence an array that is not
what their docstring says. All of it happens while a function is traced:
nothing is in compiled code, under `jit`, `vmap`, `grad` and `scan` alike.

Letters name axes: B rows or prompts, T tokens, U tokens of a second answer,
V vocabulary, D features, G completions, C their tokens, S segments or samples,
M models, N problems; '*' is any shape, the same for all. The first array that
has a letter says how long it is. A later one may be 1 there, or a single
number: it stands for all, and is repeated before the function sees it. Not so
log-probabilities and logits, which no two tokens have in common.
"""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core import arrays
from posttrain_jax.core.types import Record, SequenceSignals, TokenSignals

__all__ = ['Shapes', 'checked', 'declared', 'held', 'of']

Array = jax.Array
# An argument's letters, or those of its fields; of a dict ANY has all of them.
Axes = str | Mapping[str, str]
ANY = 'any'
# Integers in a list are integers where the array says so, floats elsewhere.
_WHOLE = ('ends', 'tokens')
# Of every token its own: none stands for others.
_OWN = ('logps', 'logits')
_SEQUENCE = {'logps': 'B', 'length': 'B', 'token_logps': 'BT', 'mask': 'BT'}


class Shapes(NamedTuple):
  """What a function's array arguments are, in order of its signature.

  axes      {argument: letters}, of a record {argument: {field: letters}}
  optional  arguments that may be None
  """

  axes: dict[str, Axes]
  optional: frozenset[str]


class _Sizes(dict[str, tuple[int, str]]):
  """{letter: (length, the array that said so)}."""

  def of(self, letters: str) -> str:
    known = [str(self[x][0]) if x in self else x for x in letters]
    return f'({", ".join(known)}{"," * (len(known) == 1)})'


def _second(letters: str, name: str) -> str:
  """A second answer has a number of tokens of its own."""
  is_second = any(x in name for x in ('rejected', 'mismatched'))
  return letters.replace('T', 'U') if is_second else letters


def _record(kind: type, name: str) -> dict[str, str]:
  fields = (
    _SEQUENCE
    if kind is SequenceSignals
    else {x: arrays.shape(x) for x in TokenSignals.__dataclass_fields__}
  )
  return {field: _second(axes, name) for field, axes in fields.items()}


def declared(function: Callable, own: Mapping[str, Axes]) -> Shapes:
  """The shapes of a function's arguments: `own` ones, else those of
  `core.arrays`, by name. Hyperparameters and trees of parameters have none."""
  axes: dict[str, Axes] = {}
  optional = []
  for name, parameter in inspect.signature(function).parameters.items():
    if (
      parameter.kind is parameter.KEYWORD_ONLY
      and parameter.default is not parameter.empty
    ):
      continue
    annotation = parameter.annotation
    kinds = (annotation, *typing.get_args(annotation))
    if type(None) in kinds:
      optional.append(name)
    records = [x for x in kinds if x in (SequenceSignals, TokenSignals)]
    if name in own:
      axes[name] = own[name]
    elif records:
      axes[name] = _record(records[0], name)
    elif Array in kinds:
      axes[name] = _second(arrays.shape(name), name)
  return Shapes({x: y for x, y in axes.items() if y}, frozenset(optional))


def _said(value: Any) -> str:
  if value is None:
    return 'None'
  kind = 'array' if hasattr(value, 'shape') else type(value).__name__
  return f'{"an" if kind[0] in "aeiou" else "a"} {kind}'


def _array(value: Any, name: str, letters: str, where: str) -> Any:
  """The value, or the array that its lists are; floats for truth values.

  Raises:
    ValueError: it is no array of numbers.
  """
  if hasattr(value, 'shape'):
    return value.astype(np.float32) if value.dtype == bool else value
  if isinstance(value, int | float) and not isinstance(value, bool):
    return jnp.asarray(value)  # takes the precision of what it meets
  try:
    array = np.asarray(value)
  except (TypeError, ValueError):  # ragged, or traced numbers
    array = np.asarray(None)
  if array.dtype.kind not in 'biuf':
    if any(isinstance(x, Array) for x in jax.tree.leaves(value)):
      return jnp.asarray(value)
    raise ValueError(
      f'{where}: {name} is {_said(value)}; it must be [{", ".join(letters)}], '
      'an array or lists of numbers, all of one length'
    )
  is_whole = name.rpartition('.')[2] in _WHOLE
  return jnp.asarray(array, jnp.int32 if is_whole else jnp.float32)


def _fitted(
  value: Any, name: str, letters: str, sizes: _Sizes, where: str
) -> Any:
  """The array at its full size.

  Raises:
    ValueError: it has another shape.
  """
  array = _array(value, name, letters, where)
  shape = array.shape
  if letters == '*':
    letters = ''.join(sizes) or 'abcdefgh'[: len(shape)]
  known = [sizes[x][0] if x in sizes else None for x in letters]
  shared = not name.rpartition('.')[2].endswith(_OWN)
  fits = shared and not shape and None not in known
  if len(shape) == len(letters):
    fits = all(
      full in (None, size) or (size == 1 and shared)
      for size, full in zip(shape, known, strict=True)
    )
  if not fits:
    raise ValueError(_sentence(shape, name, letters, sizes, where))
  for size, letter in zip(shape, letters, strict=False):
    sizes.setdefault(letter, (size, name))
  full = tuple(sizes[letter][0] for letter in letters)
  if shape == full:
    return array
  repeat = np if isinstance(array, np.ndarray) else jnp
  return repeat.broadcast_to(array, full)


def _sentence(
  shape: tuple[int, ...], name: str, letters: str, sizes: _Sizes, where: str
) -> str:
  by = dict.fromkeys(sizes[x][1] for x in letters if x in sizes)
  said = f'{where}: {name} has shape {shape}; it must be [{", ".join(letters)}]'
  if by:
    said += f' = {sizes.of(letters)}, by the shape of {" and ".join(by)}'
  if len(shape) == 1 and len(letters) == 2:
    row = 'prompt' if letters == 'BG' else 'row'
    whole, one = (sizes.get(x, shape)[0] in shape for x in letters)
    helps = [f'one {row} is {name}[None]'] * one
    helps += [f'one number a {row} is {name}[:, None]'] * whole
    said += f' ({", ".join(helps)})' if helps else ''
  return said


def _fields(value: Any, axes: Mapping[str, str]) -> dict[str, Any] | None:
  """What a dict, a record or a named tuple holds; None: it is none of them."""
  if isinstance(value, dict):
    return value
  if isinstance(value, Record):
    # Not by getattr: `trainers.arrays` watches what a function itself reads.
    return {field: vars(value).get(field) for field in axes}
  return value._asdict() if hasattr(value, '_asdict') else None


def _given(value: Any, name: str, axes: Axes, sizes: _Sizes, where: str) -> Any:
  """An argument, a record's fields each by itself.

  Raises:
    ValueError: it is no record, or one of its arrays has another shape.
  """
  if isinstance(axes, str):
    return _fitted(value, name, axes, sizes, where)
  is_open = ANY in axes
  fields = _fields(value, axes)
  if fields is None or is_open != isinstance(value, dict):
    record = 'dict of arrays'
    if not is_open:
      kind = 'Sequence' if 'length' in axes else 'Token'
      record = f'posttrain_jax.types.{kind}Signals of {", ".join(axes)}'
    raise ValueError(
      f'{where}: {name} is {_said(value)}; it must be a {record}'
    )
  changed: dict[str, Any] = {}
  for field, before in fields.items():
    letters = axes[ANY] if is_open else axes.get(field)
    if before is not None and letters:
      now = _fitted(before, f'{name}.{field}', letters, sizes, where)
      changed |= {field: now} if now is not before else {}
  if not changed:
    return value
  if isinstance(value, dict):
    return value | changed
  return (
    value.replace(**changed)
    if isinstance(value, Record)
    else (value._replace(**changed))
  )


def held(function: Callable, where: str, shapes: Shapes) -> Callable:
  """The function, held to the shapes; `where` is what messages call it."""
  parameters = list(inspect.signature(function).parameters)
  places = {name: parameters.index(name) for name in shapes.axes}

  @functools.wraps(function)
  def call(*args: Any, **named: Any) -> Any:
    given, sizes = list(args), _Sizes()
    for name, axes in shapes.axes.items():
      at = places[name]
      if at >= len(given) and name not in named:
        continue  # left out: there is a default, or the function says so
      value = given[at] if at < len(given) else named[name]
      if value is None and name in shapes.optional:
        continue
      value = _given(value, name, axes, sizes, where)
      if at < len(given):
        given[at] = value
      else:
        named[name] = value
    return function(*given, **named)

  call.__shapes__ = shapes  # type: ignore[attr-defined]
  return call


def of(function: Callable) -> Shapes:
  """What a function is held to, or would be."""
  return getattr(function, '__shapes__', None) or declared(function, {})


def checked(
  room: MutableMapping[str, Any], names: Iterable[str], **own: Axes
) -> None:
  """Puts the check before the functions of a room.

  Args:
    room: its `globals()`.
    names: of the functions.
    own: {argument: letters} where the room's argument is another array than the
      one of that name in `core.arrays` ('': it is none), or FUNCTION__argument
      for one function.
  """
  short = room['__name__'].rpartition('.')[2]
  made: dict[Callable, Callable] = {}  # one function may have two names
  for name in names:
    function = room[name]
    if hasattr(function, '__shapes__'):  # another room's
      continue
    mine = {key: axes for key, axes in own.items() if '__' not in key}
    for key, axes in own.items():
      if key.startswith(f'{function.__name__}__'):
        mine[key.removeprefix(f'{function.__name__}__')] = axes
    if function not in made:
      where = f'{short}.{function.__name__}'
      made[function] = held(function, where, declared(function, mine))
    room[name] = made[function]
    # By its own name, too, where it is defined: what is pickled is looked up
    # there.
    home, own_name = sys.modules[function.__module__], function.__name__
    if getattr(home, own_name, None) is function:
      setattr(home, own_name, room[name])
