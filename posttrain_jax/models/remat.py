"""What a layer keeps for its backward pass, by name; the rest is made again.

Of a layer of width D, F columns in its MLP and attention over T tokens, kept
for each token besides what the layer reads (D numbers):

  none              everything, T scores of each head too
  dots              the results of all matrix products, scores too
  dots_no_batch     those of products with weights: scores and all that is no
                    product are computed again
  save_all_but_mlp  queries, keys, values, what attention found and what the MLP
                    reads: the MLP's first products are computed again
  save_all_but_up   these, and the F columns of the MLP's gate: of its first
                    products one is computed again. Without a gate it is the
                    one before
  save_branches     what attention found and what the MLP reads
  save_attention    what attention found. With a kernel its forward half is then
                    not run again
  full              nothing: a whole forward pass is run again

Chen et al. (2016), https://arxiv.org/abs/1604.06174, have the idea; names are
those of `jax.checkpoint_policies` where it has one.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from posttrain_jax.core.types import Array

__all__ = ['ATTENTION', 'GATE', 'MLP', 'POLICIES', 'QKV', 'mark', 'word']

# Names of arrays in a layer.
QKV = 'attention_qkv'
ATTENTION = 'attention_out'
MLP = 'mlp_in'
GATE = 'mlp_gate'

_policies = jax.checkpoint_policies
_named = _policies.save_only_these_names

# None: everything is kept.
POLICIES: dict[str, Callable | None] = {
  'none': None,
  'full': _policies.nothing_saveable,
  'dots': _policies.dots_saveable,
  'dots_no_batch': _policies.dots_with_no_batch_dims_saveable,
  'save_attention': _named(ATTENTION),
  'save_branches': _named(ATTENTION, MLP),
  'save_all_but_mlp': _named(QKV, ATTENTION, MLP),
  'save_all_but_up': _named(QKV, ATTENTION, MLP, GATE),
}


def word(value: bool | str) -> str:
  """The name of what runs before these names said by True or False."""
  if isinstance(value, bool):
    return 'full' if value else 'none'
  return value


def mark(x: Array, name: str) -> Array:
  """x under a name that a policy may keep; nothing else happens to it."""
  return checkpoint_name(x, name)
