"""Dropout of adapters: which inputs a pass of an update does not see."""

import zlib
from typing import Any

import jax

from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.models import adapted

__all__ = ['dropped', 'drops']


def drops(params: PyTree) -> bool:
  """Whether a tree has adapters with dropout."""
  is_adapted = lambda x: isinstance(x, adapted.Adapted)
  leaves = jax.tree.leaves(params, is_leaf=is_adapted)
  return any(is_adapted(x) and x.dropout > 0 for x in leaves)


def dropped(params: PyTree, key: Array) -> PyTree:
  """The tree for one pass of an update: every layer drops inputs of its own."""

  def one(path: Any, node: Any) -> Any:
    if not isinstance(node, adapted.Adapted) or not node.dropout:
      return node
    name = jax.tree_util.keystr(path).encode()
    own = jax.random.split(
      jax.random.fold_in(key, zlib.crc32(name)), node.scale.shape
    )
    return node.replace(keep=jax.random.key_data(own))

  is_adapted = lambda x: isinstance(x, adapted.Adapted)
  return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_adapted)
