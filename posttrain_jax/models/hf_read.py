"""Tensors of safetensors files, of which parts are read.

A process reads the numbers that its devices hold. What lies together in a file
is one read; a part of a matrix's columns is as many stretches as rows, and the
disk gives whole pages of it.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import safetensors

from posttrain_jax.models import hf_pieces
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_pieces import Piece, Range

__all__ = ['Source', 'Tensor', 'Weights']

STORED_DTYPES = ('BF16', 'F16', 'F32', 'F64')
# What is read of a file before it is opened anew: what is read through a
# mapping of it counts as the process's memory for as long as the mapping lasts.
OPEN_BYTES = 1 << 26
ROWS = 4096  # of two matrices that are compared at a time


class Tensor(NamedTuple):
  """A tensor of a file: the file, the key there."""

  file: Path
  key: str


class Source(NamedTuple):
  """One tensor that a parameter comes from.

  key      of the tensor, as the table has it
  piece    the parameter's share of it
  made_of  all that share it
  """

  key: str
  piece: Piece
  made_of: list[Piece]


def _finite(x: np.ndarray) -> bool:
  if x.dtype.itemsize == 2 and x.dtype != np.float16:
    # bfloat16, by its exponent: numpy itself has no fast way.
    return not np.any((x.view(np.uint16) & 0x7F80) == 0x7F80)
  return bool(np.isfinite(x).all())


class Weights:
  """The tensors of a folder; a context manager that closes its files.

  found  {key as the table has it: tensor}
  """

  def __init__(self, found: Mapping[str, Tensor], config: ModelConfig):
    self._found, self._config = found, config
    self._stack = contextlib.ExitStack()
    self._file: Path | None = None
    self._handle: Any = None
    self._taken = 0

  def __enter__(self) -> 'Weights':
    return self

  def __exit__(self, *exception) -> None:
    self._close()

  def _close(self) -> None:
    self._stack.close()
    self._file, self._handle, self._taken = None, None, 0

  def _opened(self, file: Path) -> Any:
    if file != self._file or self._taken > OPEN_BYTES:
      self._close()
      self._handle = self._stack.enter_context(
        safetensors.safe_open(file, framework='numpy')
      )
      self._file = file
    return self._handle

  def look(self, key: str, shape: Sequence[int]) -> Any:
    """A tensor of a file, of which nothing is read yet.

    Raises:
      ValueError: it has another shape or an unknown dtype; file and tensor are
        named.
    """
    file, theirs = self._found[key]
    stored = self._opened(file).get_slice(theirs)
    if tuple(stored.get_shape()) != tuple(shape):
      raise ValueError(
        f'{file}: tensor "{theirs}" has shape {list(stored.get_shape())}, but '
        f'config.json makes it {list(shape)}'
      )
    if stored.get_dtype() not in STORED_DTYPES:
      raise ValueError(
        f'{file}: tensor "{theirs}" is stored as {stored.get_dtype()}. '
        'Supported: ' + ', '.join(STORED_DTYPES)
      )
    return stored

  def box(
    self, key: str, shape: Sequence[int], spans: Sequence[Sequence[Range]]
  ) -> np.ndarray:
    """Some numbers of a tensor, as they are stored.

    shape  that the whole tensor has to have
    spans  ranges along each axis, as `hf_pieces.spans` gives them

    Raises:
      ValueError: as `look`; or it is not finite here.
    """
    file, theirs = self._found[key]
    out = _product(self.look(key, shape), spans)
    # A part of the columns lies on as many pages as all of them.
    self._taken += out.nbytes // out.shape[-1] * shape[-1]
    if not _finite(out):
      raise ValueError(f'{file}: tensor "{theirs}" has NaN or infinite numbers')
    return out

  def whole(self, key: str, shape: Sequence[int]) -> np.ndarray:
    """All of a tensor; raises as `box` does."""
    return self.box(key, shape, [[(0, size)] for size in shape])

  def same(self, key: str, twin: str, shape: Sequence[int]) -> None:
    """Raises as `box`, and where a tied matrix and its copy differ.

    key, twin  two tensors, as the table has them, which are read in parts
    shape      that both have to have
    """
    for start in range(0, shape[0], ROWS):
      stop = min(start + ROWS, shape[0])
      spans = [[(start, stop)], *([(0, size)] for size in shape[1:])]
      if not np.array_equal(
        self.box(key, shape, spans), self.box(twin, shape, spans)
      ):
        raise ValueError(self._differs(key, twin))

  def _differs(self, key: str, twin: str) -> str:
    return (
      f'{self._found[twin].file}: tensor "{twin}" differs from "{key}", but '
      'config.json has tie_word_embeddings=true'
    )

  def part(
    self, sources: Sequence[Source], ranges: Sequence[Range], twin: str = ''
  ) -> np.ndarray:
    """A part of one parameter, from the tensors that it comes from.

    ranges  of the part, one for each of the parameter's axes; tensors of other
            layers and experts are not touched
    twin    key of a tensor that has to be the same, number by number

    Raises:
      ValueError: as `box` does; the twin is another.
    """
    config = self._config
    sizes = [stop - start for start, stop in ranges]
    out = np.empty(sizes, jnp.dtype(config.param_dtype))
    for key, piece, made_of in sources:
      lead = len(piece.place)
      at = tuple(i - start for i, (start, _) in zip(piece.place, ranges))
      if not all(0 <= i < size for i, size in zip(at, sizes)):
        continue
      shape = hf_pieces.file_shape(made_of, config)
      spans = hf_pieces.spans(piece, made_of, config, ranges[lead:])
      stored = self.box(key, shape, spans)
      if twin and not np.array_equal(stored, self.box(twin, shape, spans)):
        raise ValueError(self._differs(key, twin))
      out[at] = piece.row.to_ours(stored, sizes[lead:])
    return out


def _product(stored: Any, spans: Sequence[Sequence[Range]]) -> np.ndarray:
  """What lies in some range of every axis, put side by side."""
  cut = lambda ranges: tuple(slice(start, stop) for start, stop in ranges)
  if all(len(ranges) == 1 for ranges in spans):
    return stored[cut([ranges[0] for ranges in spans])]
  ends = [
    list(itertools.accumulate(stop - start for start, stop in ranges))
    for ranges in spans
  ]
  out = None
  for numbers in itertools.product(*(range(len(x)) for x in spans)):
    chosen = [x[i] for x, i in zip(spans, numbers)]
    block = stored[cut(chosen)]
    if out is None:
      out = np.empty([x[-1] for x in ends], block.dtype)
    upto = [x[i] for x, i in zip(ends, numbers)]
    places = [(end - size, end) for end, size in zip(upto, block.shape)]
    out[cut(places)] = block
  assert out is not None  # No axis of a parameter is empty.
  return out
