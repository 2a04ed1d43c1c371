"""Parameter trees by path: names, regex masks, maps, norms."""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree


def path_name(path: Sequence) -> str:
  """'layers/attention/query' for a JAX key path."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator='/')


def names(tree: PyTree) -> list[str]:
  """Path name of every leaf, in tree order."""
  return [
    path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]


def map_by_path(function: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
  """`function(path_name, leaf, *rest_leaves)` on every leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
  )


def regex_mask(tree: PyTree, patterns: Sequence[str]) -> PyTree:
  """True on leaves whose path fully matches one of `patterns`.

  Raises:
    ValueError: a pattern is no regex, or matches no leaf (a list that does
      nothing is a mistake).
  """
  paths = names(tree)
  compiled = []
  for pattern in patterns:
    try:
      regex = re.compile(pattern)
    except re.error as error:
      raise ValueError(f'bad regex "{pattern}": {error}') from error
    if not any(regex.fullmatch(path) for path in paths):
      raise ValueError(
        f'pattern "{pattern}" matches no parameter. Parameters: '
        + ', '.join(paths)
      )
    compiled.append(regex)
  return map_by_path(
    lambda name, _: any(regex.fullmatch(name) for regex in compiled), tree
  )


def merged(first: dict, second: dict) -> dict:
  """Nested dicts as one; where both have a leaf, the second's."""
  out = dict(first)
  for key, item in second.items():
    both = isinstance(item, dict) and isinstance(out.get(key), dict)
    out[key] = merged(out[key], item) if both else item
  return out


def count(tree: PyTree) -> int:
  """Number of elements in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def global_norm(tree: PyTree) -> Array:
  """L2 norm over all leaves, accumulated in float32."""
  squares = [
    jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares))


def distance(tree: PyTree, other: PyTree) -> Array:
  """L2 distance between two trees of one structure."""
  return global_norm(jax.tree.map(jnp.subtract, tree, other))
