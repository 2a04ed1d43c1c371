"""The step of all trainers but RL's: rows, scores, update, refresh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, sharding
from posttrain_jax.core.types import Array, Batch, TrainState

__all__ = ['make_learn', 'make_refresh', 'make_step']

Metrics = dict[str, Array]


def make_refresh(
  every: int, mixup: float
) -> Callable[[TrainState], TrainState]:
  """Moves the reference to the policy after every `every` steps.

  every  0: the reference never moves
  mixup  share of the policy in the new reference; 1 replaces it

  The reference is then the policy of an earlier iteration: SPIN's opponent,
  expert iteration's sampler, or the moving reference of Gorbatovski et al.
  (2024), https://arxiv.org/abs/2404.09656, at mixup < 1.
  """

  def refresh(state: TrainState) -> TrainState:
    if not every or state.ref_params is None:
      return state
    now = state.step % every == 0
    share = jnp.where(now, mixup, 0.0)

    def mixed(ref, policy):
      # Selected, so that a whole replacement is exact.
      new = jnp.where(share >= 1.0, policy, ref + share * (policy - ref))
      return jnp.where(now, new, ref).astype(ref.dtype)

    return state.replace(
      ref_params=jax.tree.map(mixed, state.ref_params, state.params)
    )

  return refresh


def make_learn(
  update: Callable,
  prepare: Callable[[TrainState, Batch], Batch],
  refresh: Callable[[TrainState], TrainState],
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
  """`learn(state, batch, key)`: everything of a step but making its rows.

  update   from `update.make_update`
  prepare  adds what frozen models say of the rows
  """

  def learn(state: TrainState, batch: Batch, key: Array):
    update_key, seed_key = jax.random.split(key)
    seeds = jax.random.bits(seed_key, batch.mask.shape[:1])
    batch = batch.replace(extras={**batch.extras, 'seed': seeds})
    batch = sharding.rows(prepare(state, sharding.rows(batch)))
    state, metrics = update(state, batch, update_key)
    return refresh(state), {
      **metrics,
      'num_tokens': masked.count(batch.mask),
    }

  return learn


def make_step(
  learn: Callable, collect: Callable | None, seed: int
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """`step(state, key)` with rows from `collect`, else `step(state, batch)`.

  learn    from `make_learn`
  collect  (state, key) -> (Batch, metrics)
  seed     of the randomness of a step that is given its batch
  """

  def on_batch(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    return learn(state, batch, key)

  def on_key(state: TrainState, key: Array):
    collect_key, learn_key = jax.random.split(key)
    batch, metrics = collect(state, collect_key)
    state, learnt = learn(state, batch, learn_key)
    return state, {**learnt, **metrics}

  return on_batch if collect is None else on_key
