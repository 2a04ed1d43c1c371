"""The arrays that methods ask for by name, and who makes them.

A loss or a token weight says what it needs beyond the signals by keyword
arguments without a default, and what it reads of the signals by reading it.
`core.arrays` is the table of those names; here they are made: before the
update by a model that scores the rows once, or inside it, from the trained
parameters. The others came with the rows (`Batch.extras`).
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import arrays as named
from posttrain_jax.core import masked
from posttrain_jax.core.resolve import arrays_of, nearest
from posttrain_jax.core.types import Array, Batch, TokenSignals, TrainState
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers.objective import score

__all__ = [
  'check',
  'inside',
  'make_prepare',
  'optional_of',
  'roles',
  'signals_read_by',
]


def _example(name: str) -> Any:
  """Something to trace a method with in place of an array."""
  if name == 'key':
    return jax.eval_shape(lambda: jax.random.key(0))
  if name == 'tokens':
    return jax.ShapeDtypeStruct((2, 3), jnp.int32)
  sizes = {'B': 2, 'T': 3, 'V': 5, 'D': 4}
  shape = tuple(sizes[axis] for axis in named.shape(name) or 'BT')
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _plain(function: Callable) -> Callable:
  return getattr(function, 'func', function)


def optional_of(function: Callable) -> list[str]:
  """Arrays that a token weight uses where there are any (default None)."""
  parameters = inspect.signature(_plain(function)).parameters.values()
  return [
    p.name
    for p in parameters
    if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is None
  ]


def signals_read_by(function: Callable) -> frozenset[str]:
  """Which fields of TokenSignals a loss or a token weight reads.

  Found by tracing it once over a record of its own field accesses, so that a
  new method needs no second declaration.
  """
  read: set[str] = set()

  class Recorder(TokenSignals):
    def __getattribute__(self, name: str):
      if name in TokenSignals.__dataclass_fields__:
        read.add(name)
      return object.__getattribute__(self, name)

  fields = {name: _example(name) for name in TokenSignals.__dataclass_fields__}
  extras = {name: _example(name) for name in arrays_of(_plain(function))}

  def trace(mask, fields, extras):
    return function(Recorder(**fields), mask, **extras)

  jax.eval_shape(trace, _example('mask'), fields, extras)
  return frozenset(read)


def check(names: Iterable[str], provided: Iterable[str], who: str) -> None:
  """Raises ValueError for an array that nobody makes, naming the method."""
  provided = set(provided)
  made = {*named.scored_by(), *named.inside_update()}
  for name in sorted(names):
    if name not in provided | made:
      raise ValueError(
        f'"{who}" needs the array "{name}", which the rows of this source do '
        f'not carry.{nearest(name, provided)}'
      )
    if name == 'wrong_logps' and 'wrong' not in provided:
      raise ValueError(
        f'"{who}" compares with wrong answers: take '
        'collect.name="oracle_with_wrong"'
      )


def roles(names: Iterable[str], provided: Iterable[str]) -> set[str]:
  """Models besides the trained one that these arrays are scored by."""
  role_of, given = named.scored_by(), set(provided)
  found = {role_of[n] for n in names if n in role_of and n not in given}
  if 'ref_logits' in names:
    found.add('ref')
  return found - {'policy'}


def _scores_of(name: str, logps: Array, mask: Array) -> Array:
  if name == 'ref_scores':
    return masked.mean(logps, mask, axis=1)
  return logps


def make_prepare(
  names: Iterable[str],
  provided: Iterable[str],
  models: dict[str, ModelConfig],
  temperature: float = 1.0,
) -> Callable[[TrainState, Batch], Batch]:
  """`prepare(state, batch)`: the batch with what models score before it.

  models  {role: ModelConfig} with 'policy' and 'ref'
  """
  role_of, given = named.scored_by(), set(provided)
  wanted = sorted(n for n in names if n in role_of and n not in given)

  def prepare(state: TrainState, batch: Batch) -> Batch:
    by_role: dict[str, Array] = {}
    fields, extras = {}, dict(batch.extras)
    for name in wanted:
      role = role_of[name]
      if role not in by_role:
        signals = score(state.model(role), models[role], batch, temperature)
        by_role[role] = jax.lax.stop_gradient(signals.logps)
      made = _scores_of(name, by_role[role], batch.mask)
      if name in ('ref_logps', 'old_logps'):
        fields[name] = made
      else:
        extras[name] = made
    return batch.replace(**fields, extras=extras)

  return prepare


def inside(
  names: Iterable[str],
  optional: Iterable[str],
  params: Any,
  state: TrainState,
  batch: Batch,
  models: dict[str, ModelConfig],
) -> dict[str, Array]:
  """The arrays that a loss takes as keyword arguments, for this batch."""
  out = {}
  for name in names:
    if name in batch.extras:
      out[name] = batch.extras[name]
    elif name == 'tokens':
      out[name] = batch.tokens
    elif name == 'key':
      # Rows carry random words: a row draws the same in any micro-batch.
      out[name] = jax.vmap(jax.random.key)(batch.extras['seed'])
    elif name == 'ref_logits':
      signals = score(state.model('ref'), models['ref'], batch, logits=True)
      out[name] = jax.lax.stop_gradient(signals.logits)
    elif name == 'wrong_logps':
      signals = score(params, models['policy'], batch.extras['wrong'])
      out[name] = jax.lax.stop_gradient(signals.logps)
  out |= {n: batch.extras[n] for n in optional if n in batch.extras}
  return out
