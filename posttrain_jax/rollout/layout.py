"""Where the arrays of a rollout lie on a mesh.

Weights are moved once, before the first token: a decode loop that found them
split over fsdp would gather them at every token. Rows are split as those of a
batch are, prompts and the keys and values of each beside its completions;
heads and the vocabulary over tensor. On one device nothing here does anything.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import adapted, parameters, transformer
from posttrain_jax.models.cache import Cache, by_rows
from posttrain_jax.models.config import ModelConfig

__all__ = ['Rows', 'cache', 'rows', 'rows_of', 'weights']


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


def rows_of(prompts: int, group: int) -> Rows:
  """`Rows` of B prompts and G completions each on the mesh here."""
  parts = sharding.size(*sharding.LOGICAL['rows'])
  # As many prompts as make the rows divide.
  step = parts // np.gcd(parts, group)
  count = -(-prompts // step) * step
  times = parts // int(np.gcd(parts, count))
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
    heads = ('heads',) if x.ndim > 2 else ()
    return sharding.constrain(x, *(None,) * axis, 'rows', *heads)

  return by_rows(place, numbers)


def weights(params: PyTree, config: ModelConfig) -> tuple[PyTree, PyTree]:
  """Parameters as prompts are read with, and as a decode loop reads them.

  Prompts are read as a training step reads its rows: layer after layer.
  Layers are apart, or stacked where `config.scan_decode` loops over them; norms
  that adapters need are computed. On a mesh matrices are converted to the dtype
  that they multiply in, and then whole but for axes tensor and expert.

  Raises:
    ValueError: `scan_decode` of layers that are apart already.
  """
  stored, layers = params, params['layers']
  if not config.scan_decode:
    params = transformer.unstack(params, config)
  elif isinstance(layers, tuple):
    raise ValueError('scan_decode=True: the layers are not stacked')
  else:
    params = {**params, 'layers': adapted.settled(layers)}
  if not sharding.split():
    return params, params
  table, layers = transformer.param_table(config), params['layers']
  made = {
    name: _over_paths(part, name, functools.partial(_whole, table, config))
    for name, part in params.items()
    if name != 'layers'
  }
  own = lambda layer: _converted(
    parameters.gathered(layer, config), table, config
  )
  if isinstance(layers, tuple):
    made['layers'] = tuple(own(layer) for layer in layers)
  else:  # each stack by itself: they may have different layers
    made['layers'] = {
      name: jax.vmap(lambda w, name=name: own({name: w})[name])(stack)
      for name, stack in layers.items()
    }
  return stored, made


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
