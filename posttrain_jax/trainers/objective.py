"""What an update minimises: named terms, each with its own sum and count."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.losses import (
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.resolve import arrays_of, resolve
from posttrain_jax.types import Array, Batch, PyTree, TokenSignals

__all__ = ['Objective', 'make_policy_gradient', 'make_supervised']


@dataclasses.dataclass(frozen=True)
class Objective:
  """Terms of a loss: sum over them of coef * (sum / count).

  evaluate   (params, batch) -> ({term: token_loss [B, T]},
                                 {metric: array [B, T]})
  reduce     (token_loss, mask) -> (sum, count); the count depends on the mask
             alone, so that the global one is known before any micro-batch
  coefs      {term: coefficient}
  """

  evaluate: Callable[[PyTree, Batch], tuple[dict, dict]]
  reduce: Callable[[Array, Array], tuple[Array, Array]]
  coefs: dict[str, float]


def bind(
  room: Any,
  part: Any,
  skip: tuple[str, ...] = (),
  supplied: tuple[str, ...] = (),
) -> Callable:
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


def signals_read_by(loss: Callable) -> frozenset[str]:
  """Which fields of TokenSignals a supervised loss reads.

  Found by tracing it once over a record of its own field accesses, so that a
  new method needs no second declaration.
  """
  read: set[str] = set()

  class Recorder(TokenSignals):
    def __getattribute__(self, name: str):
      if name in TokenSignals.__dataclass_fields__:
        read.add(name)
      return object.__getattribute__(self, name)

  grid = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  cube = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
  fields = {name: grid for name in TokenSignals.__dataclass_fields__}
  fields |= {name: cube for name in fields if name.endswith('logits')}

  def trace(mask, **arrays):
    return loss(Recorder(**arrays), mask)

  jax.eval_shape(trace, grid, **fields)
  return frozenset(read)


def _score(
  params: PyTree,
  config: ModelConfig,
  batch: Batch,
  temperature: float,
  **wanted: bool,
) -> TokenSignals:
  signals = transformer.token_logps(
    params,
    config,
    batch.tokens,
    batch.mask,
    temperature,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
    **wanted,
  )
  return signals.replace(old_logps=batch.old_logps, ref_logps=batch.ref_logps)


def _trl_names(metrics: dict[str, Array]) -> dict[str, Array]:
  """The rooms' clip marks under the names that TRL logs their means by."""
  out = dict(metrics)
  sides = [out.pop(f'clip_{side}', None) for side in ('low', 'high')]
  for side, clipped in zip(('low', 'high'), sides):
    if clipped is not None:
      out[f'clip_ratio/{side}_mean'] = clipped
  if all(side is not None for side in sides):
    out['clip_ratio/region_mean'] = sides[0] + sides[1]
  return out


def _weighted(token_loss: Array, batch: Batch) -> Array:
  return token_loss if batch.weights is None else token_loss * batch.weights


def make_supervised(config: Any, model: ModelConfig) -> Objective:
  """A loss on demonstrations: `config.loss`, averaged by `config.reduce`."""
  loss = bind(supervised, config.loss)
  read = signals_read_by(loss)
  absent = sorted(read & {'ref_logps', 'old_logps', 'values'})
  if absent:
    raise ValueError(
      f'"{config.loss.name}" reads {", ".join(absent)}, which SFT batches do '
      'not hold; call the function from your own step'
    )
  wants_logits = 'logits' in read

  def evaluate(params: PyTree, batch: Batch):
    signals = _score(
      params, model, batch, 1.0, entropy=True, logits=wants_logits
    )
    token_loss, metrics = loss(signals, batch.mask)
    metrics = {
      **metrics,
      'entropy': jax.lax.stop_gradient(signals.entropy),
      'mean_token_accuracy': signals.is_top,
      'nll': jax.lax.stop_gradient(-signals.logps),
    }
    return {'loss': _weighted(token_loss, batch)}, metrics

  return Objective(evaluate, bind(reduce, config.reduce), {'loss': 1.0})


def make_policy_gradient(config: Any, model: ModelConfig) -> Objective:
  """`config.loss` and, where their coefficients are not 0, a KL term to the
  reference, an entropy bonus and a value loss."""
  loss = bind(policy_gradient, config.loss)
  penalty = bind(regularizers, config.kl, ('coef',), ('old_logps',))
  corrected = 'old_logps' in arrays_of(penalty.func)
  coefs: dict[str, float] = {'policy': 1.0}
  if config.kl.coef:
    coefs['kl'] = config.kl.coef
  if config.entropy_coef:
    coefs['entropy'] = -config.entropy_coef
  if model.value_head:
    coefs['value'] = config.value_loss.coef
    value_loss = bind(value, config.value_loss, skip=('coef',))
  temperature = config.decoder.temperature

  def evaluate(params: PyTree, batch: Batch):
    signals = _score(params, model, batch, temperature, entropy=True)
    token_loss, metrics = loss(
      signals.logps, batch.old_logps, batch.advantages, batch.mask
    )
    terms = {'policy': _weighted(token_loss, batch)}
    if 'kl' in coefs:
      extra = {'old_logps': batch.old_logps} if corrected else {}
      terms['kl'], kl_metrics = penalty(
        signals.logps, batch.ref_logps, batch.mask, **extra
      )
      metrics = {**metrics, **kl_metrics}
    if 'entropy' in coefs:
      terms['entropy'] = signals.entropy
    if 'value' in coefs:
      terms['value'], value_metrics = value_loss(
        signals.values, batch.returns, batch.old_values, batch.mask
      )
      metrics = {**metrics, **value_metrics}
    gap = jnp.abs(signals.logps - batch.old_logps)
    metrics = {
      **_trl_names(metrics),
      'entropy': signals.entropy,
      'sampling/sampling_logp_difference': gap,
    }
    return terms, jax.lax.stop_gradient(metrics)

  return Objective(evaluate, bind(reduce, config.reduce), coefs)
