"""Which tensor of PEFT's files is which part of an adapter here.

Which module is which of our matrices is read from `models.hf`'s table.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from posttrain_jax.core import hosts, lfs
from posttrain_jax.core.names import nearest
from posttrain_jax.core.types import PyTree
from posttrain_jax.models import hf, hf_table, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params.adapters import TABLE, UNEMBED, axes_of

__all__ = ['PARTS', 'PREFIX', 'Place', 'check_copies', 'find', 'is_copy',
           'output_of', 'places_of', 'tensors_of', 'tied_names', 'to_file',
           'to_ours']  # fmt: skip

PREFIX = 'base_model.model.'
PARTS = {
  'a': 'lora_A.weight',
  'b': 'lora_B.weight',
  'magnitude': 'lora_magnitude_vector',
}
# Of a table of embeddings.
LOOKED_UP = {**PARTS, 'a': 'lora_embedding_A', 'b': 'lora_embedding_B'}
_ENDS = '|'.join(map(re.escape, (*PARTS.values(), *LOOKED_UP.values())))
# A table that PEFT writes beside the adapter of it.
_COPY = re.compile(rf'{re.escape(PREFIX)}(.+?)(?:[.]base_layer)?[.]weight')
_TENSOR = re.compile(f'{re.escape(PREFIX)}(.+)[.]({_ENDS})')


class Place(NamedTuple):
  """One matrix of one layer, or one that is no layer's.

  row     of the table of `models.hf`
  layer   None: it is no layer's
  inside  number of inputs, outside of outputs
  inner   input axes of our matrix
  """

  row: hf.Row
  path: str
  layer: int | None
  inside: int
  outside: int
  inner: int

  @property
  def parts(self) -> dict[str, str]:
    """{part: how its tensor is called}."""
    return LOOKED_UP if self.path == TABLE else PARTS


def module_of(row: hf.Row, layer: int | None) -> str:
  return row.key.format(layer).removesuffix('.weight')


def places_of(config: ModelConfig) -> Iterator[tuple[str, Place]]:
  """(module, matrix) of every matrix that may have an adapter of its own."""
  table = transformer.param_table(config)
  for row in hf.rows(config):
    inner, outer = axes_of(row.path) or (0, 0)
    if not inner or len(row.ours) != inner + outer:
      continue
    words = {row.ours[:inner], row.ours[inner:]}
    if set(row.axes.split()) != words or not row.key.endswith('.weight'):
      continue  # one tensor of the file is several of ours
    if row.stacked and table[row.path].shape[0] != config.num_layers:
      continue  # some layers have no such matrix
    shape = row.shape(config)
    sizes = math.prod(shape[:inner]), math.prod(shape[inner:])
    for layer in range(config.num_layers) if row.stacked else (None,):
      yield module_of(row, layer), Place(row, row.path, layer, *sizes, inner)


def output_of(config: ModelConfig) -> str:
  """The module of the output matrix, also of a model that ties it."""
  layout = hf_table.layout_of(config)
  return next(
    module_of(row, None)
    for row in hf_table.TABLE
    if row.path == UNEMBED and layout in row.layouts.split()
  )


def find(key: str, places: Mapping[str, Place]) -> tuple[Place, str]:
  """(matrix, name of the part) of a tensor of an adapter.

  Raises:
    ValueError: it is of none; with the nearest name.
  """
  match = _TENSOR.fullmatch(key)
  place = places.get(match[1]) if match else None
  if match and place:
    for name, part in place.parts.items():
      if part == match[2]:
        return place, name
  known = [
    f'{PREFIX}{module}.{part}'
    for module, there in places.items()
    for part in there.parts.values()
  ]
  raise ValueError(
    f'tensor "{key}" is of no matrix of this model that may have an adapter.'
    + nearest(key, known)
  )


def to_file(x: np.ndarray, name: str, place: Place) -> np.ndarray:
  if name == 'a':
    x = x.reshape(place.inside, -1).T
  elif name == 'b':
    x = x.reshape(-1, place.outside).T
  else:
    x = x.reshape(-1)
  return np.ascontiguousarray(x)


def to_ours(x: np.ndarray, name: str, place: Place, shape: tuple):
  inside, outside = shape[: place.inner], shape[place.inner :]
  if name == 'a':
    return x.T.reshape(*inside, -1)
  if name == 'b':
    return x.T.reshape(-1, *outside)
  return x.reshape(outside)


def is_copy(key: str, config: ModelConfig) -> bool:
  """Whether a tensor is a table itself, which PEFT writes beside its adapter.

  Whether it is that of the base is looked at where that is known
  (`check_copies`).
  """
  return _copied(key, config) is not None


def _copied(key: str, config: ModelConfig) -> str | None:
  """The path of the parameter that a tensor is a copy of."""
  match = _COPY.fullmatch(key)
  found = match[1] if match else ''
  if found == output_of(config):
    return TABLE if config.tie_embeddings else UNEMBED
  tables = (m for m, place in places_of(config) if place.path == TABLE)
  return TABLE if found in tables else None


def tied_names(
  file: Path,
  content: Mapping[str, Any],
  config: ModelConfig,
  found: Mapping[str, np.ndarray],
) -> set[str]:
  """Tensors of an output matrix that say once more what those of its table do.

  Raises:
    ValueError: they say something else, or nothing says that they are one.
  """
  output = output_of(config)
  names = {part: f'{PREFIX}{output}.{PARTS[part]}' for part in ('a', 'b')}
  ends = [key for key in found if key.endswith(tuple(LOOKED_UP.values())[:2])]
  there = [name for name in names.values() if name in found]
  if not config.tie_embeddings or not (ends or there):
    return set()
  if not content.get('ensure_weight_tying'):
    raise ValueError(
      f'{file}: "{(ends or there)[0]}" is of one side of a table that is read '
      'at both ends of this model: ensure_weight_tying is not set, and what '
      'the two are would be two tables; merge it with PEFT into an untied model'
    )
  for part, other in (('a', 'b'), ('b', 'a')):
    key = next((x for x in ends if x.endswith(LOOKED_UP[other])), '')
    same = names[part] not in found or (
      key and np.array_equal(found[names[part]], found[key].T)
    )
    if not same:
      raise ValueError(
        f'{file}: "{names[part]}" is not the transpose of "{key}", and '
        'ensure_weight_tying says that they are one'
      )
  return set(there)


def check_copies(
  file: Path,
  config: ModelConfig,
  params: PyTree,
  found: Mapping[str, np.ndarray],
) -> None:
  """Raises ValueError where a file has a table that is not the base's."""
  for key, x in found.items():
    path = _copied(key, config)
    if path is None:
      continue
    base = params['unembed'].T if path == UNEMBED else params['embed']['tokens']
    wide = lambda x: np.asarray(x).astype(np.float32)
    if x.shape != base.shape or not np.array_equal(
      wide(x), wide(hosts.whole(base))
    ):
      raise ValueError(
        f'{file}: "{key}" is not what the base has there: it was trained, or '
        'has other tokens; merge the adapter with PEFT first'
      )


def tensors_of(file: Path) -> dict[str, np.ndarray]:
  """{name: tensor} of a file of safetensors.

  Raises:
    FileNotFoundError, ValueError: there is none, or it is none.
  """
  if not file.is_file():
    told = hf.pickled(file.parent)
    raise FileNotFoundError(f'{file}: no such file{told and f". {told}"}')
  with contextlib.ExitStack() as stack:
    try:
      handle = stack.enter_context(
        safetensors.safe_open(file, framework='numpy')
      )
      names = list(handle.keys())
      return {name: handle.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
      told = lfs.pointer(file) or f'no safetensors file: {error}'
      raise ValueError(f'{file}: {told}') from error
