"""Where the arrays of a rollout lie on a mesh.

Weights are moved once, before the first token: a decode loop that found them
split over fsdp would gather them at every token. Rows are split as those of a
batch are, prompts and the keys and values of each beside its completions;
heads and the vocabulary over tensor. On one device nothing here does anything.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import adapted, parameters, placed, transformer
from posttrain_jax.models.cache import Cache, by_rows
from posttrain_jax.models.config import ModelConfig

__all__ = [
  'GATHERED_BYTES', 'Rows', 'cache', 'decode_weights', 'decoding',
  'gathered_bytes', 'held_bytes', 'rows', 'rows_of', 'weights',
]  # fmt: skip

# Of weights that a device has beside its share while decoding, at most: a
# quarter of the memory of the smallest TPU in use (v5e, 16 GiB).
GATHERED_BYTES = 4 * 1024**3


class Rows(NamedTuple):
  """B prompts of G completions as rows that a mesh can split.

  A mesh of n parts has B' prompts of G' completions, n a divisor of B': prompts
  are repeated where there are too few of them, with a part of their group each,
  and the last is once more at the end where rows do not divide. A completion is
  what it is wherever it stands.

  prompts  [B'] which of the B prompts
  rows     [B' * G'] which of the B * G completions
  group    G'
  """

  prompts: np.ndarray
  rows: np.ndarray
  group: int

  @property
  def moved(self) -> bool:
    """Whether anything is repeated."""
    return not np.array_equal(self.rows, np.arange(len(self.rows))) or (
      len(set(self.prompts.tolist())) < len(self.prompts)
    )

  def of_prompts(self, tree: PyTree) -> PyTree:
    """Arrays [B, ...] as [B', ...]."""
    return self._taken(tree, self.prompts)

  def of_rows(self, tree: PyTree) -> PyTree:
    """Arrays [B * G, ...] as [B' * G', ...]."""
    return self._taken(tree, self.rows)

  def _taken(self, tree: PyTree, index: np.ndarray) -> PyTree:
    if not self.moved:
      return tree
    return rows(jax.tree.map(lambda x: x[index], tree))


def decode_weights(config: ModelConfig, sizes: Mapping[str, int]) -> str:
  """'gathered' or 'split': `config.decode_weights` on a mesh of {axis: size}.

  'auto' gathers where a device then has no more than GATHERED_BYTES: the loop
  sends least, as rows stay where they are. 'split' has less on each device, and
  all rows of a `data` part visit all of its devices in every layer.
  """
  if config.decode_weights != 'auto':
    return config.decode_weights
  small = gathered_bytes(config, sizes) <= GATHERED_BYTES
  return 'gathered' if small else 'split'


def gathered_bytes(config: ModelConfig, sizes: Mapping[str, int]) -> int:
  """Bytes of the weights that a device of a mesh {axis: size} has while
  decoding, where they are gathered over fsdp."""
  total = 0
  for param in transformer.param_table(config).values():
    parts = [
      sizes.get(axis, 1)
      for axes, count in zip(param.spec, param.shape)
      for axis in ('tensor', 'expert')
      if axes == axis and count % sizes.get(axis, 1) == 0
    ]
    total += math.prod(param.shape) // math.prod(parts)
  return total * jnp.dtype(config.dtype).itemsize


def held_bytes(config: ModelConfig) -> int:
  """Bytes of the weights that a device of the mesh here has while decoding, as
  `weights` places them."""
  total = 0
  with sharding.laid_out(**_axes(config)), sharding.at_hand():
    for path, param in transformer.param_table(config).items():
      name = 'weights' if path.startswith('layers/') else 'vocab'
      with sharding.laid_out(weights=sharding.over(name)):
        spec = sharding.lies(param.spec, param.shape)
      parts = sharding.size(*(a for x in spec for a in sharding.names_of(x)))
      wide = config.dtype if param.std else config.param_dtype
      total += math.prod(param.shape) // parts * jnp.dtype(wide).itemsize
  return total


def _axes(config: ModelConfig) -> dict[str, tuple[str, ...]]:
  """What dimensions are split over while decoding, by their names."""
  sizes = {axis: sharding.size(axis) for axis in sharding.AXES}
  narrow = ('tensor',)
  if decode_weights(config, sizes) == 'gathered':
    # A token has one position: axis sequence has rows, too.
    every = ('data', 'fsdp', 'expert', 'sequence')
    made = {'length': (), 'rows': every, 'cache_rows': every}
    if config.num_kv_heads % sharding.size('tensor'):
      # Too few heads: each device has all of them, for some of the rows.
      made |= {'cache_rows': (*every, 'tensor'), 'cache_heads': ()}
    return made
  few, wide = ('data', 'expert'), ('tensor', 'fsdp', 'sequence')
  over = lambda *counts: (
    wide if all(n % sharding.size(*wide) == 0 for n in counts) else narrow
  )
  heads = over(config.num_kv_heads)
  columns = [config.mlp_dim] * bool(parameters.holders('up', config))
  columns += [config.expert_dim] * (config.num_experts > 0)
  return {
    'length': (),
    'rows': few,
    'heads': heads,
    'mlp': over(*columns),
    'vocab': over(config.vocab_size),
    'weights': wide,
    'cache_heads': heads,
    # Too few heads for all devices here, too.
    'cache_rows': few if heads == wide else (*few, 'fsdp', 'sequence'),
  }


@contextlib.contextmanager
def decoding(config: ModelConfig) -> Iterator[None]:
  """Inside, a token of each row is computed with what `weights` made."""
  if not sharding.split():
    yield
    return
  with sharding.laid_out(**_axes(config)), sharding.at_hand():
    yield


def rows_of(prompts: int, group: int, config: ModelConfig) -> Rows:
  """`Rows` of B prompts and G completions each on the mesh here."""
  with decoding(config):
    parts = sharding.size(*sharding.over('cache_rows'))
  # As many prompts as make the rows divide.
  step = parts // math.gcd(parts, group)
  count = -(-prompts // step) * step
  times = parts // math.gcd(parts, count)
  number = np.minimum(np.arange(count), prompts - 1)
  rows = number[:, None] * group + np.arange(group)[None]
  return Rows(np.repeat(number, times), rows.ravel(), group // times)


def rows(tree: PyTree) -> PyTree:
  """Arrays split by rows, where there is a mesh of several devices."""
  return sharding.rows(tree) if sharding.split() else tree


def cache(numbers: Cache) -> Cache:
  """A cache split by rows and heads."""
  if not sharding.split():
    return numbers

  def place(x: Array, axis: int) -> Array:
    heads = ('cache_heads',) if x.ndim > 2 else ()
    return sharding.constrain(x, *(None,) * axis, 'cache_rows', *heads)

  return by_rows(place, numbers)


def weights(params: PyTree, config: ModelConfig) -> tuple[PyTree, PyTree]:
  """Parameters as prompts are read with, and as a decode loop reads them.

  Prompts are read as a training step reads its rows: layer after layer.
  Layers are apart, or stacked where `config.scan_decode` loops over them; norms
  that adapters need are computed. On a mesh matrices are converted to the dtype
  that they multiply in, and then moved to where they are used: `_axes`.

  Raises:
    ValueError: `scan_decode` of layers that are apart already.
  """
  stored, layers = params, params['layers']
  if not config.scan_decode:
    params = transformer.unstack(params, config)
  elif isinstance(layers, tuple):
    raise ValueError('scan_decode=True: the layers are not stacked')
  else:
    params = adapted.settled(params)
  if not sharding.split():
    return params, params
  with sharding.laid_out(**_axes(config)):
    return stored, _moved(params, config)


def _moved(params: PyTree, config: ModelConfig) -> PyTree:
  table, layers = transformer.param_table(config), params['layers']
  own = lambda layer: _converted(
    parameters.gathered(_experts(layer, table, config), config), table, config
  )
  if isinstance(layers, tuple):
    moved: PyTree = tuple(own(layer) for layer in layers)
  else:  # each stack by itself: they may have different layers
    moved = {
      name: jax.vmap(lambda w, name=name: own({name: w})[name])(stack)
      for name, stack in layers.items()
    }
  # A vocabulary that not all devices can split is split by tensor alone: sums
  # of logits would travel.
  with sharding.laid_out(weights=sharding.over('vocab')):
    made = {
      name: _over_paths(part, name, functools.partial(_whole, table, config))
      for name, part in params.items()
      if name != 'layers'
    }
  return {**made, 'layers': moved}


def _experts(layer: dict, table: dict, config: ModelConfig) -> dict:
  """A layer with its experts gathered, which training does in `experts.mlp`."""
  made = dict(layer)
  for name, weight in layer.items():
    if name.startswith('expert_'):
      spec = P(*tuple(table[f'layers/{name}'].spec)[1:])
      made[name] = placed.gathered(weight, spec, config.dtype)
  return made


def _over_paths(tree: PyTree, path: str, function: Callable) -> PyTree:
  """`function(path, leaf)` in nested dicts."""
  if not isinstance(tree, dict):
    return function(path, tree)
  return {
    name: _over_paths(part, f'{path}/{name}', function)
    for name, part in tree.items()
  }


def _whole(table: dict, config: ModelConfig, path: str, leaf: Array) -> Array:
  """A parameter that is no layer's."""
  param = table.get(path)
  if param is None:
    return leaf
  dtype = config.dtype if param.std else None
  if isinstance(leaf, adapted.Adapted):
    return placed.gathered(leaf, param.spec, dtype)
  leaf = sharding.gathered(leaf, param.spec, dtype)
  return leaf if dtype is None else leaf.astype(dtype)


def _converted(layer: dict, table: dict, config: ModelConfig) -> dict:
  """A layer whose matrices are in the dtype of their products, those too that
  were whole before. Norms and biases are used in the dtype that they have."""
  made = dict(layer)
  for name, weight in layer.items():
    param = table.get(f'layers/{name}')
    if param is not None and param.std and isinstance(weight, jax.Array):
      made[name] = weight.astype(config.dtype)
  return made
