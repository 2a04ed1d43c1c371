"""Floating-point operations of a traced function.

Counted from the jaxpr, where loops say how often they turn: XLA's own
`cost_analysis` counts the body of a loop once. Products of matrices alone, as
peaks are of these; a product of [.., K] and [K, ..] is 2 K operations for each
number that it makes.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core

__all__ = ['Counted', 'count']


@dataclasses.dataclass
class Counted:
  """What was found in a jaxpr.

  total    FLOPs, over all devices
  once     the same with every loop taken once
  unknown  loops with products in them whose turns nothing says: taken as
           `turns` of `count`
  """

  total: float = 0.0
  once: float = 0.0
  unknown: int = 0

  def add(self, other: 'Counted', times: float = 1.0) -> None:
    """Adds what is done `times` over."""
    self.total += times * other.total
    self.once += other.once
    self.unknown += other.unknown


def count(jaxpr: Any, turns: float = 1.0) -> Counted:
  """The FLOPs of a (closed) jaxpr.

  turns  of a loop whose end nothing says, with products in it
  """
  return _count(getattr(jaxpr, 'jaxpr', jaxpr), turns, {})


def _size(shape: Any) -> float:
  return float(math.prod(shape))


def _product(eqn: Any) -> float:
  """FLOPs of one equation that multiplies matrices; 0 of all others."""
  name = eqn.primitive.name
  if name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    shape = eqn.invars[0].aval.shape
    inner = _size(shape[axis] for axis in contracted)
    return 2.0 * inner * _size(eqn.outvars[0].aval.shape)
  if name in ('ragged_dot', 'ragged_dot_general'):
    # Each row meets the matrix of its group, and no other.
    rows, inner = eqn.invars[0].aval.shape[-2:]
    return 2.0 * rows * inner * eqn.invars[1].aval.shape[-1]
  if name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    out = eqn.params['dimension_numbers'].rhs_spec[0]
    return 2.0 * _size(eqn.outvars[0].aval.shape) * _size(kernel) / kernel[out]
  return 0.0


def _inner(value: Any) -> Iterator[Any]:
  """Jaxprs among the parameters of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _inner(item)


Known = dict[Any, int]  # whole numbers that are known before the program runs


def _known(atom: Any, known: Known) -> int | None:
  if isinstance(atom, core.Literal):
    whole = np.ndim(atom.val) == 0 and np.issubdtype(
      np.asarray(atom.val).dtype, np.integer
    )
    return int(atom.val) if whole else None
  return known.get(atom)


def _turns(eqn: Any, known: Known) -> float | None:
  """How often a loop turns; None: nothing says.

  A counter below a known number, or below another that is not known: those are
  loops of one turn or none (`guard.once`) and the steps of one call
  (`drivers.make_chunk`), of which a plan counts one. What a counter ends at is
  known from then on.
  """
  cond = eqn.params['cond_jaxpr'].jaxpr
  shift = eqn.params['cond_nconsts']
  begin = shift + eqn.params['body_nconsts']
  outer = [*eqn.invars[:shift], *eqn.invars[begin:]]
  inside: Known = {}
  for var, atom in zip(cond.invars[:shift], outer):
    value = _known(atom, known)
    if value is not None:
      inside[var] = value
  for inner in cond.eqns:
    if inner.primitive.name != 'lt' or inner.invars[0] not in cond.invars:
      continue
    left, right = inner.invars
    place, end = cond.invars.index(left) - shift, _known(right, inside)
    if end is not None:
      first = _known(eqn.invars[begin + place], known) or 0
      known[eqn.outvars[place]] = end
      return float(max(end - first, 0))
    if right in cond.invars:
      return 1.0
  return None


def _while(eqn: Any, turns: float, known: Known) -> Counted:
  body = _count(eqn.params['body_jaxpr'].jaxpr, 1.0, {})
  found = _turns(eqn, known)
  if found is None:
    body.unknown += bool(body.total)
    found = turns
  out = Counted()
  out.add(body, found)
  return out


def _largest(branches: Any, turns: float) -> Counted:
  return max(
    (_count(branch.jaxpr, turns, {}) for branch in branches),
    key=lambda counted: counted.total,
  )


# Equations that pass a whole number on.
_SAME = ('convert_element_type', 'copy', 'copy_p', 'squeeze', 'reshape')


def _live(jaxpr: Any) -> list[Any]:
  """The equations that something reads. A policy of `jax.checkpoint` leaves
  others behind, as a kernel whose results were all kept, inside a call of its
  own: no compiler runs them."""
  read = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
  found = []
  for eqn in reversed(jaxpr.eqns):
    if eqn.effects or any(var in read for var in eqn.outvars):
      found.append(eqn)
      read |= {var for var in eqn.invars if not isinstance(var, core.Literal)}
  return found[::-1]


def _count(jaxpr: Any, turns: float, known: Known) -> Counted:
  out = Counted()
  for eqn in _live(jaxpr):
    name, params = eqn.primitive.name, eqn.params
    if name in _SAME and not eqn.outvars[0].aval.shape:
      value = _known(eqn.invars[0], known)
      if value is not None:
        known[eqn.outvars[0]] = value
    here = _product(eqn)
    out.total += here
    out.once += here
    if name == 'while':
      out.add(_while(eqn, turns, known))
    elif name == 'scan':
      out.add(_count(params['jaxpr'].jaxpr, turns, {}), params['length'])
    elif name == 'cond':
      out.add(_largest(params['branches'], turns))
    elif name == 'pallas_call':
      out.add(_kernel(eqn, turns))
    elif name == 'shard_map':
      shards = _size(params['mesh'].shape[axis] for axis in _manual(params))
      for inner in _inner(params['jaxpr']):
        out.add(_count(inner, turns, {}), shards)
    else:
      for inner in _distinct(eqn):
        out.add(_count(inner, turns, _passed(eqn, inner, known)))
  return out


def _manual(params: dict[str, Any]) -> Any:
  """Axes of a mesh that a `shard_map` splits its arrays over; those of the
  others are whole inside. jax has called them by two names."""
  for name in ('newly_manual_axes', 'manual_axes'):
    if name in params:
      return params[name]
  raise ValueError(f'shard_map names no axes; it has {", ".join(params)}')


def _distinct(eqn: Any) -> list[Any]:
  """The jaxprs that an equation runs: of those that define its derivative
  none, as what is traced has been differentiated."""
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    if key in eqn.params:
      return list(_inner(eqn.params[key]))
  return [x for value in eqn.params.values() for x in _inner(value)]


def _passed(eqn: Any, inner: Any, known: Known) -> Known:
  """What is known inside a call of what is known outside."""
  if len(inner.invars) != len(eqn.invars):
    return {}
  pairs = zip(inner.invars, (_known(x, known) for x in eqn.invars))
  return {var: value for var, value in pairs if value is not None}


def _kernel(eqn: Any, turns: float) -> Counted:
  """A Pallas kernel: what its author says of it, else its grid."""
  cost = eqn.params.get('cost_estimate')
  out = Counted()
  if cost is not None and cost.flops:
    out.total = out.once = float(cost.flops)
    return out
  grid = getattr(eqn.params.get('grid_mapping'), 'grid', ())
  for inner in _inner(eqn.params['jaxpr']):
    out.add(_count(inner, turns, {}), _size(grid))
  return out
