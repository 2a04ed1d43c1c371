"""The shape of a weight change: how large, how sparse, of which rank, where.

  spectra(params, base_params)    {name: scalar} over all matrices
  per_layer(params, base_params)  {path: {name: [L]}} of each, for plots

The weights of all layers are stacked on axis 0, [L, ...]; a matrix that is not
of a layer counts as one of a single layer. Of attention projections the heads
are one axis: query [D, H K], output [H K, D]. Norms and biases are no matrices:
they count in `relative_norm` and `changed` of a whole model only.

  relative_norm   |change| / |base|, Frobenius
  changed         share of the parameters that moved by more than `tolerance`
  stable_rank     |change|^2 / (largest singular value)^2
  effective_rank  exp of the entropy of the singular values' shares
  top_energy      share of |change|^2 in the largest eighth of singular values
  overlap_left    share of the change's k main directions that lies in the span
  overlap_right   of the base's k main ones, among columns (left singular
                  vectors) and rows; by chance k / rows and k / columns

A matrix that did not change has 0 everywhere.

Reference: Roy & Vetterli (2007), The effective rank; Mukherjee et al. (2025),
https://arxiv.org/abs/2505.11711, for `changed`; Hu et al. (2021),
https://arxiv.org/abs/2106.09685, section 7, for the overlap of subspaces
"""

import functools

import jax
import jax.numpy as jnp

from posttrain_jax.core import trees

__all__ = ['MEASURES', 'per_layer', 'spectra']

Array = jax.Array
PyTree = dict

MEASURES = (
  'relative_norm',
  'changed',
  'stable_rank',
  'effective_rank',
  'top_energy',
  'overlap_left',
  'overlap_right',
)


def spectra(
  params: PyTree, base_params: PyTree, *, tolerance: float = 1e-5, top: int = 0
) -> dict[str, Array]:
  """The measures above, averaged over matrices; two are of all parameters.

  Args:
    params: trained parameters.
    base_params: those they were trained from, of the same structure.
    tolerance: a parameter moved if it did by more than this, in its own unit.
    top: k main directions; 0 = an eighth of the singular values.

  Raises:
    ValueError: two different structures, or one without matrices.
  """
  found = per_layer(params, base_params, tolerance=tolerance, top=top)
  if not found:
    raise ValueError(
      'no matrices in the parameters: ' + ', '.join(trees.names(params))
    )
  metrics = {
    name: jnp.mean(jnp.concatenate([row[name] for row in found.values()]))
    for name in MEASURES
  }
  change = jax.tree.map(_difference, params, base_params)
  moved = sum(
    jnp.sum(jnp.abs(x) > tolerance, dtype=jnp.float32)
    for x in jax.tree.leaves(change)
  )
  return metrics | {
    'relative_norm': _ratio(
      trees.global_norm(change), trees.global_norm(base_params)
    ),
    'changed': moved / trees.count(params),
  }


def per_layer(
  params: PyTree, base_params: PyTree, *, tolerance: float = 1e-5, top: int = 0
) -> dict[str, dict[str, Array]]:
  """The measures of every matrix: {path: {name: [L]}}.

  Arguments are those of `spectra`.

  Raises:
    ValueError: two different structures.
  """
  if jax.tree.structure(params) != jax.tree.structure(base_params):
    extra = set(trees.names(params)) ^ set(trees.names(base_params))
    raise ValueError(
      'params and base_params are not of one structure; they differ in: '
      + ', '.join(sorted(extra))
    )
  measure = jax.vmap(functools.partial(_matrix, tolerance=tolerance, top=top))
  found = {}
  pairs = zip(
    trees.names(params), jax.tree.leaves(params), jax.tree.leaves(base_params)
  )
  for path, leaf, base in pairs:
    stack = _stack(path, base)
    if stack is not None:
      change = _difference(leaf, base)
      found[path] = measure(change.reshape(stack.shape), stack)
  return found


def _difference(leaf: Array, base: Array) -> Array:
  # bfloat16 weights have to be subtracted as float32.
  return leaf.astype(jnp.float32) - base.astype(jnp.float32)


def _ratio(a: Array, b: Array) -> Array:
  return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


def _stack(path: str, leaf: Array) -> Array | None:
  """Matrices [L, rows, columns] of a parameter, or None: it holds vectors."""
  parts = path.split('/')
  if parts[-1].endswith(('_norm', '_bias')):
    return None
  layered = parts[0] == 'layers'
  shape = leaf.shape if layered else (1, *leaf.shape)
  if len(shape) < 3:
    return None
  # The output projection is the one that reads from heads.
  rows = 3 if parts[-1] == 'output' else 2
  size = 1
  for axis in shape[1:rows]:
    size *= axis
  return leaf.astype(jnp.float32).reshape(shape[0], size, -1)


def _matrix(
  change: Array, base: Array, *, tolerance: float, top: int
) -> dict[str, Array]:
  count = min(change.shape)
  k = min(top, count) if top else max(1, count // 8)
  left, values, right = jnp.linalg.svd(change, full_matrices=False)
  base_left, _, base_right = jnp.linalg.svd(base, full_matrices=False)
  energy = jnp.square(values)
  share = _ratio(values, jnp.sum(values))
  # A share of 0 has no entropy; its logarithm must not be taken.
  entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)))
  # A change of lower rank than k has fewer directions to compare.
  real = values[:k] > 1e-6 * values[0]
  directions = jnp.maximum(jnp.sum(real), 1)
  spanned = lambda a, b: jnp.sum(jnp.square(a @ b) * real[None]) / directions
  return {
    'relative_norm': _ratio(jnp.linalg.norm(change), jnp.linalg.norm(base)),
    'changed': jnp.mean((jnp.abs(change) > tolerance).astype(jnp.float32)),
    'stable_rank': _ratio(jnp.sum(energy), energy[0]),
    'effective_rank': jnp.where(values[0] > 0, jnp.exp(entropy), 0.0),
    'top_energy': _ratio(
      jnp.sum(energy[: max(1, count // 8)]), jnp.sum(energy)
    ),
    'overlap_left': spanned(base_left[:, :k].T, left[:, :k]),
    'overlap_right': spanned(base_right[:k], right[:k].T),
  }
