"""The one place where gradients are taken: exact under any split of the rows.

A batch is cut into minibatches (one optimizer update each); a minibatch into
micro-batches, whose gradients are added. Every term of the objective is divided
once, by the count of its whole minibatch, so micro-batching changes nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from posttrain_jax.core import masked, sharding, trees
from posttrain_jax.core.types import Array, Batch, PyTree, TrainState
from posttrain_jax.models import adapted, dropout
from posttrain_jax.trainers import gradients, guard, optim
from posttrain_jax.trainers.objective import Ahead, Objective

# Metrics of the whole minibatch take the largest token, not the mean.
MAX_METRICS = ('sampling/sampling_logp_difference',)


def split_rows(batch: PyTree, parts: int) -> PyTree:
  """Every array [R, ...] as [parts, R / parts, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch
  )


def _at_size(grad: Callable, objective: Objective) -> Callable:
  """`grad` on no more tokens than there are, where prompts are shared."""
  shared = objective.shared
  if shared is None or shared.parts == 1:
    return grad

  def chosen(params, state, batch, counts, key):
    branches = [
      functools.partial(grad, size=size) for size in shared.sizes(batch)
    ]
    return jax.lax.switch(
      shared.choice(batch), branches, params, state, batch, counts, key
    )

  return chosen


def _make_take(objective: Objective) -> Callable:
  """(trained, state, batch, counts, key, size=None) -> (gradient, aux); or the
  gradient of each of `objective.parts`, by name."""
  apart = objective.parts

  def loss_fn(trained, state, batch, counts, key, size=None):
    params = adapted.join(trained, state.params)
    if key is not None:
      params = dropout.dropped(params, key)
    sized = {} if size is None else {'size': size}
    sums, metrics = objective.evaluate(params, state, batch, **sized)
    total, values = 0.0, {}
    for name, term in sums.items():
      values[name] = term / counts[name]
      total = total + objective.coef(state, name) * values[name]
    means = {
      name: (masked.sum(x, mask), jnp.sum(mask))
      for name, (x, mask) in metrics.items()
    }
    tops = {
      name: masked.maximum(*metrics[name])
      for name in metrics
      if name in MAX_METRICS
    }
    scalar = total if apart is None else apart.values(state, values)
    return scalar, (total, values, means, tops)

  def take(trained, *given, **sized):
    if apart is None:
      return jax.grad(loss_fn, has_aux=True)(trained, *given, **sized)
    # One backward pass a part; the loss's own gradient is made of them below.
    of_parts = functools.partial(loss_fn, **sized)
    grads, aux = gradients.each(of_parts, trained, *given)
    return dict(zip(apart.of, grads, strict=True)), aux

  return take


def make_gradient(
  objective: Objective, microbatch_rows: int, specs: PyTree = None
) -> Callable[..., tuple[PyTree, dict[str, Array]]]:
  """(params, state, minibatch, key=None, toward=None) -> (gradient, metrics),
  for any micro-batch.

  params  those that are trained: `adapted.trained` of the state's, all of them
          where it has no adapters; what is frozen is read from the state
  specs   PartitionSpecs of the parameters, by which gradients are split too

  key     of what adapters with dropout leave out; None: nothing
  toward  a gradient from outside, where `objective.parts` reads one

  `state` is the one before the step; the objective may read its models. With
  `objective.ahead` gradient and metrics are of the parameters one step ahead.
  """
  apart, ahead = objective.parts, objective.ahead
  lead = None if ahead is None else _make_lead(ahead, microbatch_rows, specs)
  place = lambda tree: sharding.as_declared(tree, specs)

  def placed(grads):
    if apart is None:
      return place(grads)
    return {part: place(tree) for part, tree in grads.items()}

  def gradient(
    params: PyTree,
    state: TrainState,
    batch: Batch,
    key: Array | None = None,
    toward: PyTree = None,
  ):
    key = key if dropout.drops(state.params) else None
    seen: dict[str, Array] = {}
    if lead is not None:
      params, seen = lead(params, state, batch, key)
    rows = batch.tokens.shape[0]
    counts = {
      name: jnp.maximum(count, 1.0)
      for name, count in objective.count(batch).items()
    }
    parts = 1 if microbatch_rows == 0 else rows // microbatch_rows
    grad = _at_size(_make_take(objective), objective)
    if parts == 1:
      grads, aux = grad(params, state, batch, counts, key)
      grads = placed(grads)
    else:

      def body(total, given):
        micro, own = given
        grads, aux = grad(params, state, sharding.rows(micro), counts, own)
        return placed(jax.tree.map(jnp.add, total, placed(grads))), aux

      zeros = jax.tree.map(jnp.zeros_like, params)
      zeros = placed(zeros if apart is None else dict.fromkeys(apart.of, zeros))
      split = None if key is None else jax.random.split(key, parts)
      given = (split_rows(batch, parts), split)
      grads, aux = jax.lax.scan(body, zeros, given)
      *added, tops = aux
      added = jax.tree.map(lambda x: x.sum(0), added)
      aux = *added, jax.tree.map(jnp.max, tops)
    total, values, means, tops = aux
    metrics = {
      name: value / jnp.maximum(count, 1.0)
      for name, (value, count) in means.items()
    }
    metrics |= {f'{name}/mean': metrics.pop(name) for name in tops}
    metrics |= {f'{name}/max': top for name, top in tops.items()}
    # A lone term is the loss itself; several are told apart.
    if len(values) > 1:
      metrics |= {f'loss/{name}': value for name, value in values.items()}
    if apart is not None:
      metrics |= gradients.measured(apart, grads, toward)
      grads = place(gradients.weighed(apart, state, grads))
    return grads, {'loss': total, **metrics, **seen}

  return gradient


def _make_lead(
  ahead: Ahead, microbatch_rows: int, specs: PyTree
) -> Callable[..., tuple[PyTree, dict[str, Array]]]:
  """(params, state, minibatch, key) -> (params one step ahead, metrics of what
  the step goes along, at the parameters themselves)."""
  gradient = make_gradient(ahead.goal, microbatch_rows, specs)

  def lead(params: PyTree, state: TrainState, batch: Batch, key: Array | None):
    grads, metrics = gradient(params, state, batch, key)
    step = lambda x, g: x + (ahead.rate * g).astype(x.dtype)
    moved = sharding.as_declared(jax.tree.map(step, params, grads), specs)
    metrics |= {'value': metrics.pop('loss')}
    metrics |= {'grad_norm': trees.global_norm(grads)}
    return moved, {f'{ahead.name}/{name}': x for name, x in metrics.items()}

  return lead


def make_update(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  sizes: Any,
  specs: PyTree = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`update(state, batch, key, toward=None) -> (state, metrics)`: all updates
  of one step; `toward` as in `make_gradient`.

  sizes  .minibatch_rows, .microbatch_rows (0: not split), .updates_per_rollout
         (passes over the batch; prompts are shuffled from the second one on),
         .group_size (rows of one prompt, next to each other)
  specs  PartitionSpecs of the parameters: gradients, moments and new parameters
         are split by them

  Metrics are means over the minibatches; those that compare the learner with
  the sampler are of the first one, before anything has moved. A step's only
  update is not made where it is not finite (`guard`, whose metric it then has).
  """
  gradient = make_gradient(objective, sizes.microbatch_rows, specs)

  def one(before, alone, key, toward, carry, minibatch):
    own = key
    if dropout.drops(before.params):
      own = jax.random.fold_in(key, optim.updates_done(carry[1]))
    rows = sharding.rows(minibatch)
    grads, metrics = gradient(carry[0], before, rows, own, toward)
    metrics['grad_norm'] = trees.global_norm(grads)

    def moved(carry, grads):
      trained, opt_state = carry
      updates, opt_state = optimizer.update(grads, opt_state, trained)
      moved = optax.apply_updates(trained, updates), opt_state
      return sharding.as_declared(moved, specs)

    if not (alone and guard.on()):
      return moved(carry, grads), metrics
    # Looked at first: what is made to be looked at is not kept.
    what = guard.verdict(metrics, moved(carry, grads)[0])
    metrics[guard.WHAT] = what
    return guard.once(what == 0, moved, carry, grads), metrics

  def update(
    state: TrainState, batch: Batch, key: Array, toward: PyTree = None
  ):
    rows = batch.tokens.shape[0]
    parts = rows // (sizes.minibatch_rows or rows)
    carry = (adapted.trained(state.params), state.opt_state)
    alone = parts == 1 and sizes.updates_per_rollout == 1
    train = functools.partial(one, state, alone, key, toward)
    if alone:
      carry, metrics = train(carry, batch)
    else:

      def epoch(carry, index):
        # Groups move as one: some reductions are over a prompt's group.
        groups = jnp.arange(rows).reshape(-1, sizes.group_size)
        mixed = jax.random.permutation(jax.random.fold_in(key, index), groups)
        order = jnp.where(index == 0, groups, mixed).reshape(-1)
        shuffled = jax.tree.map(lambda x: x[order], batch)
        return jax.lax.scan(train, carry, split_rows(shuffled, parts))

      carry, stacked = jax.lax.scan(
        epoch, carry, jnp.arange(sizes.updates_per_rollout)
      )
      metrics = {
        name: x[0, 0] if name.startswith('sampling/') else jnp.mean(x)
        for name, x in stacked.items()
      }
    trained, opt_state = carry
    state = state.replace(
      step=state.step + 1,
      params=adapted.join(trained, state.params),
      opt_state=opt_state,
    )
    return state, metrics

  return update
