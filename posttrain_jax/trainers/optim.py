"""Optimizers and schedules from a config, as optax transformations."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from posttrain_jax.core import trees
from posttrain_jax.core.resolve import active, nearest
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.trainers import optim_moments

SCHEDULES = ('constant', 'linear', 'cosine')
OPTIMIZERS = ('adamw', 'sgd', 'lion')
# Norm weights and biases are not pulled to zero, nor lengths of columns.
NO_DECAY = 'norm|bias|magnitude'
# The second matrices of adapters.
SECOND = re.compile(r'.*/b')


def warmup_of(config: Any, num_updates: int) -> int:
  """Updates in which the rate rises: `warmup_ratio` of all of them, rounded up
  as transformers does it, or `warmup_updates`.

  Raises:
    ValueError: more than the run has.
  """
  if config.warmup_ratio > 0:
    return math.ceil(config.warmup_ratio * num_updates)
  warmup = config.warmup_updates
  if not 0 <= warmup <= num_updates:
    raise ValueError(
      f'optimizer.warmup_updates={warmup} is not in 0..{num_updates}, the '
      'updates of this run; optimizer.warmup_ratio=0.1 is a tenth of any'
    )
  return warmup


def make_schedule(config: Any, num_updates: int):
  """Multiplier of the learning rate by optimizer update: warmup, then decay.

  config  .schedule, .final_fraction (of the peak, at the end), and what
          `warmup_of` reads

  Raises:
    ValueError: unknown schedule, or a warmup that is longer than the run.
  """
  if config.schedule not in SCHEDULES:
    raise ValueError(
      f'unknown optimizer.schedule "{config.schedule}".'
      + nearest(config.schedule, SCHEDULES)
    )
  warmup = warmup_of(config, num_updates)
  decay, final = max(num_updates - warmup, 1), config.final_fraction
  after = {
    'constant': lambda: optax.constant_schedule(1.0),
    'linear': lambda: optax.linear_schedule(1.0, final, decay),
    'cosine': lambda: optax.cosine_decay_schedule(1.0, decay, final),
  }[config.schedule]()
  if warmup == 0:
    return after
  # The first update already moves: 1/warmup, 2/warmup, ..., 1.
  rise = lambda count: (count + 1.0) / warmup
  return optax.join_schedules([rise, after], [warmup])


def make_optimizer(
  config: Any,
  params: PyTree,
  num_updates: int,
  lr: Array | float | None = None,
  b_rate: Array | float | None = None,
  specs: Mapping[str, PartitionSpec] | None = None,
) -> optax.GradientTransformation:
  """A pull to the start, clipping, optimizer, weight decay, schedule and frozen
  parameters.

  config       the `optimizer` part of a run's config; `lr`, `weight_decay`,
               `l2_to_start`, `b1`, `b2`, `eps` and `final_fraction` may be
               traced (sweeps)
  params       those that are trained (or their shapes), for the regex masks
  num_updates  optimizer updates of the whole run
  lr           the peak learning rate where `config.lr` is no number ('auto')
  b_rate       learning rate of the second matrices of adapters over that of all
               else (LoRA+), may be traced; None: there are none
  specs        {path: how a parameter is split}: where moments are kept in 8
               bits, their blocks lie within what a device has

  Raises:
    ValueError: unknown name, or a freeze pattern that matches nothing.
  """
  if config.name not in OPTIMIZERS:
    raise ValueError(
      f'unknown optimizer.name "{config.name}".'
      + nearest(config.name, OPTIMIZERS)
    )
  schedule = make_schedule(config, num_updates)
  decayed = trees.map_by_path(
    lambda name, _: not re.search(NO_DECAY, name), params
  )
  direction = {
    'adamw': lambda: optax.scale_by_adam(config.b1, config.b2, config.eps),
    'lion': lambda: optax.scale_by_lion(config.b1, config.b2),
    'sgd': lambda: optax.trace(config.b1),
  }[config.name]()
  direction = optim_moments.stored(direction, config.moments, specs)
  steps = []
  if active(config.l2_to_start):
    steps.append(_pulled_to_start(config.l2_to_start))
  if config.max_grad_norm > 0 and math.isfinite(config.max_grad_norm):
    steps.append(_clipped(config.max_grad_norm))
  steps.append(direction)
  if active(config.weight_decay):
    steps.append(optax.add_decayed_weights(config.weight_decay, decayed))
  peak = config.lr if lr is None else lr
  steps.append(optax.scale_by_schedule(lambda count: -peak * schedule(count)))
  if b_rate is not None:
    steps.append(_second_matrices_at(b_rate))
  optimizer = optax.chain(*steps)
  if not config.freeze:
    return optimizer
  labels = trees.map_by_path(
    lambda _, frozen: 'frozen' if frozen else 'trained',
    trees.regex_mask(params, tuple(config.freeze)),
  )
  # Frozen parameters have no moments, no decay and no share in the norm.
  return optax.multi_transform(
    {'trained': optimizer, 'frozen': optax.set_to_zero()}, labels
  )


def _pulled_to_start(coef: Array | float) -> optax.GradientTransformation:
  """Adds the gradient of coef/2 |parameters - start|^2, the start being those
  that `init` sees: a term of the loss, so before clipping and moments.

  Reference: Li et al. (2018), https://arxiv.org/abs/1802.01483 eq. 2 (L2-SP)
  """

  def add(updates: PyTree, start: PyTree, params: PyTree | None = None):
    pull = lambda g, now, then: g + (coef * (now - then)).astype(g.dtype)
    return jax.tree.map(pull, updates, params, start), start

  # A copy: the step gives its parameters up.
  return optax.GradientTransformation(lambda p: jax.tree.map(jnp.copy, p), add)


def _clipped(max_norm: Array | float) -> optax.GradientTransformation:
  """Gradients whose global norm is at most `max_norm`.

  As optax's, but scaled by a product: XLA computes a quotient that several
  results need once, and keeps it, which is one more copy of the parameters.
  """

  def clip(updates: PyTree, _: Any) -> PyTree:
    norm = optax.global_norm(updates)
    scale = jnp.where(norm < max_norm, 1.0, max_norm / norm)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates)

  return optax.stateless(clip)


def _second_matrices_at(rate: Array | float) -> optax.GradientTransformation:
  """Multiplies the updates of the second matrices of adapters."""

  def faster(name: str, x: Array) -> Array:
    return x * rate if SECOND.fullmatch(name) else x

  return optax.stateless(lambda updates, _: trees.map_by_path(faster, updates))


def updates_done(opt_state: PyTree) -> Array:
  """[] int32, optimizer updates that a state of `make_optimizer` has seen."""
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
  leaves = jax.tree.leaves(opt_state, is_leaf=is_schedule)
  return next(x.count for x in leaves if is_schedule(x))
