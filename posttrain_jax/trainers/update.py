"""The one place where gradients are taken: exact under any split of the rows.

A batch is cut into minibatches (one optimizer update each); a minibatch into
micro-batches, whose gradients are added. Every term of the objective is divided
once, by the count of its whole minibatch, so micro-batching changes nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from posttrain_jax import masked, sharding, trees
from posttrain_jax.trainers.objective import Objective
from posttrain_jax.types import Array, Batch, PyTree, TrainState

# Metrics of the whole minibatch take the largest token, not the mean.
MAX_METRICS = ('sampling/sampling_logp_difference',)


def split_rows(batch: PyTree, parts: int) -> PyTree:
  """Every array [R, ...] as [parts, R / parts, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch
  )


def make_gradient(
  objective: Objective, microbatch_rows: int
) -> Callable[[PyTree, Batch], tuple[PyTree, dict[str, Array]]]:
  """(params, minibatch) -> (gradient, metrics), exact for any micro-batch."""

  def loss_fn(params, batch, counts):
    terms, metrics = objective.evaluate(params, batch)
    total, values = 0.0, {}
    for name, token_loss in terms.items():
      values[name] = objective.reduce(token_loss, batch.mask)[0] / counts
      total = total + objective.coefs[name] * values[name]
    sums = {k: masked.sum(v, batch.mask) for k, v in metrics.items()}
    tops = {k: masked.maximum(metrics[k], batch.mask) for k in metrics
            if k in MAX_METRICS}  # fmt: skip
    return total, (total, values, sums, tops)

  def gradient(params: PyTree, batch: Batch):
    rows = batch.tokens.shape[0]
    _, counts = objective.reduce(jnp.zeros_like(batch.mask), batch.mask)
    counts = jnp.maximum(counts, 1.0)
    parts = 1 if microbatch_rows == 0 else rows // microbatch_rows
    value_and_grad = jax.grad(loss_fn, has_aux=True)
    if parts == 1:
      grads, aux = value_and_grad(params, batch, counts)
    else:

      def body(total, micro):
        grads, aux = value_and_grad(params, sharding.rows(micro), counts)
        return jax.tree.map(jnp.add, total, grads), aux

      zeros = jax.tree.map(jnp.zeros_like, params)
      grads, aux = jax.lax.scan(body, zeros, split_rows(batch, parts))
      total, values, sums, tops = aux
      add = lambda tree: jax.tree.map(lambda x: x.sum(0), tree)
      aux = add(total), add(values), add(sums), jax.tree.map(jnp.max, tops)
    total, values, sums, tops = aux
    tokens = masked.count(batch.mask)
    metrics = {name: total / tokens for name, total in sums.items()}
    metrics |= {f'{name}/mean': metrics.pop(name) for name in tops}
    metrics |= {f'{name}/max': top for name, top in tops.items()}
    # A lone term is the loss itself; several are told apart.
    if len(values) > 1:
      metrics |= {f'loss/{name}': value for name, value in values.items()}
    return grads, {'loss': total, **metrics}

  return gradient


def make_update(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  sizes: Any,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """`update(state, batch, key) -> (state, metrics)`: all updates of one step.

  sizes  .minibatch_rows, .microbatch_rows (0: not split), .updates_per_rollout
         (passes over the batch; prompts are shuffled from the second one on),
         .group_size (rows of one prompt, next to each other)

  Metrics are means over the minibatches; those that compare the learner with
  the sampler are of the first one, before anything has moved.
  """
  gradient = make_gradient(objective, sizes.microbatch_rows)

  def one(carry, minibatch):
    params, opt_state = carry
    grads, metrics = gradient(params, sharding.rows(minibatch))
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    metrics['grad_norm'] = trees.global_norm(grads)
    return (params, opt_state), metrics

  def update(state: TrainState, batch: Batch, key: Array):
    rows = batch.tokens.shape[0]
    parts = rows // (sizes.minibatch_rows or rows)
    carry = (state.params, state.opt_state)
    if parts == 1 and sizes.updates_per_rollout == 1:
      carry, metrics = one(carry, batch)
    else:

      def epoch(carry, index):
        # Groups move as one: some reductions are over a prompt's group.
        groups = jnp.arange(rows).reshape(-1, sizes.group_size)
        mixed = jax.random.permutation(jax.random.fold_in(key, index), groups)
        order = jnp.where(index == 0, groups, mixed).reshape(-1)
        shuffled = jax.tree.map(lambda x: x[order], batch)
        return jax.lax.scan(one, carry, split_rows(shuffled, parts))

      carry, stacked = jax.lax.scan(
        epoch, carry, jnp.arange(sizes.updates_per_rollout)
      )
      metrics = {
        name: x[0, 0] if name.startswith('sampling/') else jnp.mean(x)
        for name, x in stacked.items()
      }
    params, opt_state = carry
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    )
    return state, metrics

  return update
