"""Tensors of Hugging Face files, cut into our parameters and put together."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from posttrain_jax.models.architectures import architecture_of
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_table import (
  IGNORED,
  TABLE,
  Row,
  layout_of,
  rows,
  sizes_of,
)

__all__ = [
  'Piece',
  'Range',
  'embedding',
  'file_shape',
  'head',
  'join',
  'pieces',
  'renamed',
  'spans',
]

T = TypeVar('T')
Range = tuple[int, int]  # from, up to
# What stands before the names of a model without its head.
PREFIXES = {
  'llama': 'model.', 'phi3': 'model.', 'gpt2': 'transformer.',
  'neox': 'gpt_neox.',
}  # fmt: skip
# The parts of Gemma3ForConditionalGeneration that see images.
NO_TEXT = re.compile(r'(model\.)?(vision_tower|multi_modal_projector)\..*')


class Piece(NamedTuple):
  """One parameter's share of one tensor in a file.

  place  of it in our parameter: (), (layer,) or (layer, expert)
  """

  row: Row
  place: tuple[int, ...]


def pieces(config: ModelConfig) -> dict[str, list[Piece]]:
  """{key in the file: what it is made of}, layer by layer."""
  table = rows(config)
  found: dict[str, list[Piece]] = {}
  for row in table:
    if not row.stacked:
      found[row.key] = [Piece(row, ())]
  for layer in range(config.num_layers):
    for row in table:
      if not row.stacked or layer not in row.layers(config):
        continue
      place = row.layers(config).index(layer)
      for key, index in _keys(row, layer, place, config):
        found.setdefault(key, []).append(Piece(row, index))
  return found


def _keys(
  row: Row, layer: int, place: int, config: ModelConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
  if not row.of_experts:
    yield row.key.format(layer), (place,)
    return
  for expert in range(config.num_experts):
    yield row.key.format(layer, expert=expert), (place, expert)


def _parts(
  made_of: list[Piece], config: ModelConfig
) -> tuple[tuple[int, ...], int, list[int]]:
  """(shape with lead and rest of the fused axis apart, axis, parts' sizes)."""
  words = made_of[0].row.axes.split()
  axis = next((i for i, word in enumerate(words) if '+' in word), None)
  if axis is None:
    return tuple(math.prod(sizes_of(w, config)) for w in words), -1, []
  sizes = [
    math.prod(sizes_of(piece.row.axes.split()[axis].split('+')[1], config))
    for piece in made_of
  ]
  shape: list[int] = []
  for word in words:
    lead, plus, _ = word.partition('+')
    shape.append(math.prod(sizes_of(lead, config)))
    if plus:
      shape.append(sum(sizes))
  return tuple(shape), axis + 1, sizes


def file_shape(made_of: list[Piece], config: ModelConfig) -> tuple[int, ...]:
  """The shape of a tensor in the file."""
  shape, axis, _ = _parts(made_of, config)
  if axis < 0:
    return shape
  whole = shape[axis - 1] * shape[axis]
  return (*shape[: axis - 1], whole, *shape[axis + 1 :])


def _box(ranges: Sequence[Range], sizes: Sequence[int]) -> list[Range]:
  """The flat numbers of a box of an array, row by row, as few ranges."""
  found = [(0, 1)]
  for (start, stop), size in zip(ranges, sizes):
    if (start, stop) == (0, size):
      found = [(a * size, b * size) for a, b in found]
    else:
      rows = [i * size for a, b in found for i in range(a, b)]
      found = [(row + start, row + stop) for row in rows]
  return found


def spans(
  piece: Piece,
  made_of: list[Piece],
  config: ModelConfig,
  ranges: Sequence[Range],
) -> list[list[Range]]:
  """Where a box of one of our arrays lies in its tensor of the file.

  ranges  of the box, one for each of the row's axes

  Returns ranges along each axis of the tensor, ascending: the box is what lies
  in some range of every axis. A matrix is one range by one; the queries of
  GPT-NeoX are as many as heads, as keys and values stand between them.
  """
  row, (_, _, sizes) = piece.row, _parts(made_of, config)
  ours = dict(zip(row.ours, ranges))
  within = lambda letters: _box(
    [ours[x] for x in letters], sizes_of(letters, config)
  )
  found = []
  for word in row.axes.split():
    lead, plus, part = word.partition('+')
    if not plus:
      found.append(within(word))
      continue
    rows = [i * sum(sizes) for a, b in within(lead) for i in range(a, b)]
    before = sum(sizes[: made_of.index(piece)])
    inside = [(before + start, before + stop) for start, stop in within(part)]
    found.append([(row + a, row + b) for row in rows for a, b in inside])
  return found


def join(
  parts: list[np.ndarray], made_of: list[Piece], config: ModelConfig
) -> np.ndarray:
  """The file's tensor of our arrays, one for each piece."""
  shape, axis, sizes = _parts(made_of, config)
  theirs = [p.row.to_file(x) for p, x in zip(made_of, parts)]
  if axis < 0:
    return np.ascontiguousarray(theirs[0].reshape(shape))
  apart = [
    x.reshape(*shape[:axis], size, *shape[axis + 1 :])
    for x, size in zip(theirs, sizes)
  ]
  whole = np.concatenate(apart, axis).reshape(file_shape(made_of, config))
  return np.ascontiguousarray(whole)


def embedding(config: ModelConfig) -> str:
  """The key of the embedding."""
  return next(r.key for r in rows(config) if r.path == 'embed/tokens')


def head(config: ModelConfig) -> str:
  """The key of the output matrix, where it is not the embedding."""
  layout = layout_of(config)
  return next(
    r.key for r in TABLE if r.path == 'unembed' and layout in r.layouts.split()
  )


def renamed(
  found: Mapping[str, T], expected: Collection[str], config: ModelConfig
) -> dict[str, T]:
  """Tensors of files by the names that the table has for them.

  Older and newer tools write some names otherwise: without the model's prefix
  (GPT-2), or with the output matrix of GPT-NeoX under the usual name. Of Gemma
  3's models of text and images, the text part. Buffers are left out.
  """
  prefix = PREFIXES[layout_of(config)]
  text = architecture_of(config) == 'Gemma3ForCausalLM'
  out = {}
  for key, value in found.items():
    name = key
    if text:
      if NO_TEXT.fullmatch(key):
        continue
      name = re.sub(
        r'^(model\.language_model|language_model\.model)\.', 'model.', name
      )
      name = name.removeprefix('language_model.')
    if name == 'lm_head.weight':
      name = head(config)
    longer = prefix + name
    if any(IGNORED.fullmatch(x) for x in (name, longer)):
      continue
    if name not in expected and longer in expected:
      name = longer
    out[name] = value
  return out
