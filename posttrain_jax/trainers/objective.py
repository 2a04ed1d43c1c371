"""What an update minimises: named terms, each with its own sum and count."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core.resolve import arrays_of, resolve
from posttrain_jax.core.types import (
  Array,
  Batch,
  PyTree,
  TokenSignals,
  TrainState,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.trainers.gradients import Parts
from posttrain_jax.trainers.shared import Shared

__all__ = [
  'Ahead',
  'Metrics',
  'Objective',
  'Sums',
  'bind',
  'count_with',
  'score',
  'with_mask',
]

Sums = dict[str, Array]
# {name: (values, mask)}, both [R, T] or both [number of pairs]
Metrics = dict[str, tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Objective:
  """Terms of a loss: sum over them of coef * (sum / count).

  evaluate  (params, state, batch) -> (Sums, Metrics); `params` are trained,
            `state` is the one before the step: its models are frozen
  count     (batch) -> {term: count}; of masks alone, so that the count of a
            whole minibatch is known before any micro-batch
  coefs     {term: coefficient}: a number, or (state) -> number
  shared    prompts that rows share; `evaluate` then takes `size`, one of
            `shared.sizes(batch)`
  parts     the terms in groups, where something reads their gradients; None:
            only that of the whole loss is taken
  ahead     where the gradient is taken; None: at the parameters
  """

  evaluate: Callable[[PyTree, TrainState, Batch], tuple[Sums, Metrics]]
  count: Callable[[Batch], dict[str, Array]]
  coefs: Mapping[str, float | Callable[[TrainState], Array]]
  shared: Shared | None = None
  parts: Parts | None = None
  ahead: 'Ahead | None' = None

  def coef(self, state: TrainState, term: str) -> Array | float:
    """The coefficient of a term in this step."""
    coef = self.coefs[term]
    return coef(state) if callable(coef) else coef


@dataclasses.dataclass(frozen=True)
class Ahead:
  """Parameters one step ahead, where the gradient of a loss is taken.

  goal  the step is `rate` times its gradient: up where `rate` is positive
  rate  may be traced
  name  what its metrics begin with

  The loss's gradient there is applied to the parameters as they are. None is
  taken of the step itself: first order.
  """

  goal: Objective
  rate: Array | float
  name: str


def bind(
  room: Any,
  part: Any,
  skip: tuple[str, ...] = (),
  supplied: tuple[str, ...] = (),
) -> functools.partial:
  """The function that a config part {name, **hparams} names, bound.

  skip      keys of the part that are the caller's, not the function's
  supplied  keyword arrays that the caller will pass

  Raises:
    ValueError: unknown name or hyperparameter, or a function that needs an
      array which this trainer does not have.
  """
  hparams = {k: v for k, v in dict(part).items() if k not in ('name', *skip)}
  function = resolve(room, part['name'], **hparams)
  for array in arrays_of(function.func):
    if array not in supplied:
      raise ValueError(
        f'"{part["name"]}" needs the array "{array}", which this trainer does '
        'not compute; call the function from your own step'
      )
  return function


def score(
  params: PyTree,
  config: ModelConfig,
  batch: Batch,
  temperature: float | Array | Callable[..., Array] = 1.0,
  *,
  shared: Shared | None = None,
  size: int | None = None,
  **wanted: Any,
) -> TokenSignals:
  """What a model says of the rows of a batch, and what the batch carries.

  shared, size  prompts that rows share, and one of `shared.sizes(batch)`
  """
  if shared is not None:
    signals = shared.score(params, config, batch, temperature, size, **wanted)
  else:
    signals = transformer.token_logps(
      params,
      config,
      batch.tokens,
      batch.mask,
      temperature,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
      context=batch.guide,
      **wanted,
    )
  return signals.replace(old_logps=batch.old_logps, ref_logps=batch.ref_logps)


def count_with(reduce: Callable, *terms: str) -> Callable:
  """An Objective's `count` for terms that one token reduction averages."""

  def count(batch: Batch) -> dict[str, Array]:
    _, counted = reduce(jnp.zeros_like(batch.mask), batch.mask)
    return dict.fromkeys(terms, counted)

  return count


def with_mask(metrics: dict[str, Array], mask: Array) -> Metrics:
  """Detached metrics, each with the mask that it is averaged over."""
  return {
    name: (jax.lax.stop_gradient(values), mask)
    for name, values in metrics.items()
  }
