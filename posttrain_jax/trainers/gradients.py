"""Gradients of parts of a loss, where a controller reads them.

A loss of which nothing asks more than its gradient is one backward pass. Where
a controller names 'grad_norm/PART' or 'grad_dot/PART/PART', there is one
backward pass for each part of the loss, over one forward pass, and the loss's
gradient is their weighted sum.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.types import Array, PyTree, TrainState

__all__ = ['TOWARD', 'Parts', 'each', 'measured', 'weighed']

# The gradient that is given from outside: of rows that nothing trains on.
TOWARD = 'valid'

Weight = Callable[[TrainState], Any]


@dataclasses.dataclass(frozen=True)
class Parts:
  """A loss as sum over parts of weight * (sum over terms of coef * term).

  of     {part: (weight, {term: coefficient within the part})}; every term is in
         one part
  reads  metrics of gradients to make: 'grad_norm/PART', 'grad_dot/PART/PART',
         names of a product in the order of the alphabet; a part may be TOWARD
  """

  of: Mapping[str, tuple[Weight, Mapping[str, Weight]]]
  reads: frozenset[str]

  def __post_init__(self):
    known = {*self.of, TOWARD}
    for name in self.reads:
      kind, *named = name.split('/')
      fits = len(named) == {'grad_norm': 1, 'grad_dot': 2}.get(kind, 0)
      if not fits or not set(named) <= known or named != sorted(named):
        raise ValueError(
          f'a controller reads "{name}"; gradients are known of '
          f'{", ".join(sorted(known))}, as "grad_norm/PART" and '
          '"grad_dot/PART/PART" in the order of the alphabet'
        )

  @property
  def toward(self) -> bool:
    """Whether the gradient from outside is read."""
    return any(TOWARD in name.split('/') for name in self.reads)

  def values(self, state: TrainState, terms: Mapping[str, Array]) -> Array:
    """[number of parts] of the values of terms."""
    return jnp.stack(
      [
        sum(coef(state) * terms[term] for term, coef in within.items())
        + jnp.zeros(())
        for _, within in self.of.values()
      ]
    )


def each(
  loss_parts: Callable[..., tuple[Array, Any]], params: PyTree, *given: Any
) -> tuple[list[PyTree], Any]:
  """(the gradient of each number of loss_parts(params, *given), its aux)."""
  values, back, aux = jax.vjp(
    lambda params: loss_parts(params, *given), params, has_aux=True
  )
  return [back(row)[0] for row in jnp.eye(len(values), dtype=values.dtype)], aux


def weighed(
  parts: Parts, state: TrainState, grads: Mapping[str, PyTree]
) -> PyTree:
  """The gradient of the loss from those of its parts."""
  weights = {name: weight(state) for name, (weight, _) in parts.of.items()}

  def total(*leaves):
    added = sum(w * x for w, x in zip(weights.values(), leaves, strict=True))
    return added.astype(leaves[0].dtype)

  return jax.tree.map(total, *(grads[name] for name in weights))


def measured(
  parts: Parts, grads: Mapping[str, PyTree], toward: PyTree = None
) -> dict[str, Array]:
  """{metric: scalar} of `parts.reads`.

  toward  the gradient from outside, where it is read

  Raises:
    ValueError: it is read, and there is none.
  """
  if parts.toward and toward is None:
    raise ValueError(
      f'a controller reads the gradient of "{TOWARD}", and none is given'
    )
  known = {**grads, TOWARD: toward}
  out = {}
  for name in sorted(parts.reads):
    kind, *named = name.split('/')
    found = [known[x] for x in named]
    if kind == 'grad_norm':
      out[name] = jnp.sqrt(_dot(found[0], found[0]))
    else:
      out[name] = _dot(*found)
  return out


def _dot(first: PyTree, second: PyTree) -> Array:
  """Inner product over all leaves, accumulated in float32."""
  wide = lambda x: x.astype(jnp.float32)
  products = jax.tree.map(
    lambda a, b: jnp.sum(wide(a) * wide(b)), first, second
  )
  return sum(jax.tree.leaves(products), start=jnp.zeros((), jnp.float32))
