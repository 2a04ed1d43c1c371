"""What a train step has to send between devices: the formula.

A step that sends much more than this does something that its layout does not
ask for; `tests/test_sharding_compiled.py` holds compiled programs to it.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from posttrain_jax.core import sharding
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig

__all__ = ['Traffic', 'of_decoding', 'of_scoring', 'of_update']


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes that a device sends, by kind of collective, on rings.

  gather   of weights, 'all-gather'
  scatter  of their gradients, 'reduce-scatter'
  reduce   of activations over tensor, of gradients over data, 'all-reduce'
  swap     of embedded tokens between columns and rows, 'all-to-all'
  """

  gather: float = 0.0
  scatter: float = 0.0
  reduce: float = 0.0
  swap: float = 0.0

  def __add__(self, other: 'Traffic') -> 'Traffic':
    pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
    return Traffic(*(a + b for a, b in pairs))

  def __mul__(self, times: float) -> 'Traffic':
    return Traffic(*(times * x for x in dataclasses.astuple(self)))

  @property
  def total(self) -> float:
    """Of all kinds."""
    return sum(dataclasses.astuple(self))


class _Mesh:
  """A mesh's axes, and what one model's arrays weigh on it, in bytes."""

  def __init__(self, model: ModelConfig, sizes: Mapping[str, int]):
    self.sizes = {axis: sizes.get(axis, 1) for axis in sharding.AXES}
    self.width = jnp.dtype(model.dtype).itemsize
    self._stored = jnp.dtype(model.param_dtype).itemsize
    self.layers = self.embedding = self.unembedding = 0.0
    for path, param in transformer.param_table(model).items():
      count = self._gathered(param)
      if path.startswith('layers/'):
        self.layers += count
      elif path == 'embed/tokens':
        self.embedding = count
      elif path == 'unembed':
        self.unembedding = count

  @property
  def travels(self) -> int:
    """Bytes of a number of a weight on its way."""
    return min(self.width, self._stored)

  def _gathered(self, param: transformer.Param) -> float:
    """Numbers of a weight on a device while it is whole there; 0 where it is
    not gathered."""
    spec = sharding.fit(param.spec, param.shape, self)
    count, split = float(math.prod(param.shape)), False
    for axes in spec:
      names = sharding.names_of(axes)
      split |= 'fsdp' in names
      if 'fsdp' not in names:
        count /= math.prod(self.sizes[name] for name in names)
    return count if split else 0.0

  @property
  def shape(self) -> Mapping[str, int]:
    return self.sizes

  def over(self, *names: str) -> float:
    """(n - 1) / n of the devices along axes."""
    parts = math.prod(self.sizes[name] for name in names)
    return 1.0 - 1.0 / parts


def _activations(mesh: _Mesh, model: ModelConfig, rows: int, tokens: int):
  """(bytes of a residual stream on a device, what an all-reduce of it over
  tensor sends)."""
  parts = sharding.row_parts(mesh.sizes) * mesh.sizes['sequence']
  stream = rows * tokens * model.width * mesh.width / parts
  return stream, 2.0 * mesh.over('tensor') * stream


def _keys(mesh: _Mesh, model: ModelConfig, keys: int) -> float:
  """Bytes that a device sends where keys and values of all layers are gathered
  over sequence, for queries that lie on its devices."""
  heads, tensor = model.num_kv_heads, mesh.sizes['tensor']
  heads = heads // tensor if heads % tensor == 0 else heads
  parts = sharding.row_parts(mesh.sizes)
  size = 2.0 * keys * heads * model.head_dim * mesh.width / parts
  return model.num_layers * mesh.over('sequence') * size


def _swapped(mesh: _Mesh, stream: float) -> float:
  """Bytes of a residual stream from columns of all rows to rows, or back: over
  the devices that have rows, then over those that have positions."""
  return (mesh.over('fsdp', 'expert') + mesh.over('sequence')) * stream


def of_scoring(
  model: ModelConfig,
  sizes: Mapping[str, int],
  rows: int,
  tokens: int,
  keys: int | None = None,
) -> Traffic:
  """Of reading rows once: every weight is gathered, over tensor the sum of the
  heads and that of the MLP's columns is made, over sequence keys and values are
  gathered, in every layer.

  sizes   of a mesh, {axis: size}
  tokens  of a row, padding among them
  keys    columns that queries see, of all rows; rows * tokens, unless rows that
          share a prompt see copies of it
  """
  mesh = _Mesh(model, sizes)
  stream, summed = _activations(mesh, model, rows, tokens)
  last = mesh.unembedding or mesh.embedding
  weights = mesh.over(*sharding.SHARDS) * (mesh.layers + last) * mesh.travels
  return Traffic(
    gather=weights + _keys(mesh, model, keys or rows * tokens),
    reduce=(2 * model.num_layers + 1) * summed,
    swap=_swapped(mesh, stream),
  )


def of_decoding(
  model: ModelConfig,
  sizes: Mapping[str, int],
  rows: int,
  tokens: int,
  split: bool,
) -> Traffic:
  """Of drawing tokens of rows, one after another, prompts read before.

  Weights are moved once: gathered over all but tensor, or split over all
  devices of a `data` part (`rollout.layout`). Then each token adds up, over
  what splits the weights, its embedding and two sums a layer of the rows that
  meet them there. Heads that are fewer than devices send more.

  tokens  of each row
  """
  mesh = _Mesh(model, sizes)
  last = mesh.unembedding or mesh.embedding
  weights = (mesh.layers + last) * mesh.travels
  parts, names = sharding.row_parts(mesh.sizes) * mesh.sizes['sequence'], []
  moved = Traffic(gather=mesh.over(*sharding.SHARDS) * weights)
  if split:
    names = [axis for axis in ('fsdp', 'sequence') if mesh.sizes[axis] > 1]
    count = math.prod(mesh.sizes[axis] for axis in names)
    parts //= count
    moved = Traffic(swap=mesh.over(*names) * weights / count)
  stream = rows * model.width * mesh.width / parts
  summed = 2.0 * mesh.over('tensor', *names) * stream
  return moved + Traffic(reduce=tokens * (2 * model.num_layers + 1) * summed)


def of_update(
  model: ModelConfig,
  sizes: Mapping[str, int],
  rows: int,
  tokens: int,
  passes: int = 1,
  keys: int | None = None,
) -> Traffic:
  """Of the gradient of rows, all parameters trained.

  Forward as `of_scoring`. Backward: the layers' weights and keys once more;
  gradients to their shards, those of keys too, and over data; over tensor what
  reaches the input of the heads, of the MLP and of the unembedding, and the sum
  of the heads anew where `remat` does not keep what is made of it.

  passes  micro-batches, each of which gathers and scatters
  """
  mesh = _Mesh(model, sizes)
  stream, summed = _activations(mesh, model, rows, tokens)
  over = mesh.over(*sharding.SHARDS)
  trained = mesh.layers + mesh.unembedding + mesh.embedding
  again = 3 if model.remat in ('full', 'save_attention') else 2
  # What is looked up is scattered where it is stored.
  sent = mesh.layers + (mesh.unembedding or mesh.embedding)
  shards = math.prod(mesh.sizes[axis] for axis in sharding.SHARDS)
  copies = 2 * mesh.over('data') * trained / shards
  seen = _keys(mesh, model, keys or rows * tokens)
  back = Traffic(
    gather=over * mesh.layers * mesh.travels * passes + seen,
    scatter=over * sent * mesh.travels * passes + seen,
    reduce=(again * model.num_layers + 1) * summed
    + copies * mesh.travels * passes,
    swap=_swapped(mesh, stream),
  )
  forward = of_scoring(model, sizes, rows, tokens, keys)
  # Rows are read once, weights by every micro-batch.
  weights = (passes - 1) * (forward.gather - seen)
  return back + forward + Traffic(gather=weights)
